"""One model with one seed, in a process of its own: `python -m recbole_diffusion.compare.one RUN_FOLDER`.

Its peak memory is its own, and if it crashes or is killed it takes no other run with it. In its folder it finds
`run.json` and leaves `progress.json` after every epoch, `model.pth` (the best state), `ranks.npz`, and at last
`record.json`; or `failed.json`.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ..common.files import read_json, write_json
from ..common.log import run_logging
from ..common.signals import signals_interrupt
from ..errors import OutOfTime, UserError
from ..evaluation.environment import commit_of, machine, peak_gpu_memory, peak_memory, seconds_since_start, versions
from ..evaluation.ranks import save_test_ranks
from ..host.settings import load_config
from ..inference.sampling import overridden
from ..model.base import DiffusionRecommender
from ..training import checkpoint
from ..training.evaluating import EvaluatingTrainer
from ..training.memory import keep_freed_memory
from ..training.run import log_settings, prepare, trainable_parameters
from ..training.trainer import Epoch
from .plan import plain_config

STEPS = (1, 2, 4, 8, 16, 32)

logger = logging.getLogger(__name__)


class Progress:
    """What a run has done, kept in `progress.json` so that nothing of it is lost when it is broken off.

    Parameters
    ----------
    folder : Path
    epochs_done : int
        Later epochs that the file tells of are forgotten: they are trained again.
    """

    def __init__(self, folder: Path, epochs_done: int) -> None:
        self.path = folder / "progress.json"
        before = read_json(self.path)
        epochs = [epoch for epoch in before.get("epochs", []) if epoch["epoch"] < epochs_done]
        self.content: dict[str, Any] = {
            "state": "training",
            "pid": os.getpid(),
            "seconds": before.get("seconds", 0.0),
            "peak_memory": before.get("peak_memory"),
            "peak_gpu_memory": before.get("peak_gpu_memory"),
            "epochs": epochs,
        }
        self.seconds_before = self.content["seconds"]
        self.parent = os.getppid()

    def write(self, state: str | None = None) -> None:
        """Bring the file up to date; leave the process when nobody waits for it any more."""
        if os.getppid() != self.parent:
            raise KeyboardInterrupt
        self.content["state"] = state or self.content["state"]
        self.content["seconds"] = self.seconds_before + seconds_since_start()
        for key, measured in (("peak_memory", peak_memory()), ("peak_gpu_memory", peak_gpu_memory())):
            known = [value for value in (self.content[key], measured) if value is not None]
            self.content[key] = max(known, default=None)
        write_json(self.path, self.content)

    def note(self, epoch: Epoch) -> None:
        """Note an epoch, and its validation where it had one."""
        entry: dict[str, Any] = {"epoch": epoch.number, "loss": epoch.loss, "train_seconds": epoch.seconds}
        if epoch.valid_score is not None:
            entry |= {"valid_score": epoch.valid_score, "valid_seconds": epoch.valid_seconds}
        self.content["epochs"].append(entry)
        self.write()


def timed(call: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """What a call gives, and how many seconds it took."""
    begin = time.perf_counter()
    return call(*arguments), time.perf_counter() - begin


def steps_tried(model: Any) -> list[int]:
    """The numbers of reverse steps with which a model is tested: 1, 2, 4, ... and its own; empty without such steps."""
    if not isinstance(model, DiffusionRecommender) or not model.use_diffusion:
        return []
    largest = model.process.longest_chain
    return sorted({*(steps for steps in STEPS if steps <= largest), len(model.timesteps)})


def validations_after(model: Any) -> float:
    """How long what follows a training takes at most, as so many validations: the test, the ranks, and all steps."""
    return 2 + sum(max(1.0, steps / len(model.timesteps)) for steps in steps_tried(model))


def accuracy_by_steps(model: Any, trainer: EvaluatingTrainer, test_data: Any) -> list[dict[str, Any]]:
    """Test metrics and seconds with each number of reverse steps that is tried."""
    results = []
    for steps in steps_tried(model):
        with overridden(model, steps, seed=None):
            metrics, seconds = timed(trainer.metrics, test_data)
        results.append({"steps": steps, "seconds": seconds, "metrics": dict(metrics)})
    return results


def run_one(folder: Path) -> None:
    """Train, test and record the run that `run.json` in the folder describes, from where it was broken off.

    Raises
    ------
    UserError
    """
    description = read_json(folder / "run.json")
    commit = commit_of(Path(__file__))
    best = folder / "model.pth"
    last = checkpoint.last_path(best)
    settings = {
        **description["settings"],
        "seed": description["seed"],
        "checkpoint_dir": str(folder),
        "log_dir": None,
        "tensorboard_dir": None,
        "resume": str(last) if last.is_file() else None,
        "deadline": description.get("deadline"),
    }
    config = load_config(description["model"], description["dataset"], None, settings)
    with run_logging(config):
        prepared = prepare(config)
        log_settings(config, prepared)
        trainer = prepared.trainer
        trainer.saved_model_file = str(best)
        trainer.validations_after = validations_after(prepared.model)
        progress = Progress(folder, trainer.start_epoch)
        progress.write("training")
        valid_score, valid_result = trainer.fit(prepared.train_data, prepared.valid_data, on_epoch_end=progress.note)
        progress.write("testing")
        test_result, seconds = timed(trainer.evaluate, prepared.test_data)
        progress.write()
        # Ranks and steps are no part of the model's own evaluation.
        memory = {key: progress.content[key] for key in ("peak_memory", "peak_gpu_memory")}
        parts = prepared.train_data, prepared.valid_data, prepared.test_data
        save_test_ranks(folder / "ranks.npz", trainer, *parts)
        by_steps = accuracy_by_steps(prepared.model, trainer, prepared.test_data)
        progress.write()
    epochs = progress.content["epochs"]
    record = {
        **{key: description[key] for key in ("name", "model", "dataset", "seed", "command")},
        "config": plain_config(config),
        "parameters": trainable_parameters(prepared.model),
        "epochs": epochs,
        "best_epoch": trainer.best_epoch,
        "best_valid_score": valid_score,
        "valid_result": valid_result,
        "test_result": dict(test_result),
        "seconds_per_epoch": float(np.mean([epoch["train_seconds"] for epoch in epochs])) if epochs else None,
        "seconds_per_evaluation": seconds,
        "seconds": progress.content["seconds"],
        **memory,
        "by_steps": by_steps,
        "versions": versions(),
        "commit": commit,
        "machine": machine(config["device"]),
    }
    write_json(folder / "record.json", record)
    last.unlink(missing_ok=True)


def exit_code(folder: Path, action: Callable[[Path], None]) -> int:
    """Do what a folder describes; gives the exit code, and leaves `failed.json` where that is 1."""
    try:
        with signals_interrupt():
            action(folder)
        return 0
    except OutOfTime as ended:
        print(ended, file=sys.stderr)
        return ended.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        traceback.print_exc()
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        # A full disk may be what has failed; the runner then tells what it sees.
        with suppress(UserError):
            write_json(folder / "failed.json", {"error": kind + " ".join(str(error).split())})
        return 1


def main(folder: Path) -> int:
    """Do the run of a folder; gives the exit code."""
    return exit_code(folder, run_one)


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main(Path(sys.argv[1])))
