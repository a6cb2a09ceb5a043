"""Signs of life that processes on several machines give: one whose machine or network is gone is noticed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import torch.distributed as dist

# Seconds between two signs, and of silence until a process counts as lost.
SIGN_EVERY = 5.0
SECONDS_OF_SILENCE = 90.0
# A count that says farewell.
DONE = 2**40


class Pulse:
    """Gives signs of life in a thread, and listens for those of the others in a second one.

    A machine without power, or behind a broken cable, closes no connection: who waits for it waits on. All signs go
    through the store; the first process listens for each of the others, and all listen for the store.

    Parameters
    ----------
    rank, number : int
    store : torch Store
        A connection of its own: one that waits for something answers nobody else.
    lost : callable
        Called with who is silent, in a thread.
    """

    def __init__(self, rank: int, number: int, store: dist.Store, lost: Callable[[str], None]) -> None:
        self.rank, self.number, self.store, self.lost = rank, number, store, lost
        self._ends = threading.Event()
        self._answered = time.monotonic()
        # Of each process that the first listens for, its last count and when that was new.
        self._heard = {other: (0, self._answered) for other in range(1, number) if rank == 0}
        self._talk = threading.Thread(target=self._give_signs, name="pulse", daemon=True)
        for thread in (self._talk, threading.Thread(target=self._listen, name="pulse listens", daemon=True)):
            thread.start()

    def close(self) -> None:
        """Give no more signs: this process is done, and nobody needs to wait for it."""
        self._ends.set()
        self._talk.join(SIGN_EVERY)

    def _give_signs(self) -> None:
        # Without the store, silence tells.
        with suppress(RuntimeError):
            while not self._ends.wait(SIGN_EVERY):
                self.store.add(f"pulse/{self.rank}", 1)
                for other, (before, _) in list(self._heard.items()):
                    count = self.store.add(f"pulse/{other}", 0)
                    if count != before:
                        self._heard[other] = (count, time.monotonic())
                self._answered = time.monotonic()
            self.store.add(f"pulse/{self.rank}", DONE)

    def _listen(self) -> None:
        while not self._ends.wait(SIGN_EVERY):
            since = time.monotonic() - SECONDS_OF_SILENCE
            late = [str(other) for other, (count, at) in self._heard.items() if count < DONE and at < since]
            if late or self._answered < since:
                self.lost(f"process {', '.join(late)} of {self.number}" if late else "the machine of the first process")
                return
