"""What a run ran on, and the memory it took."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from ..common.version import __version__

PACKAGES = ("recbole", "torch", "numpy", "scipy", "pandas")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    ours = {"recbole-diffusion": __version__, "python": platform.python_version()}
    return ours | {package: _version(package) for package in PACKAGES}


def commit_of(file: Path) -> str | None:
    """The commit of the checkout that tracks a file, `-dirty` at its end where anything has changed since, or None."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=file.parent, check=True, capture_output=True, text=True).stdout.strip()

    try:
        # An installed package may lie in a checkout of something else.
        git("ls-files", "--error-unmatch", file.name)
        return git("describe", "--always", "--dirty", "--abbrev=12")
    except (OSError, subprocess.CalledProcessError):
        return None


def seconds_since_start() -> float:
    """How long this process has been running."""
    return time.time() - psutil.Process().create_time()


def machine(device: torch.device) -> dict[str, Any]:
    """The machine in a few words: system, processor cores and threads, memory in bytes, the GPU if `device` is one."""
    return {
        "system": platform.system(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory": psutil.virtual_memory().total,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
    }


def peak_memory() -> int | None:
    """The most memory that this process has held, in bytes; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage, whose figure on Linux begins with that of the process that started this one.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return getattr(psutil.Process().memory_info(), "peak_wset", None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_gpu_memory() -> int | None:
    """The most memory that torch has held on the GPU, in bytes; None without one."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
