"""How this process keeps its memory."""

from __future__ import annotations

import ctypes
import platform

# Of glibc's malloc.h: how much free memory makes the heap give some back, and how many blocks may stand outside it.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> None:
    """Let what one training step frees serve the next, where the C library is glibc.

    By itself glibc gives large blocks back to the system when they are freed, and a tenth of a step on the CPU is then
    spent on being given zeroed pages again. Changes no result. Memory may grow by the gaps that uneven blocks leave:
    nothing on amazon-beauty, a quarter with a million items.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, LARGEST_INT)
