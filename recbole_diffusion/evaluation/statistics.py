"""Tests of paired differences over users. A model's scores are [S, U]: seeds by users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, permutations
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 10_000
LEVEL = 0.95
# The largest difference that counts as none, a share of the second model's mean.
MARGIN = 0.02
# Means of equal numbers taken in another order are equal to so many places.
PLACES = 12
# Users up to which p is exact where their differences have ties, as SciPy has it.
MOST_WITH_TIES = 13


class Verdict(NamedTuple):
    """What a test of two models says.

    p : float
        Two-sided.
    sign : int
        1 where it favours the first, -1 the second, 0 neither.
    """

    p: float
    sign: int


class Pair(NamedTuple):
    """Two models compared.

    first, second : str
    difference : float
        Mean over users of first - second, the seeds averaged within a user.
    low, high : float
        Its `interval`, not corrected for the number of pairs.
    hit_difference, hit_low, hit_high : float
        Likewise of the hits.
    wilcoxon, mcnemar : float
        p-values, as they are and corrected by Holm over the pairs tested.
    wilcoxon_holm, mcnemar_holm : float
    margin : float
        The largest difference of NDCG that counts as none: `MARGIN` times the second model's mean.
    tost_low, tost_high : float
        The interval of the difference of NDCG at the level 1 - 2 (1 - `LEVEL`).
    equivalent : bool
        Whether it lies within the margin: two one-sided tests at 1 - `LEVEL` (TOST, Schuirmann 1987) then both reject.
    ndcg_significant, hit_significant : bool
        Whether the interval excludes zero, the corrected p-value is below 1 - `LEVEL`, and the test favours the model
        with the higher mean: ranks and means can disagree. Of the three the interval alone covers other seeds.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    hit_difference: float
    hit_low: float
    hit_high: float
    wilcoxon: float
    mcnemar: float
    wilcoxon_holm: float
    mcnemar_holm: float
    margin: float
    tost_low: float
    tost_high: float
    equivalent: bool
    ndcg_significant: bool
    hit_significant: bool


class Means(NamedTuple):
    """A model's mean score, seed by seed.

    by_seed : float64 [..., S]
    resampled : float64 [R, ..., S]
        The same over users drawn with replacement, R times, the same users for all seeds and models.
    """

    by_seed: np.ndarray
    resampled: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """The mean over the seeds, [...]."""
        return self.by_seed.mean(axis=-1)


def user_sample(generator: np.random.Generator, users: int) -> np.ndarray:
    """How often each user is in a sample of as many, drawn with replacement: int [U]."""
    return np.bincount(generator.integers(users, size=users), minlength=users)


def resampled_means(scores: Sequence[np.ndarray], resamples: int = RESAMPLES) -> list[Means]:
    """Means of several models' scores over users resampled with replacement.

    Users are resampled once for all models and seeds, so that differences between them are paired.

    Parameters
    ----------
    scores : sequence of M arrays [S, U]
        S may differ between models.
    resamples : int

    Returns
    -------
    list of M Means
    """
    generator = np.random.default_rng(0)
    rows = np.concatenate(scores)
    users = rows.shape[1]
    means = np.empty((resamples, len(rows)))
    for sample in range(resamples):
        means[sample] = rows @ user_sample(generator, users) / users
    parts = np.split(means, np.cumsum([len(score) for score in scores])[:-1], axis=1)
    return [Means(score.mean(axis=1), part) for score, part in zip(scores, parts, strict=True)]


def interval(first: Means, second: Means | None = None, level: float = LEVEL) -> np.ndarray:
    """Interval of a model's mean, or of the difference first - second, that covers other users and other seeds.

    With one seed it is the percentile bootstrap over users, and speaks of these trained models alone. With several it
    is a t-interval. Its variance is that over users and that between each model's seeds, less what of the latter is
    users answering each seed in their own way, for the former holds it. Its degrees of freedom are Satterthwaite's,
    those of the users infinite, but not fewer than those of the fewest seeds. Resampling two or three seeds would make
    it far too narrow. Seeds of two models have nothing in common.

    Parameters
    ----------
    first, second : Means
    level : float

    Returns
    -------
    float64 [2, ...]
    """
    models = [first] if second is None else [first, second]
    tails = (1 - level) / 2, (1 + level) / 2
    sample = _difference([model.resampled.mean(axis=-1) for model in models])
    if all(model.by_seed.shape[-1] == 1 for model in models):
        return np.quantile(sample, tails, axis=0)
    variance = sample.var(axis=0, ddof=1)
    squares = np.zeros_like(variance)
    for by_seed, resampled in models:
        seeds = by_seed.shape[-1]
        if seeds > 1:
            of_seeds = by_seed.var(axis=-1, ddof=1) / seeds
            apart = resampled - resampled.mean(axis=-1, keepdims=True)
            of_both = apart.var(axis=0, ddof=1).sum(axis=-1) / (seeds * (seeds - 1))
            variance = variance + (of_seeds - of_both).clip(min=0)
            squares = squares + of_seeds**2 / (seeds - 1)
    fewest = min(model.by_seed.shape[-1] - 1 for model in models if model.by_seed.shape[-1] > 1)
    freedom = np.divide(variance**2, squares, out=np.full_like(variance, np.inf), where=squares > 0).clip(min=fewest)
    half = stats.t.ppf(tails[1], freedom) * np.sqrt(variance)
    mean = _difference([model.mean for model in models])
    return np.stack([mean - half, mean + half])


def _difference(values: Sequence[np.ndarray]) -> np.ndarray:
    return values[0] if len(values) == 1 else values[0] - values[1]


def _user_differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The differences that are not zero, of as many seeds of the one as of the other.

    A mean over more seeds hits a little for more users, so that with unequal numbers two equal models would differ.
    """
    seeds = min(len(first), len(second))
    difference = (first[:seeds].mean(axis=0) - second[:seeds].mean(axis=0)).round(PLACES)
    return difference[difference != 0]


def wilcoxon(first: np.ndarray, second: np.ndarray) -> Verdict:
    """Wilcoxon's signed-rank test over the users that differ; p is 1 where none does."""
    difference = _user_differences(first, second)
    if not len(difference):
        return Verdict(1.0, 0)
    ranks = stats.rankdata(np.abs(difference))
    rank_sum = float(ranks @ np.sign(difference))
    few = len(difference) <= MOST_WITH_TIES and len(np.unique(ranks)) < len(ranks)
    p = _exact_p(ranks, rank_sum) if few else float(stats.wilcoxon(difference).pvalue)
    return Verdict(p, int(np.sign(rank_sum)))


def _exact_p(ranks: np.ndarray, rank_sum: float) -> float:
    """The share of all ways to sign the ranks that give a sum as far from 0; SciPy takes seconds for the same."""
    signs = 2 * (np.arange(2 ** len(ranks))[:, None] >> np.arange(len(ranks)) & 1) - 1
    # Sums of ranks are whole multiples of a half.
    return float((np.abs(signs @ ranks) >= abs(rank_sum) - 0.25).mean())


def mcnemar(first: np.ndarray, second: np.ndarray) -> Verdict:
    """The exact McNemar test over users, on hits [S, U] of 0 and 1; p is 1 where no user differs.

    With several seeds a user counts for the model that hits with the larger share of its seeds: the exact sign test.
    """
    difference = _user_differences(first, second)
    better = int((difference > 0).sum())
    p = float(stats.binomtest(better, len(difference)).pvalue) if len(difference) else 1.0
    return Verdict(p, int(np.sign(2 * better - len(difference))))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected by Holm (1979) for their number, in the order given."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(corrected, 1).tolist()


class Compared(NamedTuple):
    """What `Pair` says about one metric."""

    difference: float
    low: float
    high: float
    tost_low: float
    tost_high: float
    p: float
    p_holm: float
    significant: bool


def _compared(
    scores: Sequence[np.ndarray],
    means: Sequence[Means],
    test: Callable[[np.ndarray, np.ndarray], Verdict],
    chosen: Sequence[tuple[int, int]],
) -> list[Compared]:
    verdicts = [test(scores[i], scores[j]) for i, j in chosen]
    compared = []
    for (i, j), verdict, p_holm in zip(chosen, verdicts, holm([verdict.p for verdict in verdicts]), strict=True):
        difference = float(scores[i].mean() - scores[j].mean())
        low, high = interval(means[i], means[j]).tolist()
        tost_low, tost_high = interval(means[i], means[j], 2 * LEVEL - 1).tolist()
        significant = (low > 0 or high < 0) and p_holm < 1 - LEVEL and verdict.sign == np.sign(difference)
        compared.append(Compared(difference, low, high, tost_low, tost_high, verdict.p, p_holm, bool(significant)))
    return compared


def compare_pairs(
    names: Sequence[str],
    ndcg: Sequence[np.ndarray],
    hits: Sequence[np.ndarray],
    against: str | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    means: tuple[Sequence[Means], Sequence[Means]] | None = None,
) -> list[Pair]:
    """Every pair of models, tested, or every other model and `against`, or `pairs`; Holm's correction is for those.

    Parameters
    ----------
    names : sequence of str
    ndcg, hits : sequences of arrays [S, U]
        NDCG@k and Hit@k of each user, a model an array; users in the same order.
    against : str, optional
        The model that is second of each pair.
    pairs : sequence of (str, str), optional
        What is tested, instead of either.
    means : (sequence of M Means, sequence of M Means), optional
        `resampled_means` of `ndcg` and of `hits`, where they are there already.
    """
    chosen = list(combinations(range(len(names)), 2))
    if against is not None:
        chosen = [(i, j) for i, j in permutations(range(len(names)), 2) if names[j] == against]
    if pairs is not None:
        chosen = [(names.index(first), names.index(second)) for first, second in pairs]
    if not chosen:
        return []
    margins = [MARGIN * float(ndcg[j].mean()) for _, j in chosen]
    ndcg_means, hit_means = means or (resampled_means(ndcg), resampled_means(hits))
    of_ndcg, of_hits = _compared(ndcg, ndcg_means, wilcoxon, chosen), _compared(hits, hit_means, mcnemar, chosen)
    return [
        Pair(
            first=names[i],
            second=names[j],
            difference=rank.difference,
            low=rank.low,
            high=rank.high,
            hit_difference=hit.difference,
            hit_low=hit.low,
            hit_high=hit.high,
            wilcoxon=rank.p,
            mcnemar=hit.p,
            wilcoxon_holm=rank.p_holm,
            mcnemar_holm=hit.p_holm,
            margin=margin,
            tost_low=rank.tost_low,
            tost_high=rank.tost_high,
            equivalent=-margin < rank.tost_low and rank.tost_high < margin,
            ndcg_significant=rank.significant,
            hit_significant=hit.significant,
        )
        for (i, j), margin, rank, hit in zip(chosen, margins, of_ndcg, of_hits, strict=True)
    ]
