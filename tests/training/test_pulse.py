from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from recbole_diffusion.training import pulse
from recbole_diffusion.training.pulse import Pulse


class Store(Counter[str]):
    """Counts for all processes of a test; `cut` answers nobody any more."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = threading.Event()

    def add(self, key: str, value: int) -> int:
        while self.cut.is_set():
            time.sleep(0.01)
        self[key] += value
        return self[key]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "SIGN_EVERY", 0.02)
    monkeypatch.setattr(pulse, "SECONDS_OF_SILENCE", 0.3)


def pulses(store: Store, number: int) -> tuple[list[Pulse], list[list[str]]]:
    """Pulses of so many processes, and what each of them has lost."""
    lost: list[list[str]] = [[] for _ in range(number)]
    return [Pulse(rank, number, store, lost[rank].append) for rank in range(number)], lost  # type: ignore[arg-type]


def comes(what: Callable[[], object]) -> bool:
    until = time.monotonic() + 5
    while not what() and time.monotonic() < until:
        time.sleep(0.01)
    return bool(what())


def test_nobody_is_lost_who_gives_signs_or_says_farewell() -> None:
    store = Store()
    mine, lost = pulses(store, 3)
    mine[2].close()
    time.sleep(0.6)
    assert lost == [[], [], []]
    for one in mine:
        one.close()


def test_the_first_process_notices_who_is_silent() -> None:
    store = Store()
    lost: list[str] = []
    # Process 1 of 2 gives no sign.
    first = Pulse(0, 2, store, lost.append)  # type: ignore[arg-type]
    assert comes(lambda: lost) and lost == ["process 1 of 2"]
    first.close()


def test_the_others_notice_that_the_store_is_silent() -> None:
    store = Store()
    mine, lost = pulses(store, 2)
    store.cut.set()
    assert comes(lambda: lost[1]) and lost[1] == ["the machine of the first process"]
    store.cut.clear()
    for one in mine:
        one.close()
