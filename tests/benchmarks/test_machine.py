from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import machine


def test_the_peak_counts_a_multiply_add_as_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PEAK_SIZE", {"cpu": 100})
    # The clock moves by a second between begin and end of a product, and by half a second for the best of them.
    steps = iter([1.0] * 2 * (machine.PEAK_ROUNDS - 1) + [0.5] * 2)
    now = [0.0]

    def clock() -> float:
        now[0] += next(steps)
        return now[0]

    monkeypatch.setattr(machine, "perf_counter", clock)
    assert machine.matmul_peak(torch.device("cpu")) == 2 * 100**3 / 0.5


def test_peak_memory_is_not_below_what_was_held() -> None:
    before = machine.rss_mb()
    # New pages, where an array might take memory that other tests have freed.
    held = mmap.mmap(-1, 160_000_000)
    np.frombuffer(held, dtype=np.uint8)[:] = 1
    during = machine.rss_mb()
    assert during >= before + 150
    held.close()
    assert machine.peak_rss_mb() >= during - 1


def test_peak_memory_is_the_process_own() -> None:
    held = np.ones(50_000_000)
    script = "from benchmarks.machine import *; print(peak_rss_mb() - rss_mb())"
    # The benchmarks are in the checkout and not in the wheel.
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert float(done.stdout) < held.nbytes / 1e6 / 2


def test_name_tells_the_threads() -> None:
    assert f"{torch.get_num_threads()} torch threads" in machine.device_name(torch.device("cpu"))
