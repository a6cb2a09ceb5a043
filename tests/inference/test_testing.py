from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from saved_models import SMALL, Saved

from recbole_diffusion.errors import SettingError, UserError
from recbole_diffusion.evaluation.protocols import SUFFIX
from recbole_diffusion.evaluation.ranks import hit, load_ranks
from recbole_diffusion.inference import testing
from recbole_diffusion.inference.testing import evaluate
from recbole_diffusion.training.run import train_and_test

OURS = (
    "from recbole_diffusion.model.diffurec import DiffuRec\n\n\nclass Mine(DiffuRec):\n"
    "    def encode(self, history, noise):\n        return super().encode(history, noise)\n"
)


def metrics(path: Path, **settings: Any) -> dict[str, Any]:
    return evaluate(path, settings)[0].result


@pytest.mark.parametrize("model", ["DiffuRec", "SASRec", "PreferGrow", "Pop"])
def test_a_saved_model_gives_what_training_gave(saved: Callable[..., Saved], model: str) -> None:
    trained = saved(model)
    result = metrics(trained.path)
    assert result["test_result"] == trained.test_result
    assert result["best_valid_result"]["ndcg@10"] == result["best_valid_score"]


def test_general_models_too(tmp_path: Path) -> None:
    settings = {"epochs": 1, "user_inter_num_interval": "[0,30]", "log_dir": None, "tensorboard_dir": None}
    trained = train_and_test("BPR", "ml-100k", config_dict={**settings, "checkpoint_dir": str(tmp_path)})
    assert trained.model_file is not None
    assert metrics(trained.model_file)["test_result"] == trained.result["test_result"]


def test_both_rankings_are_those_of_a_run_with_both(saved: Callable[..., Saved]) -> None:
    with_history = saved("DiffuRec")
    of_both = saved("DiffuRec", history_in_ranking="both").test_result
    assert metrics(with_history.path, history_in_ranking="both")["test_result"] == of_both
    without = metrics(with_history.path, history_in_ranking="out")["test_result"]
    assert without == {name: of_both[name + SUFFIX] for name in without} != with_history.test_result
    assert metrics(with_history.path, repeatable="False")["test_result"] == without
    # And back, from the run with both.
    kept = metrics(saved("DiffuRec", history_in_ranking="both").path, history_in_ranking="in")["test_result"]
    assert kept == with_history.test_result


def test_settings_of_inference_are_those_of_a_run_with_them(saved: Callable[..., Saved]) -> None:
    trained = saved("DiffuRec", frozen_epochs=0)
    # One epoch of training does not depend on the steps of its evaluation.
    with_steps = saved("DiffuRec", inference_steps=8).test_result
    assert metrics(trained.path, inference_steps="8")["test_result"] == with_steps != trained.test_result
    assert metrics(trained.path, seed="7") != metrics(trained.path)
    assert metrics(trained.path, noise_scale="0")["test_result"] != trained.test_result
    guided = saved("PreferGrow")
    assert metrics(guided.path, guidance_scale="3")["test_result"] != guided.test_result


def test_it_computes_as_the_settings_say(saved: Callable[..., Saved], monkeypatch: pytest.MonkeyPatch) -> None:
    trained = saved("DiffuRec", float32_matmul_precision="high")
    found, measure = [], testing.metrics_of

    def watched(opened: testing.Reopened) -> Any:
        found.append((torch.get_float32_matmul_precision(), torch.get_num_threads()))
        return measure(opened)

    monkeypatch.setattr(testing, "metrics_of", watched)
    before = torch.get_float32_matmul_precision(), torch.get_num_threads()
    assert metrics(trained.path, threads="3")["test_result"] == pytest.approx(trained.test_result, abs=1e-6)
    assert found == [("high", 3)]
    assert (torch.get_float32_matmul_precision(), torch.get_num_threads()) == before


def test_other_metrics_modes_and_cut_offs(saved: Callable[..., Saved]) -> None:
    trained = saved("DiffuRec")
    result = metrics(trained.path, metrics="[Recall, ItemCoverage]", topk="[3, 10]")["test_result"]
    assert set(result) == {"recall@3", "recall@10", "itemcoverage@3", "itemcoverage@10"}
    assert result["recall@10"] == trained.test_result["hit@10"]
    sampled = metrics(trained.path, eval_args="{mode: uni50}")["test_result"]
    assert sampled["hit@10"] > trained.test_result["hit@10"]
    # The other parts of eval_args are those of the training.
    assert sampled == saved("DiffuRec", eval_args={"mode": "uni50"}, valid_metric="NDCG@10").test_result


def test_the_ranks_give_the_metrics(saved: Callable[..., Saved], tmp_path: Path) -> None:
    file = tmp_path / "ranks.npz"
    done, _ = evaluate(saved("DiffuRec").path, {"history_in_ranking": "both"}, ranks=file)
    ranks = load_ranks(file)
    assert ranks.rank_out is not None
    assert hit(ranks.rank).mean() == pytest.approx(done.result["test_result"]["hit@10"], abs=5e-5)
    assert hit(ranks.rank_out).mean() == pytest.approx(done.result["test_result"]["hit@10" + SUFFIX], abs=5e-5)
    assert (ranks.rank_out <= ranks.rank).all() and np.array_equal(np.unique(ranks.user), np.sort(ranks.user))


def test_scores_that_are_no_numbers_are_warned_of(
    saved: Callable[..., Saved], caplog: pytest.LogCaptureFixture
) -> None:
    metrics(saved("DiffuRec").path)
    assert "NaN" not in caplog.text
    metrics(saved("DiffuRec").path, noise_scale="1e38")
    (users,) = {message.split()[0] for message in caplog.messages if "rows have scores that are NaN" in message}
    assert int(users) > 100


def test_another_split_is_warned_of(saved: Callable[..., Saved], capsys: pytest.CaptureFixture[str]) -> None:
    path = saved("SASRec").path
    capsys.readouterr()
    metrics(path)
    assert capsys.readouterr().err == ""
    metrics(path, eval_args="{split: {TS: [0.6, 0.2, 0.2]}}")
    (line,) = capsys.readouterr().err.splitlines()
    assert "trained with split={'LS': 'valid_and_test'}" in line and "may be what it was trained on" in line


def test_a_class_of_the_users_own(tmp_path: Path, saved: Callable[..., Saved]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(OURS)
    shutil.copy(Path(__file__).parents[2] / "properties" / "model" / "DiffuRec.yaml", tmp_path / "Mine.yaml")
    given = {**SMALL, "checkpoint_dir": str(tmp_path / "saved")}
    trained = train_and_test(f"{file}:Mine", "ml-100k", config_dict=given)
    assert trained.model_file is not None
    with pytest.raises(UserError, match="Mine is no model of ours or of RecBole's"):
        evaluate(trained.model_file)
    assert evaluate(trained.model_file, model=f"{file}:Mine")[0].result["test_result"] == trained.result["test_result"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hidden_size", "32", "hidden_size must be left out, as the weights depend on it or nothing does; these may"),
        ("MAX_ITEM_LIST_LENGTH", "5", "MAX_ITEM_LIST_LENGTH must be left out"),
        ("user_inter_num_interval", "[0,40]", "user_inter_num_interval must be left out"),
        ("learning_rate", "1", "learning_rate must be left out"),
        ("inference_step", "3", "inference_step must be left out, .* inference_steps"),
        ("inference_steps", "99", "inference_steps must be from 1 to diffusion_steps=32"),
        ("history_in_ranking", "none", "history_in_ranking must be one of in, out, both, got 'none'"),
        ("topk", "[9999]", "topk must hold numbers of at most "),
        ("eval_args", "{mode: some}", "eval_args.mode must be full, labeled, uniN or popN"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(saved: Callable[..., Saved], key: str, value: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        evaluate(saved("DiffuRec").path, {key: value})


def test_other_data_is_refused(saved: Callable[..., Saved], atomic: Callable[..., str]) -> None:
    rows = "\n".join(f"{user}\t{item}\t3\t{item}" for user in range(1, 4) for item in range(1, 25))
    folder = atomic("ml-100k", inter=f"user_id:token\titem_id:token\trating:float\ttimestamp:float\n{rows}\n")
    with pytest.raises(UserError, match=r"is of another catalogue: it knows .* not the 24 of this dataset"):
        evaluate(saved("DiffuRec").path, {"data_path": folder})


def test_ranks_need_a_full_ranking(saved: Callable[..., Saved], tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"eval_args\.mode be full"):
        evaluate(saved("DiffuRec").path, {"eval_args": {"mode": "uni50"}}, ranks=tmp_path / "r.npz")
    assert os.listdir(tmp_path) == []


def test_nothing_is_written(saved: Callable[..., Saved], untouched: None) -> None:
    path = saved("DiffuRec").path
    before = sorted(path.parent.iterdir())
    evaluate(path)
    assert os.listdir(".") == [] and sorted(path.parent.iterdir()) == before


def test_a_random_order_of_ties_keeps_its_seed(saved: Callable[..., Saved]) -> None:
    trained = saved("Pop", tie_order="random")
    assert metrics(trained.path)["test_result"] == trained.test_result
    with pytest.raises(SettingError, match="seed must be 2020, as in training: with tie_order=random"):
        evaluate(trained.path, {"seed": "7"})
