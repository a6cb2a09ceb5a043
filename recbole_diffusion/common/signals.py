"""Signals that end a process: all of them do what an interrupt does, so that nothing is left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Ended(KeyboardInterrupt):
    """A signal has ended the process.

    Parameters
    ----------
    number : int
        Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.name = signal.Signals(number).name


def described(number: int) -> str:
    """The name of a signal that has ended a process, and what it often means."""
    name = signal.Signals(number).name
    return f"{name}, as the system does when memory runs out" if name == "SIGKILL" else name


def _end(number: int, frame: FrameType | None) -> NoReturn:
    raise Ended(number)


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Raise `Ended`, a `KeyboardInterrupt`, where SIGTERM or SIGHUP would end the process without a word.

    A signal that the caller ignores (nohup) or handles stays as it is, and so do all outside of the main thread.
    """
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [number for name in names if signal.getsignal(number := getattr(signal, name)) == signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():
        numbers = []
    for number in numbers:
        signal.signal(number, _end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
