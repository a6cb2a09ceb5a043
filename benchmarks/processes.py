"""`python -m benchmarks.processes`: one training in several processes, by the clock, and what they hold of the data."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter, time
from typing import Any, NamedTuple

import numpy as np
import psutil
import torch.distributed as dist
from recbole.utils import init_seed

from benchmarks.command import print_measured, whole_numbers
from benchmarks.machine import device_name, peak_rss_mb
from benchmarks.scale import DATASET, LENGTH, catalogue, made_up_batch, write_long_tailed
from benchmarks.timing import spread_batches
from recbole_diffusion.cli.exit_codes import run_command
from recbole_diffusion.host.parsing import typed
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.training import launch
from recbole_diffusion.training.memory import keep_freed_memory
from recbole_diffusion.training.run import build_model, prepare
from recbole_diffusion.training.splitting import split_items
from recbole_diffusion.training.threads import use_threads
from recbole_diffusion.training.trainer import build_trainer

# Processes and threads of each that are compared; the first is what the others are measured by.
ARRANGEMENTS = ((1, 2), (1, 1), (2, 1))
ROUNDS = 3
BATCHES = 6
# Numbers of processes whose memory is looked at.
NUMBERS = (1, 2, 4)
# Rows of a training step over a made-up catalogue, and how many such steps are taken.
ROWS = 128
STEPS = 2

HELP = f"""\
Time training steps in one process of two threads, one process of one, and two processes of one each, in turn, {ROUNDS}
times. With --interactions: measure how long 1, 2 and 4 processes of one thread take to start on made-up data of so many
interactions, and the memory that they hold once the first batch is there. With --items: measure the memory of training
steps of {ROWS} rows over a made-up catalogue of so many items, which several processes split.

usage: python -m benchmarks.processes --model=NAME --dataset=NAME [--KEY=VALUE ...]
       python -m benchmarks.processes --model=NAME --interactions=N [--processes=1,2,4] [--KEY=VALUE ...]
       python -m benchmarks.processes --model=NAME --items=N [--processes=1,2,4] [--KEY=VALUE ...]

pss_mb is PSS, in which a page that n processes share counts 1/n in each; peak_rss_mb is the most that a process held.
"""


class Sample:
    """Some batches of a loader, fetched anew each time."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.indices = spread_batches(loader, BATCHES)
        self.rows = sum(map(len, self.indices))

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[Any]:
        return map(self.loader.collate_fn, self.indices)


class Held(NamedTuple):
    """What a process holds.

    pss_mb, peak_mb : float
        PSS now, and the most resident memory that it had.
    ready : float
        When it was ready to be looked at, as seconds of the clock.
    """

    pss_mb: float
    peak_mb: float
    ready: float


def samples_per_s(config: Any, saved: bool) -> float:
    """Rows a second of training steps, fetching included, in each process of a run."""
    with launch.joined(config):
        prepared = prepare(config)
        trainer, sample = prepared.trainer, Sample(prepared.train_data)
        trainer.processes.begin(prepared.model)
        seconds = []
        # A first step costs more than those that follow.
        for _ in range(ROUNDS + 1):
            begin = perf_counter()
            trainer._train_epoch(sample, 0)
            seconds.append(perf_counter() - begin)
        return sample.rows / median(seconds[1:])


def held(config: Any, saved: bool) -> list[Held]:
    """What each process of a run holds once it has its first batch."""
    with launch.joined(config) as processes:
        prepared = prepare(config)
        batches = iter(prepared.train_data)
        next(batches)
        # As training does.
        prepared.trainer.freed_memory.give_back()
        return _looked_at(processes)


def held_by_items(items: int, config: Any, saved: bool) -> list[Held]:
    """What each process of a run holds after training steps over a catalogue of so many items."""
    with launch.joined(config) as processes:
        use_threads(config["threads"])
        init_seed(config["seed"], config["reproducibility"])
        model = build_model(config, catalogue(config, items))
        split_items(config, model)
        trainer = build_trainer(config, model)
        processes.begin(model)
        batch = made_up_batch(config, items, np.full(ROWS, LENGTH))
        trainer._train_epoch([batch] * STEPS, 0)
        return _looked_at(processes)


def _looked_at(processes: Any) -> list[Held]:
    """What each process of a run holds, once all are here."""
    ready = time()
    everyone: list[Any] = [None] * processes.number
    if processes.number > 1:
        dist.all_gather_object(everyone, None)
    mine = Held(psutil.Process().memory_full_info().pss / 1e6, peak_rss_mb(), ready)
    if processes.number == 1:
        return [mine]
    # Until all have looked: those that end leave more of what is shared to the others.
    dist.all_gather_object(everyone, mine)
    dist.barrier()
    return everyone


def _run(config_files: Sequence[str], settings: Mapping[str, Any], processes: int, threads: int, action: Any) -> Any:
    arranged = {**settings, "nproc": processes, "threads": threads}
    return launch.run_processes(load_config(None, None, config_files, arranged), False, action)


def measure_speed(config_files: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Samples a second of each arrangement."""
    found: dict[str, list[float]] = {}
    for _ in range(ROUNDS):
        for processes, threads in ARRANGEMENTS:
            name = f"{processes} x {threads}"
            found.setdefault(name, []).append(_run(config_files, settings, processes, threads, samples_per_s))
    middle = {name: median(rates) for name, rates in found.items()}
    first = next(iter(middle.values()))
    return {
        "samples_per_s": {name: [round(rate, 1) for rate in rates] for name, rates in found.items()},
        "against_first": {name: round(rate / first, 3) for name, rate in middle.items()},
    }


def measure_memory(
    config_files: Sequence[str], settings: Mapping[str, Any], numbers: Sequence[int], action: Any
) -> dict[str, Any]:
    """Seconds from the start until `action` looks at the memory, and what it finds, by number of processes."""
    found = {}
    for number in numbers:
        begin = time()
        everyone = _run(config_files, settings, number, 1, action)
        found[number] = {
            "seconds": round(max(each.ready for each in everyone) - begin, 1),
            "sum_of_pss_mb": round(sum(each.pss_mb for each in everyone)),
            "pss_mb": [round(each.pss_mb) for each in everyone],
            "peak_rss_mb": [round(each.peak_mb) for each in everyone],
        }
    return {"processes": found}


def measure(config_files: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the settings ask for, as plain data: see `HELP`.

    Raises
    ------
    UserError
    """
    chosen = dict(settings)
    interactions = typed("interactions", chosen.pop("interactions", None), "int or ~")
    items = typed("items", chosen.pop("items", None), "int or ~")
    numbers = whole_numbers("processes", chosen.pop("processes", None), NUMBERS)
    with TemporaryDirectory() as folder:
        chosen |= {"checkpoint_dir": folder, "log_dir": None, "tensorboard_dir": None}
        if interactions is not None:
            write_long_tailed(Path(folder), interactions)
            chosen |= {"dataset": DATASET, "data_path": folder}
        elif items is not None:
            chosen |= {"dataset": DATASET, "split_items": True}
        config = load_config(None, None, config_files, chosen)
        parts: dict[str, Any]
        if interactions is not None:
            parts = {"interactions": interactions, **measure_memory(config_files, chosen, numbers, held)}
        elif items is not None:
            action = partial(held_by_items, items)
            parts = {"items": items, "rows": ROWS, **measure_memory(config_files, chosen, numbers, action)}
        else:
            parts = measure_speed(config_files, chosen)
    names = ("model", "dataset", "train_batch_size", "MAX_ITEM_LIST_LENGTH", "hidden_size", "length_batching", "seed")
    return {
        **parts,
        "settings": {key: config[key] for key in names},
        "device": device_name(config["device"]),
    }


def run(argv: Sequence[str]) -> None:
    """Do what the command line says, as `print_measured`."""
    print_measured("python -m benchmarks.processes", HELP, measure, argv)


if __name__ == "__main__":
    # As the command line's own process does.
    keep_freed_memory()
    sys.exit(run_command(lambda: run(sys.argv[1:]), debug="--debug" in sys.argv))
