from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from made_data import SMALL_RUN
from scipy.sparse import csr_matrix

from recbole_diffusion.host import metrics
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.training.run import prepare, train_and_test

CONFIG = {"topk": [2, 3, 5], "metric_decimal_place": 12}
# Item -> the users who have it, of 8: item 3 has all of them, 0 (the padding) and 6 none.
OWNERS = [set(), {1, 2}, {2, 3, 4}, set(range(1, 9)), {5}, {5}, set(), {1, 8}]
LISTS = np.array([[1, 2, 3, 4, 5], [4, 5, 6, 7, 3], [6, 0, 1, 3, 7], [3, 1, 2, 7, 6]])


def novelty(lists: np.ndarray, owners: list[set[int]]) -> float:
    """By the definition, an item at a time."""
    users = len(set().union(*owners))
    return float(np.mean([[-np.log2(max(len(owners[item]), 1) / users) for item in items] for items in lists]))


def diversity(lists: np.ndarray, owners: list[set[int]]) -> float:
    """By the definition, a pair of items at a time."""

    def distance(one: set[int], other: set[int]) -> float:
        return 1 - len(one & other) / np.sqrt(len(one) * len(other)) if one and other else 1.0

    pairs = [[distance(owners[i], owners[j]) for i, j in combinations(items, 2)] for items in lists]
    return float(np.mean(pairs))


PLAIN = {metrics.Novelty: novelty, metrics.IntraListDiversity: diversity}


def collected(lists: np.ndarray, owners: list[set[int]]) -> dict[str, Any]:
    users = np.array([[user in owner for user in range(10)] for owner in owners], float)
    return {"rec.items": torch.from_numpy(lists), metrics.ITEM_USERS: csr_matrix(users)}


@pytest.mark.parametrize("block", [1, 12, 2**23])
@pytest.mark.parametrize("metric", metrics.METRICS)
def test_they_are_their_definition(metric: type, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "LARGEST_BLOCK", block)
    found = metric(CONFIG).calculate_metric(collected(LISTS, OWNERS))
    expected = {f"{metric.__name__.lower()}@{k}": PLAIN[metric](LISTS[:, :k], OWNERS) for k in CONFIG["topk"]}
    assert found == pytest.approx(expected, abs=1e-11)


@pytest.mark.parametrize(
    "items, bits, distance",
    # Of eight users: an item that all have, items of the same user, items that nobody has.
    [([3, 3], 0, 0), ([4, 5], 3, 0), ([0, 6], 3, 1), ([4, 7], 2.5, 1)],
)
def test_the_ends_of_their_scales(items: list[int], bits: float, distance: float) -> None:
    data = collected(np.array([items]), OWNERS)
    config = {**CONFIG, "topk": [2]}
    assert metrics.Novelty(config).calculate_metric(data) == {"novelty@2": bits}
    assert metrics.IntraListDiversity(config).calculate_metric(data) == {"intralistdiversity@2": distance}


@torch.no_grad()
@pytest.mark.parametrize("model", ["SASRec", "DiffuRec"])
def test_a_run_has_those_of_its_lists_by_the_training_part_alone(model: str) -> None:
    names = ["NDCG", "Novelty", "IntraListDiversity"]
    config = load_config(model, "ml-100k", None, {**SMALL_RUN, "metrics": names, "history_in_ranking": "both"})
    run = prepare(config)
    run.trainer.eval_collector.data_collect(run.train_data)
    found = run.trainer.metrics(run.test_data)
    owners: list[set[int]] = [set() for _ in range(run.data.item_num)]
    sequences = run.data.inter_feat.sequences.columns
    users, items = (sequences[field].numpy() for field in ("user_id", "item_id"))
    for user in np.unique(users):
        # Leave-one-out: the last two are for validation and test. The first is no target, and counts.
        for item in items[users == user][:-2]:
            owners[item].add(int(user))
    lists: dict[str, list[np.ndarray]] = {"": [], "_history_out": []}
    for batch in run.test_data:
        for protocol, _, scores in run.trainer.score_pieces(batch, run.data.item_num):
            best = scores.topk(20).indices
            lists["_history_out" if protocol == "out" else ""].append(best.numpy())
    for suffix, parts in lists.items():
        whole = np.concatenate(parts)
        for metric, plain in PLAIN.items():
            for k in (5, 10, 20):
                expected = plain(whole[:, :k], owners)
                assert found[f"{metric.__name__.lower()}@{k}{suffix}"] == pytest.approx(expected, abs=1e-7)
    assert found["novelty@10"] != found["novelty@10_history_out"]


@pytest.mark.parametrize("metric", ["Novelty", "IntraListDiversity"])
def test_validation_can_follow_them_and_more_is_better(metric: str) -> None:
    settings = {**SMALL_RUN, "epochs": 2, "metrics": ["NDCG", metric], "valid_metric": f"{metric}@10"}
    done = train_and_test("BPR", "ml-100k", None, {**settings, "eval_args": {"order": "TO"}}).result
    assert done["valid_score_bigger"]
    assert done["best_valid_score"] == done["best_valid_result"][f"{metric.lower()}@10"] > 0


def test_an_item_counts_once_for_a_user_who_repeats_it(atomic: Any) -> None:
    rows = [f"u{user}\t{item}\t{place}" for user in (1, 2) for place, item in enumerate("abaacd")]
    path = atomic(inter="\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows]))
    settings = {**SMALL_RUN, "data_path": path, "user_inter_num_interval": None, "topk": [3], "valid_metric": "NDCG@3"}
    run = prepare(load_config("SASRec", "made", None, settings))
    users = metrics.item_users(run.train_data.dataset)
    tokens = run.data.field2id_token["item_id"]
    counts = dict(zip(tokens, users.sum(axis=1).A1.tolist(), strict=True))
    assert counts == {"[PAD]": 0, "a": 2, "b": 2, "c": 0, "d": 0}
