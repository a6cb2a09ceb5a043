"""How far the runs of a comparison are, as their folders tell, and how long the rest takes."""

from __future__ import annotations

from statistics import mean
from typing import Any

from ..common.files import read_json
from .plan import Run


def state_of(run: Run) -> dict[str, Any]:
    """What a run's folder tells: its record with state `done`, or its progress with the error where it failed."""
    record = read_json(run.folder / "record.json")
    if record:
        return {**record, "state": "done"}
    progress = {"state": "waiting", "epochs": [], "seconds": 0.0, **read_json(run.folder / "progress.json")}
    failed = read_json(run.folder / "failed.json")
    if failed:
        return {**progress, "state": "failed", **failed}
    return progress


def _soonest_end(run: Run, state: dict[str, Any]) -> float | None:
    """Seconds until a run's training ends if its score does not improve any more; None before its first epoch."""
    config, epochs = run.variant.config, state["epochs"]
    if not epochs:
        return None
    scores = [epoch["valid_score"] for epoch in epochs if "valid_score" in epoch]
    misses = scores[::-1].index(max(scores)) if scores else 0
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


def best_so_far(state: dict[str, Any]) -> tuple[str, str]:
    """Epoch reached, and the best validation score so far with its epoch."""
    epochs = state["epochs"]
    scores = [(epoch["valid_score"], epoch["epoch"]) for epoch in epochs if "valid_score" in epoch]
    if "best_valid_score" in state and scores:
        return str(epochs[-1]["epoch"]), f"{state['best_valid_score']:.4f} (epoch {state['best_epoch']})"
    best = max(scores, default=None)
    return str(epochs[-1]["epoch"]) if epochs else "", f"{best[0]:.4f} (epoch {best[1]})" if best else ""
