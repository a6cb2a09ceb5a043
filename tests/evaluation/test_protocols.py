from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from made_data import SMALL_RUN
from recbole.evaluator import Collector

from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.protocols import SUFFIX, apart, protocols
from recbole_diffusion.evaluation.ranking import user_ranks
from recbole_diffusion.evaluation.ranks import hit, ndcg
from recbole_diffusion.host.dataset import build_dataset
from recbole_diffusion.host.loaders import build_loaders
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.training.run import Prepared, prepare, train_and_test

METRICS = ["Hit", "NDCG", "MRR", "AveragePopularity", "ItemCoverage", "Novelty", "IntraListDiversity"]


def prepared(model: str = "SASRec", **changes: Any) -> Prepared:
    run = prepare(load_config(model, "ml-100k", config_dict={**SMALL_RUN, "metrics": METRICS, **changes}))
    run.trainer.eval_collector.data_collect(run.train_data)
    return run


def metrics_of(run: Prepared) -> dict[str, float]:
    return dict(run.trainer.evaluate(run.test_data, load_best_model=False))


def whole_histories(run: Prepared, loader: Any) -> list[list[int]]:
    """All that each row's user has interacted with before the row's time, from the file's interactions."""
    rows, everything = loader._dataset.inter_feat, run.data.inter_feat.sequences.columns
    histories = []
    for position, user in zip(rows.rows.tolist(), rows["user_id"].tolist(), strict=True):
        earlier = everything["item_id"][:position][everything["user_id"][:position] == user]
        histories.append(earlier.tolist())
    return histories


@torch.no_grad()
def plain_ranks(run: Prepared, without_history: bool) -> np.ndarray:
    """Each target's rank by the whole matrix of scores, a row at a time."""
    rows = run.test_data._dataset
    run.model.eval()
    scores = run.model.full_sort_predict(rows[np.arange(len(rows))])
    ranks = []
    for row, history in enumerate(whole_histories(run, run.test_data)):
        target = int(rows.inter_feat["item_id"][row])
        own = float(scores[row, target])
        hidden = {0, *(history if without_history else ())} - {target}
        left = [float(score) for item, score in enumerate(scores[row]) if item not in hidden]
        ranks.append(1 + sum(score > own for score in left))
    return np.array(ranks)


@pytest.mark.parametrize("model", ["DiffuRec", "SASRec"])
@pytest.mark.parametrize("length_batching", [False, True])
def test_both_rankings_are_those_that_are_counted_from_the_whole_scores(model: str, length_batching: bool) -> None:
    run = prepared(model, history_in_ranking="both", length_batching=length_batching)
    # Histories are longer than the ten items that the model is shown.
    assert min(map(len, whole_histories(run, run.test_data))) > 20
    ranks, result = user_ranks(run.trainer, run.test_data), metrics_of(run)
    for rank, suffix in ((ranks.rank, ""), (ranks.rank_out, SUFFIX)):
        expected = plain_ranks(run, without_history=bool(suffix))
        assert np.array_equal(rank, expected)
        for k in (5, 10, 20):
            assert result[f"hit@{k}{suffix}"] == pytest.approx(hit(expected, k).mean(), abs=1e-7)
            assert result[f"ndcg@{k}{suffix}"] == pytest.approx(ndcg(expected, k).mean(), abs=1e-7)
    assert (ranks.rank_out <= ranks.rank).all() and (ranks.rank_out < ranks.rank).any()


@pytest.mark.parametrize("model", ["DiffuRec", "SASRec", "Pop", "BPR"])
@pytest.mark.parametrize("collector", [None, Collector])
def test_both_is_the_two_single_runs(model: str, collector: type | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if collector:
        monkeypatch.setattr("recbole_diffusion.training.evaluating.TopCollector.suffices", lambda config: False)
    results = {value: metrics_of(prepared(model, history_in_ranking=value)) for value in ("in", "out", "both")}
    assert apart(results["both"], "both") == {"in": results["in"], "out": results["out"]}
    assert results["in"] == metrics_of(prepared(model)) and results["in"] != results["out"]


def test_repeatable_false_is_out_and_validation_follows_it() -> None:
    settings = {**SMALL_RUN, "epochs": 2}
    by_name, by_recboles, kept = (
        train_and_test("SASRec", "ml-100k", None, {**settings, **setting}).result
        for setting in ({"history_in_ranking": "out"}, {"repeatable": False}, {"history_in_ranking": "both"})
    )
    assert by_name == by_recboles
    metric = "ndcg@10"
    assert by_name["best_valid_score"] == by_name["best_valid_result"][metric]
    assert kept["best_valid_score"] == kept["best_valid_result"][metric] != by_name["best_valid_score"]


@pytest.mark.parametrize("model", ["SASRec", "BPR"])
def test_what_training_samples_does_not_depend_on_it(model: str) -> None:
    pairs = []
    for setting in ({}, {"history_in_ranking": "out"}):
        loss = {"loss_type": "BPR"} if model == "SASRec" else {}
        run = prepared(model, **loss, train_neg_sample_args={"distribution": "uniform"}, **setting)
        pairs.append([batch["neg_item_id"].tolist() for batch in run.train_data])
    assert pairs[0] == pairs[1]


def test_no_item_of_a_user_is_a_negative_in_the_training_of_a_general_model() -> None:
    train = prepared("BPR").train_data
    rows = train._dataset.inter_feat
    had = set(zip(rows["user_id"].tolist(), rows["item_id"].tolist(), strict=True))
    for batch in train:
        assert not had & set(zip(batch["user_id"].tolist(), batch["neg_item_id"].tolist(), strict=True))


def test_recboles_general_models_have_one_key_by_two_names() -> None:
    by_name, by_recboles, neither = (
        load_config("BPR", "ml-100k", config_dict=setting).plain()
        for setting in ({"history_in_ranking": "out"}, {"repeatable": False}, {})
    )
    assert by_name == by_recboles != neither
    assert (by_name["repeatable"], neither["repeatable"], neither["history_in_ranking"]) == (False, True, "in")
    both = load_config("BPR", "ml-100k", config_dict={"history_in_ranking": "both"}).plain()
    assert (both["repeatable"], both["history_in_ranking"]) == (False, "both")
    # Settings that were saved may be handed in again.
    for saved in (by_name, both):
        assert load_config("BPR", "ml-100k", config_dict=saved).plain() == saved


REPEATED = [("a", "a b c a"), ("b", "b c d e b f"), ("c", "c a d"), ("d", "a b c d e f g"), ("e", "h i j a")]


def repeats(atomic: Any) -> str:
    rows = [f"{user}\t{item}\t{place}" for user, items in REPEATED for place, item in enumerate(items.split())]
    return atomic(inter="\n".join(["user_id:token\titem_id:token\ttimestamp:float", *rows]))


@pytest.mark.parametrize("mode", ["full", "uni2"])
def test_a_target_that_is_in_the_history_stays_and_the_rest_goes(atomic: Any, mode: str) -> None:
    settings = {"data_path": repeats(atomic), "MAX_ITEM_LIST_LENGTH": 2, "topk": [2], "valid_metric": "NDCG@2"}
    settings |= {"history_in_ranking": "out", "eval_args": {"mode": mode}}
    config = load_config("SASRec", "made", config_dict=settings)
    dataset = build_dataset(config)
    tokens = dataset.field2id_token["item_id"]
    expected = {user: set(items.split()[:-1]) - {items.split()[-1]} for user, items in REPEATED}
    users = set()
    for batch in build_loaders(config, dataset)[2]:
        if mode == "full":
            interaction, (row, item), _, targets = batch
            for number, target in enumerate(targets):
                user = dataset.field2id_token["user_id"][interaction["user_id"][number]]
                hidden = set(tokens[item[row == number]])
                assert hidden == expected[user] and tokens[target] not in hidden
                users.add(user)
        else:
            interaction, owner, _, _ = batch
            for number in owner.unique():
                rows = interaction[owner == number]
                user = dataset.field2id_token["user_id"][rows["user_id"][0]]
                assert not expected[user] & set(tokens[rows["item_id"][1:]])
                users.add(user)
    assert users == set(expected)


def test_a_model_whose_rows_hold_the_newest_items_only_is_refused() -> None:
    config = load_config("DIEN", "ml-100k", config_dict={**SMALL_RUN, "history_in_ranking": "out"})
    with pytest.raises(UserError, match="history_in_ranking must be in for DIEN: its rows hold only the newest 10"):
        build_loaders(config, build_dataset(config))


def test_a_configuration_without_the_setting_ranks_the_history() -> None:
    assert protocols(None) == ("in",) and protocols("both") == ("in", "out")
