from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recbole_diffusion.evaluation.statistics import (
    Means,
    Verdict,
    compare_pairs,
    holm,
    interval,
    mcnemar,
    resampled_means,
    wilcoxon,
)

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def scores(seeds: int, users: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((seeds, users))


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([0.2]) == [0.2]


@given(P_VALUES)
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(p_values: list[float]) -> None:
    corrected = holm(p_values)
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.asarray(corrected)[order]) >= 0)
    for raw, p in zip(p_values, corrected, strict=True):
        assert raw <= p <= min(1, raw * len(p_values)) + 1e-12


@given(P_VALUES, st.floats(0.001, 0.2))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float], alpha: float) -> None:
    rejected = set()
    for step, number in enumerate(np.argsort(p_values, kind="stable")):
        if p_values[number] * (len(p_values) - step) >= alpha:
            break
        rejected.add(int(number))
    assert {number for number, p in enumerate(holm(p_values)) if p < alpha} == rejected


def test_mcnemar_by_hand() -> None:
    # 8 users hit by the first alone, 2 by the second alone: 2 (1 + 10 + 45) / 2^10.
    first = np.array([[1] * 8 + [0] * 2 + [1] * 5 + [0] * 5])
    second = np.array([[0] * 8 + [1] * 2 + [1] * 5 + [0] * 5])
    assert mcnemar(first, second) == (pytest.approx(112 / 1024), 1)
    assert mcnemar(second, first) == (pytest.approx(112 / 1024), -1)
    assert mcnemar(first, first) == (1, 0)


def test_mcnemar_counts_a_user_for_the_model_with_more_hits_over_seeds() -> None:
    first = np.array([[1, 1, 0, 1], [1, 0, 0, 1], [1, 0, 1, 0]])
    second = np.array([[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 1, 1]])
    # Only the first user differs.
    assert mcnemar(first, second).p == 1
    assert mcnemar(np.repeat(first[:, :1], 6, axis=1), np.repeat(second[:, :1], 6, axis=1)).p == pytest.approx(2 / 64)


def test_wilcoxon_is_scipys_on_the_means_over_seeds() -> None:
    first, second = scores(3, 40), scores(3, 40, seed=1)
    expected = stats.wilcoxon(first.mean(axis=0), second.mean(axis=0))
    test, other_way = wilcoxon(first, second), wilcoxon(second, first)
    assert test.p == other_way.p == pytest.approx(expected.pvalue, rel=1e-12)
    in_favour = stats.wilcoxon(first.mean(axis=0), second.mean(axis=0), alternative="greater").pvalue < 0.5
    assert test.sign == -other_way.sign == (1 if in_favour else -1)


@pytest.mark.parametrize("users", [1, 2, 5, 8])
def test_wilcoxon_of_few_users_with_ties_counts_all_signs(users: int) -> None:
    for seed in range(5):
        difference = np.random.default_rng(seed).choice([-3, -2, -1, 1, 2], users) / 4
        ranks = stats.rankdata(np.abs(difference))
        sums = [
            sum(r if plus else -r for r, plus in zip(ranks, signs, strict=True))
            for signs in product((0, 1), repeat=users)
        ]
        found = float(np.dot(ranks, np.sign(difference)))
        expected = sum(abs(one) >= abs(found) for one in sums) / len(sums)
        assert wilcoxon(difference[None], np.zeros((1, users))).p == pytest.approx(expected, rel=1e-12)


def test_users_without_a_difference_tell_nothing() -> None:
    first, second = scores(2, 60), scores(2, 60, seed=1)
    same = scores(2, 500, seed=2)
    with_ties = [np.concatenate([part, same], axis=1) for part in (first, second)]
    assert wilcoxon(*with_ties) == wilcoxon(first, second)
    assert mcnemar(*(part > 0.5 for part in with_ties)) == mcnemar(first > 0.5, second > 0.5)


@pytest.mark.parametrize("test", [mcnemar, wilcoxon])
def test_more_seeds_are_no_advantage(test: Callable[[np.ndarray, np.ndarray], Verdict]) -> None:
    hits = np.random.default_rng(3).random((400, 4, 1000)) < 0.07
    significant = [test(drawn[:3], drawn[3:]).p < 0.05 for drawn in hits.astype(float)]
    # Of 400 tests of equal models about 20 are expected.
    assert 5 <= sum(significant) <= 35


def test_equal_seeds_in_another_order_differ_in_nothing() -> None:
    first = scores(3, 50)
    assert wilcoxon(first, first[::-1]) == (1, 0)
    assert mcnemar(first > 0.5, (first > 0.5)[::-1]) == (1, 0)


def test_bootstrap_over_users_has_the_standard_error_of_the_mean() -> None:
    score = scores(1, 400)
    (means,) = resampled_means([score], resamples=4000)
    assert means.resampled.mean() == pytest.approx(score.mean(), abs=0.002)
    assert means.resampled.std() == pytest.approx(score.std() / 20, rel=0.05)


def test_bootstrap_is_paired_by_user() -> None:
    score = scores(1, 100)
    first, second = resampled_means([score, score + 0.25], resamples=50)
    assert second.resampled - first.resampled == pytest.approx(0.25, rel=1e-9)


def test_bootstrap_is_the_same_twice_and_leaves_the_global_generator() -> None:
    before = np.random.get_state(legacy=False)["state"]["pos"]
    once, again = (resampled_means([scores(2, 9)], 20)[0] for _ in range(2))
    assert np.array_equal(once.resampled, again.resampled) and np.array_equal(once.by_seed, again.by_seed)
    assert np.random.get_state(legacy=False)["state"]["pos"] == before


def test_interval_of_one_seed_is_the_middle_of_the_resampled_means() -> None:
    sample = np.arange(1001.0)[:, None]
    assert interval(Means(np.array([7.0]), sample)) == pytest.approx((25, 975))
    assert interval(Means(np.array([7.0]), sample), Means(np.array([0.0]), sample * 3)) == pytest.approx((-1950, -50))


def test_interval_of_seeds_alone_is_students() -> None:
    # All users alike, so that only the seeds vary.
    one, other = np.array([0.1, 0.2, 0.6]), np.array([0.3, 0.31, 0.2, 0.25])
    first, second = resampled_means([np.repeat(levels[:, None], 50, axis=1) for levels in (one, other)], 50)
    assert interval(first) == pytest.approx(stats.ttest_1samp(one, 0).confidence_interval(0.95))
    welch = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.9)
    assert interval(first, second, 0.9) == pytest.approx(welch)


def test_interval_without_a_spread_is_the_mean() -> None:
    (means,) = resampled_means([np.full((3, 20), 0.25)], 20)
    assert interval(means) == pytest.approx((0.25, 0.25))


@pytest.mark.parametrize(("of_seed", "of_both"), [(1.0, 0.01), (0.0, 1.0), (0.06, 1.0)])
@pytest.mark.parametrize("seeds", [2, 5])
def test_interval_covers_the_truth_as_often_as_it_says(seeds: int, of_seed: float, of_both: float) -> None:
    """Two equal models, whose scores vary by user, by seed and by both: 0 is missed once in twenty times."""
    rng = np.random.default_rng(seeds)
    missed, trials, users = 0, 300, 50
    for _ in range(trials):
        user = rng.normal(size=users)
        models = [
            user + of_seed * rng.normal(size=(seeds, 1)) + of_both * rng.normal(size=(seeds, users)) for _ in range(2)
        ]
        # In place of a bootstrap: its means vary as those of these normal numbers.
        apart = [model - model.mean(axis=1, keepdims=True) for model in models]
        draws = rng.normal(size=(100, users)) / users
        low, high = interval(
            *(Means(m.mean(axis=1), m.mean(axis=1) + draws @ a.T) for m, a in zip(models, apart, strict=True))
        )
        missed += low > 0 or high < 0
    # Four standard errors of the share; resampling seeds misses 13 to 33 % in the first form.
    assert missed / trials < 0.05 + 4 * np.sqrt(0.05 * 0.95 / trials)
    assert missed


def test_pairs() -> None:
    base = scores(5, 300)
    # The third differs from the first for every user, but on the whole in nothing.
    ndcg = [base, base + 0.2, base + np.tile([0.1, -0.1], 150)]
    hits = [(score > 0.6).astype(float) for score in ndcg]
    pairs = compare_pairs(["a", "b", "c"], ndcg, hits)
    assert [(pair.first, pair.second) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    better, same, _ = pairs
    assert better.difference == pytest.approx(-0.2) and better.high < 0
    assert better.hit_difference == pytest.approx(hits[0].mean() - hits[1].mean())
    assert better.hit_low < better.hit_difference < better.hit_high < 0
    assert better.ndcg_significant and better.hit_significant
    assert same.low < 0 < same.high and not same.ndcg_significant and not same.hit_significant
    assert [pair.wilcoxon_holm for pair in pairs] == holm([pair.wilcoxon for pair in pairs])
    assert [pair.mcnemar_holm for pair in pairs] == holm([pair.mcnemar for pair in pairs])


def test_equivalence_needs_an_interval_within_two_per_cent() -> None:
    base = scores(3, 400)
    close, far = base + base.mean() * 0.01, base + base.mean() * 0.03
    # Shifted alike for every user: the interval has the width of the seeds' spread alone, here none.
    even = np.tile(base.mean(axis=0), (3, 1))
    names, models = (
        ["close", "far", "noisy", "base"],
        [even + base.mean() * 0.01, even + base.mean() * 0.03, close, even],
    )
    tested = compare_pairs(names, models, models, against="base")
    assert [pair.equivalent for pair in tested][:2] == [True, False]
    for pair in tested:
        assert pair.margin == pytest.approx(0.02 * base.mean())
        assert pair.low <= pair.tost_low <= pair.difference <= pair.tost_high <= pair.high
        assert pair.equivalent == (-pair.margin < pair.tost_low and pair.tost_high < pair.margin)
    wide = scores(3, 400, seed=5)
    (unlike,) = compare_pairs(["a", "b"], [wide, base], [wide, base])
    assert not unlike.equivalent and unlike.tost_high - unlike.tost_low > 2 * unlike.margin
    assert far.mean() > close.mean()


def test_chosen_pairs_are_corrected_for_these() -> None:
    base = scores(2, 300)
    models = [base, base + 0.2, base + np.tile([0.1, -0.1], 150)]
    (pair,) = compare_pairs(["a", "b", "c"], models, models, pairs=[("c", "a")])
    assert (pair.first, pair.second) == ("c", "a") and pair.wilcoxon_holm == pair.wilcoxon


def test_no_difference_holds_where_test_and_mean_disagree() -> None:
    # The first has the higher mean by far, the second is ahead of it for most users.
    ahead = np.concatenate([np.full(300, 0.5), np.full(600, -0.1)])
    first, second = np.tile(ahead.clip(min=0), (2, 1)), np.tile((-ahead).clip(min=0), (2, 1))
    (pair,) = compare_pairs(["a", "b"], [first, second], [first, second])
    assert pair.low > 0 and wilcoxon(first, second).sign == 1 and pair.ndcg_significant
    assert pair.mcnemar_holm < 0.05 and mcnemar(first, second).sign == -1 and not pair.hit_significant
    (pair,) = compare_pairs(["a", "b"], [first[:, 120:], second[:, 120:]], [first, second])
    assert pair.low > 0 and pair.wilcoxon_holm < 0.05 and not pair.ndcg_significant


def test_no_difference_holds_that_other_seeds_may_turn() -> None:
    # One seed serves everybody and the other nobody: ahead of the second for most users, in the mean of these two.
    first = np.repeat([[1.0], [0.0]], 200, axis=1)
    second = np.repeat([[0.0] * 140 + [1.0] * 60], 2, axis=0)
    (pair,) = compare_pairs(["a", "b"], [first, second], [first, second])
    assert pair.difference == pair.hit_difference == pytest.approx(0.2)
    assert max(pair.wilcoxon_holm, pair.mcnemar_holm) < 0.001
    assert pair.low < 0 < pair.high and pair.hit_low < 0 < pair.hit_high
    assert not pair.ndcg_significant and not pair.hit_significant


def test_pairs_with_one_model_alone_are_corrected_for_these() -> None:
    base = scores(2, 300)
    ndcg = [base + 0.01, base, base + np.tile([0.1, -0.1], 150)]
    names, hits = ["a", "b", "c"], [(score > 0.6).astype(float) for score in ndcg]
    every = {(pair.first, pair.second): pair for pair in compare_pairs(names, ndcg, hits)}
    of_b = compare_pairs(names, ndcg, hits, against="b")
    assert [(pair.first, pair.second) for pair in of_b] == [("a", "b"), ("c", "b")]
    first, second = of_b
    assert first[2:10] == every["a", "b"][2:10]
    assert second.difference == -every["b", "c"].difference and second.low == pytest.approx(-every["b", "c"].high)
    assert [pair.wilcoxon_holm for pair in of_b] == holm([pair.wilcoxon for pair in of_b])
    assert compare_pairs(names, ndcg, hits, against="of no run") == []


def test_no_pair_of_a_single_model() -> None:
    assert compare_pairs(["a"], [scores(1, 3)], [scores(1, 3)]) == []
