from __future__ import annotations

from typing import Any

import pytest
from small_plans import small_plan

from recbole_diffusion.compare.states import best_so_far, duration, seconds_left


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


@pytest.mark.parametrize(
    ("metric", "best"), [("NDCG@10", "3.0000 (epoch 1)"), ("AveragePopularity@10", "1.0000 (epoch 3)")]
)
def test_the_best_score_is_the_smallest_where_the_metric_says_so(metric: str, best: str) -> None:
    settings = {"metrics": "NDCG,AveragePopularity", "stopping_step": "5", "eval_step": "1"}
    run = small_plan(model_list="SASRec", valid_metric=metric, **{**settings, "epochs": "90"}).runs[0]
    scores = [2.0, 3.0, 1.0, 1.0, 2.0, float("nan")]
    times = {"train_seconds": 2.0, "valid_seconds": 1.0}
    done = [{"epoch": epoch, "valid_score": score, **times} for epoch, score in enumerate(scores)]
    state = {"state": "training", "epochs": done, "seconds": 10.0}
    assert best_so_far(run, state) == ("5", best)
    # Training ends after 6 validations without a better one, of which it has had those after the best.
    misses = 5 - int(best[-2])
    assert seconds_left({run: state}) == (6 - misses) * 3.0
    assert best_so_far(run, {**state, "epochs": done[-1:]}) == ("5", "")


def test_durations() -> None:
    texts = [duration(seconds) for seconds in (None, 0, 89, 600, 5400)]
    assert texts == ["unknown", "0 s", "89 s", "10 min", "1.5 h"]
