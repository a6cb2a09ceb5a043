"""`python -m benchmarks.start`: seconds from the command to the first training step, as JSON."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch

from benchmarks.command import print_measured
from benchmarks.machine import device_name
from recbole_diffusion.cli.exit_codes import run_command
from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.environment import versions

ROUNDS = 3

HELP = f"""\
Start `recbole-diffusion train` {ROUNDS} times, each time until its first training step is done.

usage: python -m benchmarks.start --model=NAME --dataset=NAME [--config_files=FILE] [--KEY=VALUE ...]
"""
# The command, which ends at its first step.
CHILD = """\
import os, sys
from torch.optim.optimizer import register_optimizer_step_post_hook
from recbole_diffusion.cli.main import main

def ended(*_):
    print("the first step is done", flush=True)
    os._exit(0)

register_optimizer_step_post_hook(ended)
sys.exit(main(sys.argv[1:]))
"""


def seconds_to_step(flags: Sequence[str]) -> float:
    """Seconds that a new process takes to its first training step.

    Raises
    ------
    UserError
        Where it ends before.
    """
    begin = perf_counter()
    command = [sys.executable, "-c", CHILD, "train", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("the first step"):
                return perf_counter() - begin
        why = process.stderr.read().strip().splitlines()
    raise UserError(f"no step was made: {why[-1] if why else 'the command ended before'}")


def measure(config_files: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Time the command's start.

    Returns
    -------
    dict
        Plain data: the seconds of each start in turn, of which the first may have to read files from the disk and to
        parse the data, and their median.

    Raises
    ------
    UserError
    """
    with TemporaryDirectory() as folder:
        nowhere = {"checkpoint_dir": folder, "log_dir": "None", "tensorboard_dir": "None", "show_progress": "False"}
        flags = [f"--{key}={value}" for key, value in {**settings, **nowhere}.items()]
        files = [f"--config_files={' '.join(config_files)}"] if config_files else []
        seconds = [round(seconds_to_step([*flags, *files]), 2) for _ in range(ROUNDS)]
    return {
        "settings": dict(settings),
        "seconds": seconds,
        "median_s": median(seconds),
        "versions": versions(),
        "device": device_name(torch.device("cpu")),
    }


def run(argv: Sequence[str]) -> None:
    """Do what the command line says, as `print_measured`."""
    print_measured("python -m benchmarks.start", HELP, measure, argv)


if __name__ == "__main__":
    sys.exit(run_command(lambda: run(sys.argv[1:]), debug="--debug" in sys.argv))
