"""`python -m benchmarks.prefix_form`: an epoch of ADRec against one of its prefix form, by the clock, in turn."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, ClassVar

from benchmarks.command import print_measured
from benchmarks.machine import device_name, synchronise
from benchmarks.timing import spread_batches
from recbole_diffusion.cli.exit_codes import run_command
from recbole_diffusion.host.loaders import epoch_rows
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.model.adrec import ADRec
from recbole_diffusion.training.memory import keep_freed_memory
from recbole_diffusion.training.run import Prepared, prepare

ROUNDS = 3
BATCHES = 3

HELP = f"""\
Time an epoch of ADRec, which trains every place of a history at once, against one of the same network with a row for
each prefix. {BATCHES} batches of each are timed in turn, {ROUNDS} times, and stand for the epoch.

usage: python -m benchmarks.prefix_form --dataset=NAME [--KEY=VALUE ...]
"""


class PrefixADRec(ADRec):
    """ADRec with a training row for each interaction but a user's first, of which the newest place alone is restored.

    Network, losses, settings and inference are ADRec's. As at inference, the earlier places hold their items, clean,
    and the decoder's last block is computed for the newest place alone.
    """

    trains_on: ClassVar[str] = "prefixes"


class Form:
    """One form, ready to train, with a sample of its epoch's batches, spread over the lengths of histories."""

    def __init__(self, model: type, config_files: Sequence[str], settings: Mapping[str, Any]) -> None:
        config = load_config(model, None, config_files, settings)
        self.config = config
        self.prepared: Prepared = prepare(config)
        loader = self.prepared.train_data
        self.rows = epoch_rows(loader)
        indices = spread_batches(loader, BATCHES)
        self.sampled_rows = sum(map(len, indices))
        self.batches = [loader.collate_fn(index) for index in indices]

    def epoch_seconds(self) -> float:
        """Seconds of an epoch, by those of the sample."""
        device = self.config["device"]
        synchronise(device)
        begin = perf_counter()
        self.prepared.trainer._train_epoch(self.batches, 0)
        synchronise(device)
        return (perf_counter() - begin) * self.rows / self.sampled_rows


def measure(config_files: Sequence[str], settings: Mapping[str, Any], rounds: int = ROUNDS) -> dict[str, Any]:
    """Time both forms in turn.

    Returns
    -------
    dict
        Plain data: rows of an epoch and seconds of each round by form, and what the seconds are to each other.
    """
    with TemporaryDirectory() as folder:
        nowhere = {"checkpoint_dir": folder, "log_dir": None, "tensorboard_dir": None}
        every, prefixes = (Form(form, config_files, {**settings, **nowhere}) for form in (ADRec, PrefixADRec))
        # A first step costs more than those that follow.
        for form in (every, prefixes):
            form.prepared.trainer._train_epoch(form.batches[:1], 0)
        seconds = [(every.epoch_seconds(), prefixes.epoch_seconds()) for _ in range(rounds)]
    ratios = [of_prefixes / of_places for of_places, of_prefixes in seconds]
    config = every.config
    return {
        "dataset": config["dataset"],
        "rows": {"places": every.rows, "prefixes": prefixes.rows},
        "epoch_s": {
            "places": [round(of_places, 1) for of_places, _ in seconds],
            "prefixes": [round(of_prefixes, 1) for _, of_prefixes in seconds],
        },
        "times_as_quick": {"median": round(median(ratios), 1), "rounds": [round(ratio, 1) for ratio in ratios]},
        "settings": {
            key: config[key]
            for key in ("hidden_size", "n_layers", "decoder_layers", "train_batch_size", "MAX_ITEM_LIST_LENGTH", "seed")
        },
        "device": device_name(config["device"]),
    }


def run(argv: Sequence[str]) -> None:
    """Do what the command line says, as `print_measured`."""
    print_measured("python -m benchmarks.prefix_form", HELP, measure, argv)


if __name__ == "__main__":
    # As the command line's own process does.
    keep_freed_memory()
    sys.exit(run_command(lambda: run(sys.argv[1:]), debug="--debug" in sys.argv))
