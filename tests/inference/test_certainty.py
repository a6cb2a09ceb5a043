from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist

from recbole_diffusion.inference import Recommender
from recbole_diffusion.inference.certainty import choice_entropy, cover, relative_distance

SIZES = st.tuples(st.integers(2, 6), st.integers(1, 4), st.integers(1, 5))


def lists(samples: int, rows: int, k: int, seed: int) -> torch.Tensor:
    """Draws' best items int64 [S, B, k] among 3k, each list without repetitions."""
    random = np.random.default_rng(seed)
    tops = [[random.permutation(3 * k)[:k] + 1 for _ in range(rows)] for _ in range(samples)]
    return torch.from_numpy(np.array(tops))


@settings(max_examples=30, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 999), spread=st.sampled_from([1e-4, 1.0, 100.0]))
def test_distance_is_the_mean_over_all_pairs_for_a_length_of_one(
    sizes: tuple[int, int, int], seed: int, spread: float
) -> None:
    draws = 5 + spread * np.random.default_rng(seed).standard_normal(sizes)
    lengths = np.linalg.norm(draws, axis=-1).mean(axis=0)
    expected = [pdist(draws[:, row]).mean() / lengths[row] for row in range(sizes[1])]
    np.testing.assert_allclose(relative_distance(torch.from_numpy(draws)), expected, rtol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=12))
def test_entropy_is_that_of_the_shares(choices: list[int]) -> None:
    entropy = choice_entropy(torch.tensor(choices)[:, None])
    np.testing.assert_allclose(entropy, [scipy.stats.entropy(np.unique(choices, return_counts=True)[1])], atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 999))
def test_a_covering_list_has_different_items_of_the_draws(sizes: tuple[int, int, int], seed: int) -> None:
    tops = lists(*sizes, seed)
    for row, items in enumerate(cover(tops).tolist()):
        assert len(set(items)) == sizes[2] and set(items) <= set(tops[:, row].flatten().tolist())


@settings(max_examples=40, deadline=None)
@given(sizes=SIZES, seed=st.integers(0, 999))
def test_draws_that_agree_are_covered_by_their_own_list(sizes: tuple[int, int, int], seed: int) -> None:
    tops = lists(1, sizes[1], sizes[2], seed)
    assert torch.equal(cover(tops.repeat(sizes[0], 1, 1)), tops[0])


def test_every_draw_gets_its_item_where_a_mean_would_serve_the_majority() -> None:
    tops = torch.tensor([[[1, 2, 3]], [[1, 2, 3]], [[1, 2, 3]], [[9, 8, 7]]])
    assert set(cover(tops)[0].tolist()) == {1, 2, 9}


def test_a_list_that_cannot_be_filled_ends_in_nothing() -> None:
    assert cover(torch.tensor([[[4, 0, 0]], [[5, 4, 0]]])).tolist() == [[4, 5, 0]]


@pytest.mark.parametrize("model", ["DiffuRec", "DiffRec"])
def test_without_noise_all_draws_agree(loaded: Callable[[str], Recommender], model: str) -> None:
    recommender = loaded(model)
    if model == "DiffuRec":
        recommender = Recommender.load(recommender.path, device="cpu", settings={"noise_scale": 0.0})
    sure = recommender.recommend(["50", "258"], inference_seeds=4, temperature=0.0).certainty
    assert sure is not None
    assert (sure.share == 1).all() and (sure.entropy == 0).all() and (sure.distance < 1e-5).all()
    assert (sure.spread < 1e-5).all()


@pytest.mark.parametrize("model", ["DiffuRec", "DiffRec"])
def test_more_noise_makes_less_sure(loaded: Callable[[str], Recommender], model: str) -> None:
    recommender = loaded(model)
    histories = [recommender.vocabulary.tokens[recommender.users.row(row)] for row in range(50)]
    measured = [
        recommender.recommend(histories, inference_seeds=8, temperature=scale).certainty for scale in (0.3, 3.0)
    ]
    quiet, loud = (figures for figures in measured if figures is not None)
    assert quiet.distance.mean() < loud.distance.mean() and quiet.share.mean() > loud.share.mean()
    assert ((loud.share >= 0) & (loud.share <= 1)).all() and quiet.spread.mean() < loud.spread.mean()


@pytest.mark.parametrize("model", ["DiffuRec", "DiffRec"])
def test_figures_are_those_of_single_draws(loaded: Callable[[str], Recommender], model: str) -> None:
    recommender = loaded(model)
    n_items = len(recommender.vocabulary)
    whole = recommender.recommend(["50", "258"], topk=5, inference_seeds=3, temperature=3.0)
    assert whole.certainty is not None
    scores = []
    for count in (1, 2, 3):
        # The mean over n draws, less that over n - 1: what draw n alone scores.
        drawn = recommender.recommend(["50", "258"], topk=n_items, inference_seeds=count, temperature=3.0)
        by_item = dict(zip(drawn.items[0], drawn.scores[0].astype(float), strict=True))
        scores.append(np.array([by_item[item] for item in whole.items[0]]))
    totals = [count * (np.exp(mean) if model == "DiffRec" else mean) for count, mean in enumerate(scores, start=1)]
    single = np.diff(np.array([0 * totals[0], *totals]), axis=0)
    single = np.log(single) if model == "DiffRec" else single
    np.testing.assert_allclose(whole.certainty.mean[0], single.mean(axis=0), rtol=1e-3)
    np.testing.assert_allclose(whole.certainty.spread[0], single.std(axis=0, ddof=1), rtol=0.02, atol=1e-3)


def test_diversified_lists_hold_more_than_the_mean_does(diffurec: Recommender) -> None:
    histories = [diffurec.vocabulary.tokens[diffurec.users.row(row)] for row in range(50)]
    options = {"inference_seeds": 8, "temperature": 3.0}
    mean, covering = (diffurec.recommend(histories, diversify=way, **options) for way in (False, True))
    assert (mean.items != covering.items).any()
    # What is recommended by both has the same score.
    scores = dict(zip(mean.items[0], mean.scores[0], strict=True))
    for item, score in zip(covering.items[0], covering.scores[0], strict=True):
        assert score == pytest.approx(scores.get(item, score), abs=1e-5)
