"""How far the runs of a comparison are, as their folders tell, and how long the rest takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isnan, nan
from statistics import mean
from typing import Any

from ..common.files import check_form, read_json
from .plan import Run

_NUMBER = (int, float)
_PERHAPS = (*_NUMBER, type(None))
# What stands in the record of every run that is done; that of a trial has less.
OF_RECORD = {"epochs": (list,), "seconds": _NUMBER}
OF_RUN = {
    **{**OF_RECORD, "parameters": (int,), "best_epoch": (int, type(None)), "by_steps": (list,)},
    **{"valid_result": (dict, type(None)), "test_result": (dict,), "seconds_per_evaluation": _NUMBER},
    **{"seconds_per_epoch": _PERHAPS, "peak_memory": _PERHAPS, "peak_gpu_memory": _PERHAPS},
}


def state_of(run: Run) -> dict[str, Any]:
    """What a run's folder tells: its record with state `done`, or its progress with the error where it failed."""
    file = run.folder / "record.json"
    record = read_json(file)
    if record:
        check_form(str(file), record, OF_RECORD)
        return {**record, "state": "done"}
    progress = {"state": "waiting", "epochs": [], "seconds": 0.0, **read_json(run.folder / "progress.json")}
    failed = read_json(run.folder / "failed.json")
    if failed:
        return {**progress, "state": "failed", **failed}
    return progress


def best_epoch(epochs: Sequence[Mapping[str, Any]], bigger: bool) -> Mapping[str, Any] | None:
    """The epoch with the best validation score, the last one of equals, as in early stopping; None without a score."""
    sign = 1 if bigger else -1
    scored = [epoch for epoch in epochs if not isnan(epoch.get("valid_score", nan))]
    return max(scored, key=lambda epoch: (sign * epoch["valid_score"], epoch["epoch"]), default=None)


def _soonest_end(run: Run, state: dict[str, Any]) -> float | None:
    """Seconds until a run's training ends if its score does not improve any more; None before its first epoch."""
    config, epochs = run.variant.config, state["epochs"]
    if not epochs:
        return None
    best = best_epoch(epochs, config["valid_metric_bigger"])
    since = -1 if best is None else best["epoch"]
    misses = sum("valid_score" in epoch and epoch["epoch"] > since for epoch in epochs)
    until_stopped = (config["stopping_step"] + 1 - misses) * config["eval_step"]
    left = min(config["epochs"] - len(epochs), until_stopped)
    return max(0, left) * mean(epoch["train_seconds"] + epoch.get("valid_seconds", 0) for epoch in epochs)


def seconds_left(states: dict[Run, dict[str, Any]], jobs: int = 1) -> float | None:
    """Seconds until all runs have ended, `jobs` at a time, by the epochs so far; None before the first epoch.

    A run takes as long as those of its variant that are done, else as those of the others, else as the one at work if
    that does not improve any more.
    """
    done = {run: state["seconds"] for run, state in states.items() if state["state"] == "done"}
    waiting = {run: state for run, state in states.items() if state["state"] not in ("done", "failed")}
    soonest = {run: _soonest_end(run, state) for run, state in waiting.items()}
    guesses = [waiting[run]["seconds"] + seconds for run, seconds in soonest.items() if seconds is not None]
    left = [0.0]
    for run, state in waiting.items():
        alike = [seconds for other, seconds in done.items() if other.variant is run.variant]
        known = alike or list(done.values()) or guesses
        if not known:
            return None
        left.append(max(soonest[run] or 0.0, mean(known) - state["seconds"]))
    return max(*left, sum(left) / jobs)


def duration(seconds: float | None) -> str:
    """Seconds as people write them."""
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def best_so_far(run: Run, state: dict[str, Any]) -> tuple[str, str]:
    """Epoch reached, and the best validation score so far with its epoch."""
    epochs = state["epochs"]
    best = best_epoch(epochs, run.variant.config["valid_metric_bigger"])
    if best and "best_valid_score" in state:
        best = {"valid_score": state["best_valid_score"], "epoch": state["best_epoch"]}
    reached = str(epochs[-1]["epoch"]) if epochs else ""
    return reached, f"{best['valid_score']:.4f} (epoch {best['epoch']})" if best else ""
