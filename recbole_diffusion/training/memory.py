"""How a process of our own keeps its memory."""

from __future__ import annotations

import ctypes
import platform

import psutil

# Of glibc's malloc.h: how much free memory makes the heap give some back, and how many blocks may stand outside it.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
LARGEST_INT = 2**31 - 1
# How many times what a step needs may be held.
MOST_HELD = 2

_may_be_kept = False


def keep_freed_memory() -> None:
    """Allow trainings of this process that run on the CPU to keep the memory that they free.

    How the C library keeps memory holds for the whole process, until it ends. So only a program calls this, for the
    process that is its own: the command line does, the library does not.
    """
    global _may_be_kept
    _may_be_kept = True


def is_kept() -> bool:
    """Whether `keep_freed_memory` was called."""
    return _may_be_kept


class FreedMemory:
    """Lets what one training step frees serve the next, where the C library is glibc; changes no result.

    By itself glibc gives large blocks back to the system when they are freed, and a tenth of a step on the CPU is then
    spent on being given zeroed pages again. Kept, they leave gaps where steps differ in size: once more than twice
    what a step needs is held, all that is free goes back.

    Parameters
    ----------
    kept : bool
        False, or a process that `keep_freed_memory` was not called for, leaves the C library as it is.
    """

    def __init__(self, kept: bool) -> None:
        applies = kept and _may_be_kept and platform.libc_ver()[0] == "glibc"
        self._libc = ctypes.CDLL(None) if applies else None
        self._process = psutil.Process()
        # The most that was held, in bytes, after a step that began with nothing kept.
        self._needed = 0
        self._nothing_kept = True
        if self._libc is not None:
            self._libc.mallopt(M_MMAP_MAX, 0)
            self._libc.mallopt(M_TRIM_THRESHOLD, LARGEST_INT)
            # What was done before training may have left gaps.
            self._libc.malloc_trim(0)

    def give_back(self) -> None:
        """Give all that is free back: no step will need what was done between steps again."""
        if self._libc is not None:
            self._libc.malloc_trim(0)

    def after_step(self) -> None:
        """Give all of it back where more than twice what a step needs is held."""
        if self._libc is None:
            return
        held = self._process.memory_info().rss
        if self._nothing_kept:
            self._needed = max(self._needed, held)
        self._nothing_kept = held > MOST_HELD * self._needed
        if self._nothing_kept:
            self.give_back()
