"""Processes to be killed: children of one that imports torch for all of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

WORKERS = """
import os, sys
for argument in sys.argv[1:]:
    worker = os.fork()
    if worker == 0:
        sys.exit(work(argument))
    print(worker, flush=True)
for argument in sys.argv[1:]:
    print(os.wait()[0], flush=True)
"""


class Workers:
    """Processes at work, by their numbers; `ended` gives a line with the number of each that has ended."""

    def __init__(self, alive: list[int], ended: TextIO) -> None:
        self.alive, self.ended = alive, ended

    def wait_for(self, holds: Callable[[], object]) -> None:
        """Wait until something holds, while the first is at work."""
        while not holds():
            os.kill(self.alive[0], 0)
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill the first, and wait for its end."""
        os.kill(self.alive[0], signal.SIGKILL)
        assert int(self.ended.readline()) == self.alive.pop(0)


@contextmanager
def workers(code: str, arguments: list[Path]) -> Iterator[Workers]:
    """A process for each argument, which `work(argument)` of the code is given; at the end all are killed."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    command = [sys.executable, "-c", code + WORKERS, *map(str, arguments)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        found = Workers([int(parent.stdout.readline()) for _ in arguments], parent.stdout)
        try:
            yield found
        finally:
            for worker in found.alive:
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
