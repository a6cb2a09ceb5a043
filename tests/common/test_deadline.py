from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

import psutil
import pytest

from recbole_diffusion.common.deadline import SETTING, Deadline
from recbole_diffusion.errors import OutOfTime, SettingError

START = psutil.Process().create_time()


def test_minutes_count_from_the_start_of_the_process() -> None:
    assert Deadline.read("15").at == pytest.approx(START + 900)
    assert Deadline.read("0.5").at == pytest.approx(START + 30)


@pytest.mark.parametrize("hours", [-2, 3])
def test_a_time_of_day_is_the_first_after_the_start(hours: int) -> None:
    expected = datetime.fromtimestamp(START) + timedelta(hours=hours)
    end = datetime.fromtimestamp(Deadline.read(expected.strftime("%H:%M")).at or 0)
    assert (end.hour, end.minute, end.second) == (expected.hour, expected.minute, 0)
    assert timedelta() < end - datetime.fromtimestamp(START) <= timedelta(days=1)


def test_another_process_reads_the_same_end() -> None:
    deadline = Deadline(START + 1234.5)
    assert Deadline.read(deadline.text()).at == pytest.approx(deadline.at, abs=1e-5)
    assert deadline.sooner(34.5).at == START + 1200
    assert Deadline().text() is None and Deadline().sooner(5) == Deadline.read(None) == Deadline()


@pytest.fixture
def zone() -> Iterator[Callable[[str], None]]:
    """Sets the time zone of this process until the test ends."""
    with pytest.MonkeyPatch.context() as patch:

        def choose(name: str) -> None:
            patch.setenv("TZ", name)
            time.tzset()

        yield choose
    time.tzset()


def test_a_machine_in_another_time_zone_reads_the_same_end(zone: Callable[[str], None]) -> None:
    zone("EST5")
    text = Deadline(START + 100).text()
    zone("JST-9")
    assert Deadline.read(text).at == pytest.approx(START + 100, abs=1e-5)


def test_what_does_not_fit_is_not_begun() -> None:
    Deadline().require(1e9, "it")
    assert Deadline().left() == math.inf
    deadline = Deadline(time.time() + 100)
    deadline.require(80, "it")
    with pytest.raises(OutOfTime, match=r"deadline: (99|100) s are left, and the next epoch takes 95 s"):
        deadline.require(95, "the next epoch")
    with pytest.raises(OutOfTime, match="deadline: no time is left"):
        Deadline(time.time() - 1).require(0, "it")


@pytest.mark.parametrize("value", ["0", "-3", "soon", "25:00", "8:99", "nan", "1e300", ""])
def test_mistakes_are_named(value: str) -> None:
    with pytest.raises(SettingError, match="deadline must be minutes such as 15, or a time of day such as 08:40, got"):
        SETTING.check("deadline", value)


@pytest.mark.parametrize("value", ["15", "0.5", "08:40", "23:59", "2026-11-27T08:40:00.500", None])
def test_ways_to_say_it(value: str | None) -> None:
    SETTING.check("deadline", value)
