from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from small_plans import SMALL, InThisProcess, small_plan

from recbole_diffusion.common.files import read_json
from recbole_diffusion.compare import local, runner
from recbole_diffusion.compare.results import collect
from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.ranks import load_ranks
from recbole_diffusion.host.dataset import build_dataset
from recbole_diffusion.host.loaders import build_loaders
from recbole_diffusion.host.registry import recbole_folder
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.host.temporal import boundaries

ML_100K = recbole_folder() / "dataset_example" / "ml-100k" / "ml-100k.inter"
Row = tuple[str, str, tuple[str, ...]]


def splitted(split: Any, model: str = "SASRec", **settings: Any) -> tuple[Any, Any]:
    """The dataset, and its three parts."""
    config = load_config(model, "ml-100k", None, {"eval_args": {"split": split}, **settings})
    dataset = build_dataset(config)
    return dataset, dataset.build()


def rows_of(dataset: Any, part: Any) -> list[Row]:
    """User, target and history of each row, by their tokens."""
    whole = part[np.arange(len(part))]
    users, items = dataset.field2id_token["user_id"], dataset.field2id_token["item_id"]
    return sorted(
        (users[user], items[item], tuple(items[history[:length].numpy()]))
        for user, item, history, length in zip(
            whole["user_id"], whole["item_id"], whole["item_id_list"], whole["item_length"], strict=True
        )
    )


def recounted(first: float, second: float, targets: str, longest: int) -> list[list[Row]]:
    """The same from the file, row by row, with times as the data holds them."""
    table = pd.read_csv(ML_100K, sep="\t", dtype=str)
    table.columns = pd.Index([name.split(":")[0] for name in table.columns])
    time = table["timestamp"].astype(float)
    table["time"] = ((time - time.min()) / (time.max() - time.min())).astype(np.float32)
    table = table.iloc[time.argsort(kind="stable")]
    ordered = sorted(table["time"])
    edges = [ordered[math.ceil(round(share * len(ordered), 6)) - 1] for share in (first, second)]
    every = []
    for user, group in table.groupby("user_id"):
        items, times = list(group["item_id"]), list(group["time"])
        for place in range(1, len(items)):
            history = tuple(items[max(0, place - longest) : place])
            every.append((user, items[place], history, times[place], items[0]))
    train = [row for row in every if row[3] <= edges[0]]
    known = {row[1] for row in train} | {row[4] for row in train}
    parts = [[row[:3] for row in train]]
    for low, high in ((edges[0], edges[1]), (edges[1], math.inf)):
        inside = [row for row in every if low < row[3] <= high and row[1] in known]
        if targets == "last":
            inside = list({row[0]: row for row in inside}.values())
        parts.append([row[:3] for row in inside])
    return [sorted(part) for part in parts]


@pytest.mark.parametrize("targets", ["last", "successive"])
def test_the_parts_are_those_of_a_plain_count(targets: str) -> None:
    dataset, parts = splitted({"GTS": {"quantiles": [0.8, 0.9], "targets": targets}}, MAX_ITEM_LIST_LENGTH=15)
    expected = recounted(0.8, 0.9, targets, 15)
    for part, rows in zip(parts, expected, strict=True):
        assert rows_of(dataset, part) == rows
    train, valid, test = parts
    latest = float(train.inter_feat["timestamp"].max())
    assert latest < float(valid.inter_feat["timestamp"].min())
    assert float(valid.inter_feat["timestamp"].max()) < float(test.inter_feat["timestamp"].min())
    assert float(train.inter_feat["timestamp_list"].max()) <= latest
    # Behind the first boundary lies a fifth of all interactions, not of each user's.
    assert 0.19 < (dataset.inter_feat.sequences.columns["timestamp"] > latest).float().mean() <= 0.2
    known = torch.from_numpy(np.asarray(train.inter_matrix().sum(axis=0)).ravel() > 0)
    assert bool(known[test.inter_feat["item_id"]].all()) and not bool(known[1:].all())
    if targets == "last":
        assert len(test.inter_feat["user_id"].unique()) == len(test)


def test_a_list_means_the_last_targets() -> None:
    (_, short), (_, long) = (splitted({"GTS": parts}) for parts in ([0.7, 0.8], {"quantiles": [0.7, 0.8]}))
    for one, other in zip(short, long, strict=True):
        assert torch.equal(one.inter_feat.rows, other.inter_feat.rows)


def test_equal_times_are_not_cut_apart() -> None:
    assert boundaries(torch.tensor([1.0, 2.0, 2.0, 2.0, 3.0, 4.0]), (0.4, 0.9)) == (2.0, 4.0)
    assert boundaries(torch.arange(1.0, 11.0), (0.8, 0.9)) == (8.0, 9.0)


@pytest.mark.parametrize("model", ["SASRec", "ADRec"])
def test_models_that_train_on_rows_and_on_sequences_see_each_target_once(model: str) -> None:
    settings = {"split": {"GTS": [0.8, 0.9]}}
    config = load_config(model, "ml-100k", None, {"eval_args": settings, "MAX_ITEM_LIST_LENGTH": 15})
    train, _, _ = build_loaders(config, build_dataset(config))
    expected = {row[:2] for row in recounted(0.8, 0.9, "last", 15)[0]}
    seen = set()
    users, items = (train._dataset.field2id_token[field] for field in ("user_id", "item_id"))
    for batch in train:
        targets = [batch["item_id"][:, None]]
        if model == "ADRec":
            # A place's target is the item after it.
            targets.append(batch["item_id_list"][:, 1:])
        for user, row in zip(batch["user_id"], torch.cat(targets, dim=1), strict=True):
            seen |= {(users[user], items[item]) for item in row if item}
    assert seen == expected


def test_a_comparison_of_every_kind_of_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "start_process", InThisProcess)
    given = {**SMALL, "model_list": "DiffuRec,ADRec,SASRec", "seeds": "1", "off_switch": "False", "epochs": "1"}
    given["user_inter_num_interval"] = "[0,60]"
    given["eval_args"] = "{split: {GTS: {quantiles: [0.7, 0.85], targets: successive}}}"
    plan = small_plan(**given, output=str(tmp_path))
    runner.run_all(plan, [])
    results = collect(plan)
    assert [row["failed"] for row in results["rows"]] == [{}, {}, {}]
    assert len(results["pairs"]) == 3
    stored = [load_ranks(run.folder / "ranks.npz") for run in plan.runs]
    assert all(np.array_equal(np.sort(one.item), np.sort(stored[0].item)) for one in stored)
    # Several targets a user; a test is over users.
    assert results["users"] == len(np.unique(stored[0].user)) < len(stored[0].user)
    record = read_json(plan.runs[0].folder / "record.json")
    hits = (stored[0].rank <= 10).mean()
    assert record["test_result"]["hit@10"] == pytest.approx(hits, abs=5e-5)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"GTS": [0.9, 0.8]}, r"eval_args.split must have GTS: two rising quantiles between 0 and 1"),
        ({"GTS": [0.9]}, "two rising quantiles"),
        ({"GTS": ["a", "b"]}, "two rising quantiles"),
        ({"GTS": 0.9}, "two rising quantiles"),
        ({"GTS": {"quantiles": [0.8, 0.9], "targets": "first"}}, "targets: last or successive"),
        ({"GTS": {"quantiles": [0.8, 0.9], "target": "last"}}, "targets: last or successive"),
        ({"GTS": [0.8, 0.9], "LS": "valid_only"}, r"eval_args.split must be \{LS"),
    ],
)
def test_what_is_no_such_split(split: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_config("SASRec", "ml-100k", None, {"eval_args": {"split": split}})


def test_models_that_are_not_sequential_are_refused() -> None:
    with pytest.raises(UserError, match=r"eval_args\.split must be LS, RS or TS for BPR"):
        splitted({"GTS": [0.8, 0.9]}, "BPR")


def test_an_empty_part_is_said(atomic: Callable[..., str]) -> None:
    # Behind the boundaries stand only items that training does not know.
    rows = "".join(f"u{user}\ti{at}\t{at}\n" for user in range(3) for at in range(20))
    path = atomic(inter=f"user_id:token\titem_id:token\ttimestamp:float\n{rows}")
    config = load_config("SASRec", "made", None, {"data_path": path, "eval_args": {"split": {"GTS": [0.8, 0.9]}}})
    with pytest.raises(UserError, match=r"the split GTS: \[0.8, 0.9\] leaves the validation part empty"):
        build_loaders(config, build_dataset(config))
