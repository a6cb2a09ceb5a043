from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from recbole_diffusion.common.signals import Ended, described, signals_interrupt


@pytest.fixture(params=[signal.SIGTERM, signal.SIGHUP])
def number(request: pytest.FixtureRequest) -> Iterator[signal.Signals]:
    """A signal that ends the process; under nohup SIGHUP would not."""
    before = signal.signal(request.param, signal.SIG_DFL)
    yield request.param
    signal.signal(request.param, before)


def test_what_would_end_the_process_interrupts_it(number: signal.Signals) -> None:
    cleaned = False
    with pytest.raises(KeyboardInterrupt) as caught, signals_interrupt():
        try:
            os.kill(os.getpid(), number)
            # The system may hand the signal to another thread, which would not wake this one from `signal.pause`.
            for _ in range(1000):
                time.sleep(0.01)
        finally:
            cleaned = True
    assert cleaned and isinstance(caught.value, Ended) and caught.value.name == number.name
    assert signal.getsignal(number) == signal.SIG_DFL


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_interrupt():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_another_thread_changes_nothing() -> None:
    def enter() -> None:
        with signals_interrupt():
            seen.append(signal.getsignal(signal.SIGTERM))

    seen: list[object] = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


def test_a_signal_has_its_name_and_what_it_means() -> None:
    assert described(signal.SIGTERM) == "SIGTERM"
    assert described(signal.SIGKILL) == "SIGKILL, as the system does when memory runs out"
