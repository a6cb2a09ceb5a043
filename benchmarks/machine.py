"""The machine: its name, its memory, and how fast it multiplies matrices."""

from __future__ import annotations

import platform
import re
from math import nan
from pathlib import Path
from time import perf_counter

import psutil
import torch

from recbole_diffusion.evaluation.environment import peak_memory

# Rows of the square matrices whose product gives the peak, by kind of device.
PEAK_SIZE = {"cpu": 2048, "cuda": 8192}
PEAK_ROUNDS = 12


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_peak(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Operations a second of the best of some large square matrix products."""
    size = PEAK_SIZE.get(device.type, 2048)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator).to(device, dtype) for _ in range(2))
    product = torch.empty_like(a)
    seconds = []
    for _ in range(PEAK_ROUNDS):
        synchronise(device)
        begin = perf_counter()
        torch.mm(a, b, out=product)
        synchronise(device)
        seconds.append(perf_counter() - begin)
    return 2 * size**3 / min(seconds)


def device_name(device: torch.device) -> str:
    """Model of the GPU, or of the CPU, and torch's threads."""
    threads = f"{torch.get_num_threads()} torch threads"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {threads}"
    return f"{_cpu_name()}, {psutil.cpu_count()} logical cores, {threads}"


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else None
    return found[1] if found else platform.processor() or platform.machine()


def rss_mb() -> float:
    """Resident memory of this process now, in 10^6 bytes."""
    return psutil.Process().memory_info().rss / 1e6


def peak_rss_mb() -> float:
    """The most resident memory that this process had, in 10^6 bytes."""
    peak = peak_memory()
    return nan if peak is None else peak / 1e6
