from __future__ import annotations

import errno
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data import dataset as recbole_dataset

import recbole_diffusion
from recbole_diffusion.cli.main import main
from recbole_diffusion.common.deadline import Deadline
from recbole_diffusion.common.log import LogFile
from recbole_diffusion.common.signals import Ended
from recbole_diffusion.errors import OutOfTime, UserError
from recbole_diffusion.host.dataset import build_dataset
from recbole_diffusion.host.loaders import build_loaders, epoch_rows
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.training import checkpoint
from recbole_diffusion.training.run import prepare, train_and_test
from recbole_diffusion.training.trainer import Trainer, build_trainer

ML_100K = Path(recbole_dataset.__file__).parents[2] / "dataset_example" / "ml-100k"
# The users of ml-100k with few interactions: an epoch takes a second.
SMALL = {
    "user_inter_num_interval": "[0,22]",
    "epochs": 2,
    "hidden_size": 16,
    "inner_size": 32,
    "n_layers": 1,
    "n_heads": 2,
    "show_progress": False,
}
# Those of any model.
FEW = {key: SMALL[key] for key in ("user_inter_num_interval", "epochs", "show_progress")}


def run(model: Any, **changes: Any) -> dict[str, Any]:
    return recbole_diffusion.run(model, "ml-100k", config_dict={**SMALL, **changes})


def test_matrix_products_have_the_precision_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    for precision in ("highest", "medium"):
        run("DiffuRec", float32_matmul_precision=precision, epochs=1)
    found = torch.get_float32_matmul_precision()
    assert asked == ["highest", found, "medium", found]


@pytest.mark.parametrize("model", ["DiffuRec", "DiffRec"])
def test_run_returns_what_recbole_returns_in_plain_floats(model: str) -> None:
    result = run(model)
    assert set(result) == {"best_valid_score", "valid_score_bigger", "best_valid_result", "test_result"}
    assert result["valid_score_bigger"] is True
    assert type(result["best_valid_score"]) is float
    for part in ("best_valid_result", "test_result"):
        assert "ndcg@10" in result[part]
        assert all(type(value) is float for value in result[part].values())


@pytest.mark.parametrize("model", ["DiffuRec", "DiffRec"])
def test_the_same_seed_gives_the_same_metrics_twice(model: str) -> None:
    first, second = run(model), run(model)
    assert first == second
    assert run(model, seed=7) != first


@pytest.mark.parametrize("mode", ["full", "uni100"])
def test_metrics_do_not_depend_on_the_evaluation_batch(mode: str) -> None:
    changes = {"eval_args": {"mode": mode}, "inference_steps": 4, "noise_scale": 0.3, "epochs": 1}
    results = [run("DiffuRec", eval_batch_size=size, **changes) for size in (16, 333, 4096)]
    assert results[0] == results[1] == results[2]


def test_tables_say_where_the_model_is() -> None:
    outcome = train_and_test("DiffuRec", "ml-100k", config_dict={**SMALL, "epochs": 1})
    table = outcome.table()
    assert f"ndcg@10    {outcome.result['best_valid_result']['ndcg@10']:.4f}" in table
    assert outcome.model_file is not None and outcome.model_file.is_file()
    assert str(outcome.model_file) in table
    assert outcome.log_file is not None and "test result" in outcome.log_file.read_text()


def test_the_log_counts_the_rows_of_training(tmp_path: Path) -> None:
    log = {}
    for model, unread in (("ADRec", {}), ("DreamRec", {"inner_size", "n_layers", "n_heads"})):
        settings = {key: value for key, value in SMALL.items() if key not in unread}
        settings |= {"log_dir": str(tmp_path / model), "epochs": 1, "MAX_ITEM_LIST_LENGTH": 10}
        train_and_test(model, "ml-100k", config_dict=settings, saved=False)
        log[model] = next((tmp_path / model).rglob("*.log")).read_text()
    line = re.compile(r"rows for training, validation and test: (\d+), (\d+), (\d+)")
    sequences, prefixes = (line.search(log[model]) for model in log)
    assert sequences is not None and prefixes is not None
    assert sequences.groups()[1:] == prefixes.groups()[1:] and int(sequences[1]) < int(prefixes[1]) / 4
    # Each prefix is a place of a sequence.
    assert f"every place of a training row has a target: {prefixes[1]} in all" in log["ADRec"]
    assert "every place" not in log["DreamRec"]


def mean_loss(model: str, **changes: Any) -> float:
    """The loss of an epoch without noise, each batch counted by its rows."""
    settings = {**SMALL, "user_inter_num_interval": "[0,60]", "MAX_ITEM_LIST_LENGTH": 40, **changes}
    made = prepare(load_config(model, "ml-100k", None, settings))
    network = made.model.double().eval()
    batches = list(made.train_data)
    assert max(map(len, batches)) < epoch_rows(made.train_data) or len(batches) == 1
    losses = [float(network.calculate_loss(batch)) * len(batch) for batch in batches]
    return sum(losses) / epoch_rows(made.train_data)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("SASRecPlus", {}),
        ("RFMRec", {"diffusion": False}),
        # One loss is a mean over places, the other over rows.
        ("ADRec", {"diffusion": False, "decoder_layers": 1, "ce_weight": 1.0, "mse_weight": 3.0}),
        ("ADRec", {"diffusion": False, "decoder_layers": 1, "attention_mask": "counted"}),
    ],
)
@torch.no_grad()
def test_a_place_counts_alike_in_batches_of_short_and_of_long_histories(model: str, settings: dict[str, Any]) -> None:
    whole = mean_loss(model, length_batching=False, train_batch_size=10_000, **settings)
    assert mean_loss(model, length_batching=True, train_batch_size=32, **settings) == pytest.approx(whole, rel=1e-6)


def test_nothing_is_written_where_nothing_is_wanted(tmp_path: Path) -> None:
    config = {**SMALL, "epochs": 1, "log_dir": None, "tensorboard_dir": None}
    recbole_diffusion.run("DiffuRec", "ml-100k", config_dict=config, saved=False)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_two_runs_in_one_process_do_not_mix() -> None:
    handlers = list(logging.getLogger().handlers)
    outcomes = [train_and_test("DiffuRec", "ml-100k", config_dict={**SMALL, "epochs": n}) for n in (1, 2)]
    logs = [outcome.log_file.read_text() for outcome in outcomes if outcome.log_file]
    assert [text.count("INFO  epoch ") for text in logs] == [1, 2]
    assert outcomes[0].model_file != outcomes[1].model_file
    assert logging.getLogger().handlers == handlers


def test_no_foreign_warning_reaches_the_user() -> None:
    script = Path(__file__).parents[2] / "run_recbole_diffusion.py"
    flags = [f"--{key}={value}" for key, value in {**SMALL, "epochs": 1, "model": "DiffRec"}.items()]
    flags += ["--eval_args={mode: {valid: uni20, test: full}}"]
    command = [sys.executable, "-W", "default", str(script), *flags]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Python's own form of a warning: FILE:LINE: CategoryWarning: text.
    assert re.findall(r"^.*:\d+: \w*Warning: .*$", done.stderr, re.MULTILINE) == []
    assert "ndcg@10" in done.stdout and "INFO" not in done.stdout


@pytest.mark.parametrize("distribution", ["uniform", "popularity"])
@pytest.mark.parametrize("model", ["DiffuRec", "DiffRec"])
def test_bpr_with_recboles_negatives(model: str, distribution: str) -> None:
    args = {"distribution": distribution}
    config = load_config(model, "ml-100k", config_dict={**SMALL, "loss_type": "BPR", "train_neg_sample_args": args})
    train_data, _, _ = build_loaders(config, build_dataset(config))
    batch = next(iter(train_data))
    assert (batch["neg_item_id"] != batch["item_id"]).all() and (batch["neg_item_id"] > 0).all()
    assert run(model, epochs=1, loss_type="BPR", train_neg_sample_args=args) != run(model, epochs=1)


@pytest.mark.parametrize("mode", ["uni100", "pop100"])
def test_sampled_evaluation_repeats(mode: str) -> None:
    first, second = (run("DiffRec", epochs=1, eval_args={"mode": mode}) for _ in range(2))
    assert first == second
    assert first["test_result"]["hit@20"] > run("DiffRec", epochs=1)["test_result"]["hit@20"]


def test_every_ranking_metric() -> None:
    metrics = ["Recall", "MRR", "NDCG", "Hit", "MAP", "Precision", "GAUC"]
    metrics += ["ItemCoverage", "AveragePopularity", "GiniIndex", "ShannonEntropy", "TailPercentage"]
    result = run("DiffuRec", epochs=1, metrics=metrics)["test_result"]
    assert {name.split("@")[0] for name in result} == {metric.lower() for metric in metrics}
    assert all(np.isfinite(value) for value in result.values())


@pytest.mark.parametrize(
    "eval_args",
    [
        {"split": {"RS": [0.8, 0.1, 0.1]}},
        {"split": {"LS": "test_only"}},
        {"split": {"LS": "valid_only"}},
        {"split": {"TS": [0.8, 0.1, 0.1]}},
        {"split": {"RS": [0.8, 0.1, 0.1]}, "group_by": "none"},
    ],
)
def test_other_splits(eval_args: dict[str, Any]) -> None:
    result = run("DiffuRec", epochs=1, eval_args=eval_args)
    split = eval_args["split"]
    assert bool(result["test_result"]) is (split != {"LS": "valid_only"})
    assert bool(result["best_valid_result"]) is (split != {"LS": "test_only"})


@pytest.mark.parametrize("model", ["DiffuRec", "DiffRec"])
def test_features_of_users_items_and_interactions_may_be_there(model: str) -> None:
    load_col = {"inter": ["user_id", "item_id", "rating", "timestamp"], "user": "*", "item": "*"}
    # Among fewer users an epoch finds no item.
    result = run(model, epochs=1, load_col=load_col, user_inter_num_interval="[0,30]")
    assert result["test_result"]["hit@20"] > 0


def test_benchmark_files(tmp_path: Path) -> None:
    inter = pd.read_csv(ML_100K / "ml-100k.inter", sep="\t").sort_values("timestamp:float", kind="stable")
    folder = tmp_path / "split"
    folder.mkdir()
    rows: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for user, items in list(inter.groupby("user_id:token")["item_id:token"])[:80]:
        tokens = [str(item) for item in items][:12]
        for last in range(1, len(tokens)):
            part = "test" if last == len(tokens) - 1 else "valid" if last == len(tokens) - 2 else "train"
            rows[part].append(f"{user}\t{tokens[last]}\t{' '.join(tokens[:last])}\n")
    for part, lines in rows.items():
        header = "user_id:token\titem_id:token\titem_id_list:token_seq\n"
        (folder / f"split.{part}.inter").write_text(header + "".join(lines))
    changes = {
        "data_path": str(tmp_path),
        "benchmark_filename": ["train", "valid", "test"],
        "user_inter_num_interval": "[0,inf)",
    }
    for model in ("DiffuRec", "DiffRec", "SASRec"):
        result = recbole_diffusion.run(model, "split", config_dict={**SMALL, "epochs": 1, **changes})
        assert result["test_result"]["hit@20"] > 0


def test_case_study_finds_the_top_items() -> None:
    from recbole.utils.case_study import full_sort_topk

    config = load_config("DiffuRec", "ml-100k", config_dict={**SMALL, "epochs": 1})
    train_data, valid_data, test_data = build_loaders(config, build_dataset(config))
    model = config.model_class(config, train_data._dataset)
    build_trainer(config, model).fit(train_data, valid_data, saved=False)
    scores, items = full_sort_topk(np.array([1, 2, 3]), model, test_data, k=5)
    assert scores.shape == items.shape == (3, 5)
    assert (items > 0).all() and torch.equal(scores, scores.sort(dim=-1, descending=True).values)


@pytest.mark.parametrize("model", ["Pop", "SASRec", "BERT4Rec", "GRU4Rec", "BPR"])
def test_recboles_own_models_run(model: str) -> None:
    result = run(model, epochs=1, mask_ratio=0.2) if model == "BERT4Rec" else run(model, epochs=1)
    assert result["test_result"]["hit@20"] > 0


def test_a_class_of_the_users_own_may_be_handed_in() -> None:
    from recbole_diffusion.model.diffurec import DiffuRec

    class Mine(DiffuRec):
        pass

    assert run(Mine)["test_result"] == run("DiffuRec")["test_result"]


def test_resumed_run_ends_where_the_unbroken_one_ends() -> None:
    whole = train_and_test("DiffRec", "ml-100k", config_dict={**SMALL, "epochs": 3})
    first = train_and_test("DiffRec", "ml-100k", config_dict={**SMALL, "epochs": 2})
    assert first.model_file is not None
    last = first.model_file.with_suffix(".last.pth")
    resumed = train_and_test("DiffRec", "ml-100k", config_dict={**SMALL, "epochs": 3, "resume": str(last)})
    assert resumed.result == whole.result


def test_a_run_stops_before_its_deadline_and_goes_on_to_the_same_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train_and_test("DiffuRec", "ml-100k", config_dict={**SMALL, "epochs": 3})
    # Seconds that are left before each epoch.
    left = iter([100.0, 100.0, 1e-6])
    with monkeypatch.context() as patch:
        patch.setattr(Deadline, "left", lambda self: next(left))
        with pytest.raises(
            OutOfTime,
            match=r"the next epoch with the tests after it takes \d+ s; run the same with --resume=(\S+) to go on",
        ) as caught:
            train_and_test("DiffuRec", "ml-100k", config_dict={**SMALL, "epochs": 3, "deadline": "15"})
    last = str(caught.value).partition("--resume=")[2].split()[0]
    assert checkpoint.load(last)["epoch"] == 1
    resumed = train_and_test("DiffuRec", "ml-100k", config_dict={**SMALL, "epochs": 3, "resume": last})
    assert resumed.result == whole.result


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Ended(signal.SIGTERM)])
def test_a_run_that_is_interrupted_names_the_checkpoint_to_go_on_from(
    error: KeyboardInterrupt, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = Trainer._train_epoch

    def interrupted(self: Trainer, data: Any, epoch: int, *args: Any, **options: Any) -> Any:
        if epoch == 1:
            raise error
        return train(self, data, epoch, *args, **options)

    monkeypatch.setattr(Trainer, "_train_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_and_test("LastItem", "ml-100k", config_dict=FEW)
    last = next(Path("saved").glob("*.last.pth"))
    line = f"WARNING  interrupted; run the same with --resume={last} to go on"
    assert capsys.readouterr().err.splitlines()[-1].endswith(line)
    assert checkpoint.load(last)["epoch"] == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
def test_the_result_is_printed_where_neither_log_nor_board_can_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(LogFile, "_open", lambda self: open("/dev/full", "w"))  # noqa: SIM115 (the handler closes it)
    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    flags = [f"--{key}={value}" for key, value in {**FEW, "log_dir": "log", "tensorboard_dir": "board"}.items()]
    assert main(["train", "--model=LastItem", "--dataset=ml-100k", *flags]) == 0
    out, err = capsys.readouterr()
    assert "ndcg@10" in out and "model: saved" in out
    assert err.count("the log ends here") == err.count("tensorboard's record ends here") == 1


def test_settings_of_the_caller_are_not_changed() -> None:
    settings = {**SMALL, "epochs": 1, "eval_args": {"mode": "full"}}
    before = {key: dict(value) if isinstance(value, dict) else value for key, value in settings.items()}
    recbole_diffusion.run("DiffuRec", "ml-100k", config_dict=settings)
    assert settings == before


def test_catalogue_smaller_than_topk_is_refused() -> None:
    with pytest.raises(UserError, match=r"topk must hold numbers of at most \d+, .* got \[5000\]"):
        run("DiffuRec", topk=5000, valid_metric="NDCG@5000")
    assert not list(Path(os.getcwd()).rglob("*.pth"))


def test_the_screen_has_few_lines_before_the_first_epoch_and_the_file_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = train_and_test("DiffuRec", "ml-100k", None, {**SMALL, "epochs": 1, "log_dir": str(tmp_path)})
    before = capsys.readouterr().err.partition("epoch 0")[0].splitlines()
    assert len(before) <= 30 and any("DiffuRec: reading ml-100k from " in line for line in before)
    assert outcome.log_file is not None
    text = outcome.log_file.read_text()
    assert "train_batch_size = " in text and "(item_embedding): Embedding" in text
    train_and_test("DiffuRec", "ml-100k", None, {**SMALL, "epochs": 1, "verbose": True})
    assert "(item_embedding): Embedding" in capsys.readouterr().err
