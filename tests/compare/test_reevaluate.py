from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_plans import SMALL, InThisProcess, small_plan

from recbole_diffusion.cli.main import main
from recbole_diffusion.common.files import read_json
from recbole_diffusion.compare import local, runner
from recbole_diffusion.compare.plan import first_difference
from recbole_diffusion.compare.reevaluate import plan_of, reevaluate
from recbole_diffusion.compare.results import collect
from recbole_diffusion.compare.states import state_of
from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.ranks import load_ranks

SETTINGS = {**SMALL, "model_list": "DiffuRec,SASRec", "seeds": "1", "epochs": "1"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same comparison with the history in the ranking and with both."""
    folder = tmp_path_factory.mktemp("twice")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "start_process", InThisProcess)
        for history in ("in", "both"):
            given = {**SETTINGS, "history_in_ranking": history, "output": str(folder / history)}
            runner.run_all(small_plan(**given), [])
    return {history: folder / history for history in ("in", "both")}


def without_times(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in steps]


def test_it_is_the_comparison_that_was_run_with_both(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {file: file.stat().st_mtime_ns for file in folders["in"].rglob("*")}
    command = ["evaluate", f"--checkpoint={folders['in']}", "--history_in_ranking=both"]
    assert main(command) == 0
    assert {file: file.stat().st_mtime_ns for file in folders["in"].rglob("*")} == before
    out, err = capsys.readouterr()
    new = folders["in"].with_name("in-evaluated")
    assert f"report: {new / 'report.md'}" in out and "3 of 3: SASRec, seed 1: " in err
    assert (new / "report.html").is_file()
    for run in plan_of(new).runs:
        theirs = folders["both"] / run.folder.relative_to(new)
        record, other = read_json(run.folder / "record.json"), read_json(theirs / "record.json")
        for key in ("test_result", "valid_result", "best_valid_score", "parameters"):
            assert record[key] == other[key], (run.title, key)
        assert first_difference(record["config"], other["config"]) is None
        assert without_times(record["by_steps"]) == without_times(other["by_steps"])
        ranks, expected = load_ranks(run.folder / "ranks.npz"), load_ranks(theirs / "ranks.npz")
        assert all(np.array_equal(*pair) for pair in zip(ranks, expected, strict=True))
        assert record["evaluated"]["command"].endswith(" ".join(command))
    results = read_json(new / "results.json")
    given = {**SETTINGS, "history_in_ranking": "both", "output": str(folders["both"])}
    expected = json.loads(json.dumps(collect(small_plan(**given))))
    names = [row["name"] for row in results["rows"]]
    assert names == [row["name"] for row in expected["rows"]] == ["DiffuRec", "DiffuRec-off", "SASRec"]
    assert results["pairs"] == expected["pairs"]
    for part in (results["history_out"], expected["history_out"]):
        part["by_steps"] = without_times(part["by_steps"])
    assert results["history_out"] == expected["history_out"]
    # A comparison with both now takes these runs for its own.
    assert all(state_of(run)["state"] == "done" for run in small_plan(**{**given, "output": str(new)}).runs)
    # What is done is not done again, and not mixed with what is tested in another way.
    assert main(command) == 0
    assert "1 of 3: DiffuRec, seed 1: done before" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.chdir(folders["in"])
        assert main(["evaluate", "--checkpoint=.", "--history_in_ranking=both"]) == 0
    assert "1 of 3: DiffuRec, seed 1: done before" in capsys.readouterr().err
    for flags in (["--history_in_ranking=out"], ["--history_in_ranking=both", "--seed=9"]):
        assert main([*command[:2], *flags]) == 2
        assert "choose another folder by --output" in capsys.readouterr().err


def test_settings_of_one_kind_of_model(folders: dict[str, Path], tmp_path: Path) -> None:
    plan = reevaluate(folders["in"], str(tmp_path / "scaled"), {"noise_scale": "2", "metrics": "[Recall,Novelty]"})
    records = {run.variant.name: read_json(run.folder / "record.json") for run in plan.runs}
    assert records["DiffuRec"]["config"]["noise_scale"] == 2 and "noise_scale" not in records["SASRec"]["config"]
    names = {f"{metric}@{k}" for metric in ("recall", "novelty") for k in (5, 10, 20)}
    assert all(set(record["test_result"]) == names for record in records.values())
    # What stopped the training is reported as it was.
    assert plan.variants[0].config["valid_metric"] == "NDCG@10"


def test_mistakes_take_one_line(folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "kept"
    shutil.copytree(folders["in"], kept)
    (kept / "runs" / "SASRec" / "1" / "model.pth").unlink()
    empty = tmp_path / "empty"
    (empty / "runs").mkdir(parents=True)
    for flags, message in (
        ([f"--checkpoint={kept}"], f"{kept / 'runs/SASRec/1'}: no model.pth is kept of SASRec, seed 1"),
        ([f"--checkpoint={empty}"], f"{empty}: no finished run is in this folder"),
        ([f"--checkpoint={folders['in']}", f"--output={folders['in']}"], "output must be another folder"),
        ([f"--checkpoint={folders['in']}", "--hidden_size=8"], "hidden_size must be one that may change after"),
        ([f"--checkpoint={folders['in']}", "--ranks=r.npz"], "ranks must be left out"),
        ([f"--checkpoint={folders['in']}", "--output=x", "--eval_args={mode: uni9}"], "eval_args.mode must be full"),
    ):
        assert main(["evaluate", *flags]) == 2
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and err.startswith(f"error: {message[:60]}"), err


def test_a_comparison_with_both_names_the_command(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="or test the models of its folder again by recbole-diffusion evaluate"):
        small_plan(**{**SETTINGS, "history_in_ranking": "both", "output": str(folders["in"])})
