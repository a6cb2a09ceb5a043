from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_data import SMALL_RUN
from recbole.evaluator import Collector

from recbole_diffusion.common.blocks import row_pieces
from recbole_diffusion.evaluation import ranking
from recbole_diffusion.evaluation.ranking import top_items, user_ranks
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.training.run import Prepared, prepare

# Metrics that need no more than the best items: RecBole's, then ours.
METRICS = ["Recall", "MRR", "NDCG", "Hit", "MAP", "Precision", "ItemCoverage", "AveragePopularity", "GiniIndex"]
METRICS += ["Novelty", "IntraListDiversity"]


def prepared(model: str = "DiffuRec", **changes: object) -> Prepared:
    run = prepare(load_config(model, "ml-100k", config_dict={**SMALL_RUN, "metrics": METRICS, **changes}))
    run.trainer.eval_collector.data_collect(run.train_data)
    return run


@given(st.integers(1, 300), st.integers(1, 50), st.integers(1, 500))
def test_pieces_cover_every_row_once_and_hold_no_more_than_a_block(rows: int, width: int, block: int) -> None:
    pieces = list(row_pieces(rows, width, block))
    assert np.concatenate([np.arange(rows)[piece] for piece in pieces]).tolist() == list(range(rows))
    assert all((piece.stop - piece.start) * width <= max(block, width) for piece in pieces)


@pytest.mark.parametrize("block", [1, 100, 2**26])
def test_best_items_are_those_of_the_full_sort_without_padding_and_what_is_hidden(block: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(7, 30, generator=generator)
    scores[:, 0] = 100.0
    hidden = torch.tensor([[5, 0, 0]] * 3 + [[1, 2, 3]] * 4)
    best = top_items(lambda rows: scores[rows].clone(), 7, 30, 4, hidden, block)
    for row in range(7):
        allowed = [item for item in range(1, 30) if item not in hidden[row].tolist()]
        expected = sorted(allowed, key=lambda item: -float(scores[row, item]))[:4]
        assert best.items[row].tolist() == expected
        assert best.scores[row].tolist() == scores[row, expected].tolist()


@pytest.mark.parametrize("block", [1, 100, 2**26])
def test_targets_stand_where_the_full_sort_has_them(block: int) -> None:
    scores = torch.randn(7, 30, generator=torch.Generator().manual_seed(0))
    hidden, targets = torch.tensor([[5, 0]] * 7), torch.tensor([5, 1, 2, 3, 4, 6, 29])
    best = top_items(lambda rows: scores[rows].clone(), 7, 30, 28, hidden, block, targets)
    assert best.target_ranks is not None
    for row, target in enumerate(targets.tolist()):
        listed = best.items[row].tolist()
        assert best.target_ranks[row] == (0 if target == 5 else listed.index(target) + 1)


@pytest.mark.parametrize("block", [1, 10_000])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"model": "DiffRec"},
        {"model": "SASRec"},
        {"model": "Pop"},
        {"model": "BPR", "repeatable": False, "eval_args": {"order": "RO", "split": {"RS": [8, 1, 1]}}},
        {"eval_args": {"mode": "uni20"}},
    ],
    ids=["DiffuRec", "DiffRec", "SASRec", "Pop", "BPR with a hidden history", "sampled"],
)
def test_streamed_metrics_equal_those_of_recboles_collector(
    changes: dict[str, object], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(**changes)
    monkeypatch.setattr(row_pieces, "__defaults__", (block,))
    streamed = run.trainer.evaluate(run.test_data, load_best_model=False)
    run.trainer.eval_collector = Collector(run.trainer.config)
    run.trainer.eval_collector.data_collect(run.train_data)
    assert streamed == run.trainer.evaluate(run.test_data, load_best_model=False)
    assert len(streamed) == 3 * len(METRICS)


def test_metrics_that_need_every_score_still_have_it() -> None:
    run = prepared(metrics=["GAUC", "Hit"], valid_metric="Hit@10")
    assert type(run.trainer.eval_collector) is Collector
    assert 0 < run.trainer.evaluate(run.test_data, load_best_model=False)["gauc"] < 1


@pytest.mark.parametrize("model", ["DiffuRec", "SASRec", "Pop"])
def test_ranks_give_the_metrics(model: str) -> None:
    run = prepared(model)
    ranks = user_ranks(run.trainer, run.test_data)
    result = run.trainer.evaluate(run.test_data, load_best_model=False)
    hit = ranks.rank <= 10
    # Popularity has many ties, which the metrics break at random.
    tolerance = 0.02 if model == "Pop" else 1e-7
    assert hit.mean() == pytest.approx(result["hit@10"], abs=tolerance)
    ndcg = np.where(hit, 1 / np.log2(ranks.rank + 1.0), 0).mean()
    assert ndcg == pytest.approx(result["ndcg@10"], abs=tolerance)


def test_ranks_say_whose_they_are() -> None:
    run = prepared()
    ranks = user_ranks(run.trainer, run.test_data)
    rows = run.test_data._dataset.inter_feat
    order = np.argsort(ranks.user)
    by_user = torch.argsort(rows["user_id"])
    for ours, field in ((ranks.user, "user_id"), (ranks.item, "item_id"), (ranks.length, "item_length")):
        assert ours[order].tolist() == rows[field][by_user].tolist()


def test_ties_share_a_rank_and_a_score_that_is_no_number_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepared()
    n_items = run.data.item_num

    def scores(value: float) -> object:
        return lambda interaction: torch.full((len(interaction), n_items), value)

    monkeypatch.setattr(run.model, "full_sort_predict", scores(1.0))
    assert set(user_ranks(run.trainer, run.test_data).rank) == {1 + (n_items - 2) // 2}
    monkeypatch.setattr(run.model, "full_sort_predict", scores(float("nan")))
    assert set(user_ranks(run.trainer, run.test_data).rank) == {n_items - 1}


def test_a_block_is_what_the_module_says() -> None:
    assert row_pieces.__defaults__ == (ranking.LARGEST_BLOCK,)
