from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_plans import SMALL, small_plan, write_wanted

from recbole_diffusion.common.deadline import Deadline
from recbole_diffusion.common.files import read_json, write_json
from recbole_diffusion.compare import local, one
from recbole_diffusion.compare.plan import Run
from recbole_diffusion.evaluation import ranks as stored
from recbole_diffusion.evaluation.ranks import hit, load_ranks
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.training.run import prepare, train_and_test
from recbole_diffusion.training.trainer import Epoch


def planned_run(folder: str, model: str = "DiffuRec", **settings: str) -> Run:
    (run,) = small_plan(model_list=model, seeds="5", off_switch="False", output=folder, **settings).runs
    write_wanted(run)
    return run


def record_of(run: Run) -> dict[str, Any]:
    return json.loads((run.folder / "record.json").read_text())


def require_alike(*runs: Run) -> None:
    """The same epochs, test and ranks."""
    first, second = (record_of(run) for run in runs)
    assert second["test_result"] == first["test_result"]
    scores = [[epoch["valid_score"] for epoch in record["epochs"]] for record in (first, second)]
    assert scores[0] == scores[1]
    ranks = [load_ranks(run.folder / "ranks.npz").rank for run in runs]
    assert np.array_equal(*ranks)


def test_a_run_gives_what_the_plain_command_gives() -> None:
    run = planned_run("a")
    assert one.main(run.folder) == 0
    record = record_of(run)
    plain = train_and_test("DiffuRec", "ml-100k", config_dict={**SMALL, "seed": 5}).result
    assert record["test_result"] == plain["test_result"]
    assert record["valid_result"] == plain["best_valid_result"]
    assert record["best_valid_score"] == plain["best_valid_score"]
    assert [epoch["epoch"] for epoch in record["epochs"]] == [0, 1]
    assert all(epoch["train_seconds"] > 0 and epoch["valid_seconds"] > 0 for epoch in record["epochs"])
    ranks = load_ranks(run.folder / "ranks.npz")
    assert hit(ranks.rank).mean() == pytest.approx(record["test_result"]["hit@10"], abs=5e-5)
    assert [by["steps"] for by in record["by_steps"]] == [1, 2, 4, 8, 16, 32]
    # The model's own number of steps is among them.
    assert record["by_steps"][0]["metrics"] == record["test_result"]
    left = {path.name for path in run.folder.iterdir()}
    assert left == {"run.json", "progress.json", "record.json", "ranks.npz", "model.pth"}


def test_a_run_that_is_broken_off_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = planned_run("whole", epochs="3"), planned_run("broken", epochs="3")
    assert one.main(whole.folder) == 0
    note = one.Progress.note

    def break_off(self: one.Progress, epoch: Epoch) -> None:
        note(self, epoch)
        if epoch.number == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(one.Progress, "note", break_off)
        assert one.main(broken.folder) == 130
    assert not (broken.folder / "record.json").exists()
    before = json.loads((broken.folder / "progress.json").read_text())
    trained: list[int] = []
    monkeypatch.setattr(one.Progress, "note", lambda self, epoch: (trained.append(epoch.number), note(self, epoch)))
    assert one.main(broken.folder) == 0
    assert trained == [2]
    require_alike(whole, broken)
    assert record_of(broken)["seconds"] > before["seconds"]


def test_a_run_that_stops_before_the_deadline_goes_on_to_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stopped = planned_run("whole", epochs="3"), planned_run("stopped", epochs="3")
    assert one.main(whole.folder) == 0
    write_json(stopped.folder / "run.json", {**read_json(stopped.folder / "run.json"), "deadline": "15"})
    left = iter([100.0, 1e-6])
    with monkeypatch.context() as patch:
        patch.setattr(Deadline, "left", lambda self: next(left))
        assert one.main(stopped.folder) == 75
    progress = read_json(stopped.folder / "progress.json")
    assert len(progress["epochs"]) == 1 and not (stopped.folder / "failed.json").exists()
    write_json(stopped.folder / "run.json", {**read_json(stopped.folder / "run.json"), "deadline": None})
    assert one.main(stopped.folder) == 0
    require_alike(whole, stopped)


@pytest.mark.parametrize(
    ("model", "settings", "expected"),
    [("DiffuRec", {}, 2 + 63), ("DreamRec", {"inference_steps": "16"}, 2 + 5 + 2), ("Pop", {}, 2)],
)
def test_what_follows_a_training_is_counted_in_validations(
    model: str, settings: dict[str, str], expected: float
) -> None:
    run = planned_run("a", model, **settings)
    prepared = prepare(load_config(model, "ml-100k", None, run.variant.settings))
    assert one.validations_after(prepared.model) == expected


def test_a_process_that_is_killed_in_an_epoch_goes_on() -> None:
    whole, killed = planned_run("whole", epochs="4"), planned_run("killed", epochs="4")
    assert one.main(whole.folder) == 0
    process = local.start_process(killed, one.main, {"OMP_NUM_THREADS": "1", "PYTHONPATH": local.search_path()})
    while not any("valid_score" in epoch for epoch in read_json(killed.folder / "progress.json").get("epochs", [])):
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() < 0 and not (killed.folder / "record.json").exists()
    assert one.main(killed.folder) == 0
    require_alike(whole, killed)


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    run = planned_run("bad", "SASRec", learning_rate="1e30")
    assert one.main(run.folder) == 1
    failed = json.loads((run.folder / "failed.json").read_text())
    assert "learning_rate=1e+30 is probably too high" in failed["error"]
    assert not (run.folder / "record.json").exists()


def test_no_steps_where_a_model_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned_run("pop", "Pop")
    peak, ranks = [10], stored.user_ranks
    monkeypatch.setattr(one, "peak_memory", lambda: peak[0])
    monkeypatch.setattr(stored, "user_ranks", lambda *args: (peak.__setitem__(0, 99), ranks(*args))[1])
    assert one.main(run.folder) == 0
    assert record_of(run)["by_steps"] == []
    # What the ranks of the users took is not the model's.
    assert record_of(run)["peak_memory"] == 10 and peak == [99]


def test_a_run_ends_with_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned_run("orphan")
    parents = iter([1, 1, 2])
    monkeypatch.setattr(one.os, "getppid", lambda: next(parents, 2))
    assert one.main(run.folder) == 130
    assert not (run.folder / "failed.json").exists()
