from __future__ import annotations

from typing import Any

from small_plans import small_plan

from recbole_diffusion.compare.states import duration, seconds_left


def epochs(number: int, best: int) -> list[dict[str, float]]:
    times = {"train_seconds": 2.0, "valid_seconds": 1.0}
    return [{"epoch": epoch, "valid_score": float(epoch == best), **times} for epoch in range(number)]


def test_time_left() -> None:
    plan = small_plan(model_list="Pop,other=Pop(epochs=3)", seeds="1,2")
    waiting = {"state": "waiting", "epochs": [], "seconds": 0.0}

    def left(*states: dict[str, Any]) -> float | None:
        return seconds_left(dict(zip(plan.runs, states, strict=True)))

    def done(seconds: float) -> dict[str, Any]:
        return {**waiting, "state": "done", "seconds": seconds}

    assert left(waiting, waiting, waiting, waiting) is None
    # An equal takes as long, another as long as all on the mean; what is spent is taken off.
    assert left(done(10), {**waiting, "seconds": 4.0}, waiting, done(30)) == 6 + 30
    assert left(done(10), done(30), waiting, {**waiting, "state": "failed"}) == 20
    # Two at a time take half of it, but no less than the longest.
    assert seconds_left(dict(zip(plan.runs, (done(10), done(10), waiting, waiting), strict=True)), jobs=2) == 10
    assert seconds_left(dict(zip(plan.runs, (done(10), waiting, done(50), waiting), strict=True)), jobs=2) == 50
    # Pop has one epoch here, its other two: of the first 0 are left.
    assert plan.runs[0].variant.config["epochs"] == 2
    at_work = {**waiting, "epochs": epochs(1, best=0), "seconds": 5.0}
    assert left(at_work, waiting, waiting, waiting) == 3 + 3 * 8


def test_durations() -> None:
    texts = [duration(seconds) for seconds in (None, 0, 89, 600, 5400)]
    assert texts == ["unknown", "0 s", "89 s", "10 min", "1.5 h"]
