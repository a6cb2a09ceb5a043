"""Runs as processes of this machine, which share its cores and GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from ..common.files import read_json
from ..common.signals import described
from ..errors import UserError
from ..host.registry import PACKAGE
from ..training.threads import free_threads
from .jobs import require_no_jobs
from .plan import Run, Variant

# Seconds that the runs have to end in when the comparison is broken off, all of them together.
SECONDS_TO_END = 3


def start_process(run: Run, task: Callable[[Path], int], environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start `python -m MODULE FOLDER`, the module of the task, with its output in the folder's `log.txt`."""
    command = [sys.executable, "-m", task.__module__, str(run.folder)]
    with open(run.folder / "log.txt", "ab") as log:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **environment}
        )


def search_path() -> str:
    """PYTHONPATH by which another process finds this package: it may not be installed."""
    return os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))))


def gpus_for(variant: Variant) -> list[str]:
    """The GPUs that the runs of a row are shared out to, as CUDA_VISIBLE_DEVICES names them; empty for the CPU.

    Those of `gpu_id` where the user has set it, else all that can be seen.
    """
    count = torch.cuda.device_count() if variant.config["use_gpu"] else 0
    names = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
    seen = [name.strip() for name in names.split(",")][:count]
    chosen = variant.settings.get("gpu_id")
    if chosen is None:
        return seen
    # What is out of range was refused when the settings were read.
    return [seen[int(number)] for number in str(chosen).split(",") if number.strip() and int(number) in range(count)]


class Local:
    """Starts runs on this machine; all of them end with it, and keep their last whole epoch.

    Parameters
    ----------
    jobs : int
        Runs at a time. Each gets its part of the free cores, and the GPUs in turn.
    """

    def __init__(self, jobs: int) -> None:
        # No more threads than the command itself may use.
        self.jobs, self.threads = jobs, max(1, free_threads() // jobs)
        self._places: dict[int, subprocess.Popen[bytes]] = {}

    def require_free(self, runs: Sequence[Run]) -> None:
        """Refuse runs that are at work: by a job, or by a process that its command has left behind.

        Raises
        ------
        UserError
        """
        require_no_jobs(runs)
        for run in runs:
            progress = read_json(run.folder / "progress.json")
            if not progress or (run.folder / "record.json").exists():
                continue
            with suppress(psutil.Error):
                # The number may be that of another program by now.
                if any(part.startswith(f"{__package__}.") for part in psutil.Process(progress["pid"]).cmdline()):
                    way_out = f"it ends by itself after its epoch; `kill {progress['pid']}` ends it now"
                    raise UserError(f"{run.folder}: process {progress['pid']} trains {run.title} in it; {way_out}")

    def found(self, runs: Sequence[Run], task: Callable[[Path], int]) -> dict[Run, subprocess.Popen[bytes]]:
        """Runs that an earlier command has started and that go on: none does here."""
        return {}

    def settings(self, run: Run) -> dict[str, Any]:
        """What the run's process is to be set to: it sees a single GPU."""
        return {"gpu_id": "0"} if gpus_for(run.variant) else {}

    def start(self, run: Run, task: Callable[[Path], int]) -> subprocess.Popen[bytes]:
        """Start a run."""
        taken = {place for place, process in self._places.items() if process.poll() is None}
        place = next(place for place in range(self.jobs) if place not in taken)
        environment = {"PYTHONPATH": search_path(), "OMP_NUM_THREADS": str(self.threads)}
        gpus = gpus_for(run.variant)
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
        self._places[place] = start_process(run, task, environment)
        return self._places[place]

    def ended_by(self, run: Run, code: int) -> str:
        """How a process ended that has left no word."""
        log = run.folder / "log.txt"
        if code < 0:
            return f"the process was ended by {described(-code)}; its log is {log}"
        return f"the process ended with {code}; its log is {log}"

    def close(self) -> None:
        """End what is at work, as when the comparison is broken off: what it did is kept."""
        left = [process for process in self._places.values() if process.poll() is None]
        for process in left:
            process.terminate()
        end = time.monotonic() + SECONDS_TO_END
        for process in left:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
