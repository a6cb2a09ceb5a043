"""How many threads a run computes with: those of torch, or fewer where other processes use the cores."""

from __future__ import annotations

import functools
import logging
import os

import psutil
import torch

# Seconds over which the use of the cores is measured.
LOOK = 0.3

logger = logging.getLogger(__name__)


@functools.cache
def free_threads() -> int:
    """Threads of torch, but no more than cores are free; measured once, so that all runs of a process are alike.

    More threads than free cores wait for each other and make a run several times slower. OMP_NUM_THREADS says how many
    whatever is free.
    """
    usual = torch.get_num_threads()
    if "OMP_NUM_THREADS" in os.environ:
        return usual
    use = psutil.cpu_percent(LOOK, percpu=True)
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(use))
    free = sum(1 - use[core] / 100 for core in mine if core < len(use))
    return max(1, min(usual, round(free)))


def use_threads(number: int | None) -> None:
    """Compute with `number` threads from here on, or with `free_threads`; say so where these are not all."""
    usual = torch.get_num_threads()
    chosen = free_threads() if number is None else number
    if chosen != usual:
        torch.set_num_threads(chosen)
        if number is None:
            logger.info("threads: %d, as other processes use the cores; --threads=%d takes all", chosen, usual)
