"""All attackers, as often as is said: `python -m tests.attack --count 10000 --kills 200`."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

# Before torch is imported, else the digits depend on what other processes do.
os.environ["OMP_NUM_THREADS"] = "1"

from tabulate import tabulate

from .attacks import ATTACKS, Attacks
from .processes import PROCESSES, TRAIN, Process, Processes

# Seconds between two lines of progress.
PROGRESS = 30


def count(name: str, attack: Callable[[random.Random], None], seeds: range) -> tuple[str, int, int, str]:
    """Make an attack with each seed; gives a row of the table: its name, tried, failed, the first seeds that failed."""
    failed: list[int] = []
    said = time.monotonic()
    for tried, seed in enumerate(seeds):
        if time.monotonic() > said + PROGRESS:
            said = time.monotonic()
            print(f"{name}: {tried} of {len(seeds)} tried, {len(failed)} failed", flush=True)
        try:
            attack(random.Random(seed))
        except Exception as error:
            failed.append(seed)
            print(f"{name}, seed {seed}: {type(error).__name__}: {' '.join(str(error).split())[:1000]}", flush=True)
    return name, len(seeds), len(failed), " ".join(map(str, failed[:8]))


def main() -> int:
    """Attack; gives 1 where something failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__)
    parser.add_argument("--count", type=int, default=300, help="tries of each attack on what is read")
    parser.add_argument("--kills", type=int, default=12, help="tries of each attack on a whole command")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of a training that is killed")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--only", nargs="*", choices=[*ATTACKS, *PROCESSES], default=[*ATTACKS, *PROCESSES])
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own: what is forked must not have computed anything.
        trained = Process(folder, [*TRAIN, "--epochs=1"]).answer()
        assert trained.code == 0, trained
        model = next(path for path in folder.glob("saved/*.pth") if not path.name.endswith(".last.pth"))
        if set(args.only) & set(PROCESSES):
            processes = Processes(model, args.epochs)
            seeds = range(args.first, args.first + args.kills)
            rows += [count(name, getattr(processes, name), seeds) for name in PROCESSES if name in args.only]
        if set(args.only) & set(ATTACKS):
            attacks = Attacks(model, folder)
            os.chdir(folder)
            seeds = range(args.first, args.first + args.count)
            rows += [count(name, getattr(attacks, name), seeds) for name in ATTACKS if name in args.only]
    print(tabulate(rows, headers=("attacker", "tried", "failed", "seeds")))
    return int(any(failed for _, _, failed, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
