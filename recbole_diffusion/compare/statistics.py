"""Tests of paired differences over users. A model's scores are [S, U]: seeds by users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

DRAWS = 10_000
LEVEL = 0.95
# Means of equal numbers taken in another order differ by less.
SAME = 1e-12


class Pair(NamedTuple):
    """Two models compared.

    first, second : str
    difference : float
        Mean over users of first - second, the seeds averaged within a user.
    low, high : float
        Bootstrap interval of it.
    wilcoxon, mcnemar : float
        p-values, as they are and corrected by Holm over all pairs.
    wilcoxon_holm, mcnemar_holm : float
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    wilcoxon: float
    mcnemar: float
    wilcoxon_holm: float
    mcnemar_holm: float

    def ndcg_holds(self) -> bool:
        """Whether the interval leaves out zero and the corrected Wilcoxon p-value is below 1 - `LEVEL`."""
        return (self.low > 0 or self.high < 0) and self.wilcoxon_holm < 1 - LEVEL

    def hit_holds(self) -> bool:
        """Whether the corrected McNemar p-value is below 1 - `LEVEL`."""
        return self.mcnemar_holm < 1 - LEVEL


def resampled_means(scores: Sequence[np.ndarray], draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """Means of several models' scores over users and seeds drawn anew with replacement.

    Users are drawn once for all models, so that differences between columns are paired; seeds are drawn for each model
    by itself, since equal seeds of two models have nothing in common.

    Parameters
    ----------
    scores : sequence of M arrays [S, U]
        S may differ between models.
    draws : int
    seed : int
        Of the drawing.

    Returns
    -------
    float64 [draws, M]
    """
    generator = np.random.default_rng(seed)
    rows = np.concatenate(scores)
    users = rows.shape[1]
    means = np.empty((draws, len(rows)))
    for draw in range(draws):
        counts = np.bincount(generator.integers(users, size=users), minlength=users)
        means[draw] = rows @ counts / users
    columns = []
    for part in np.split(means, np.cumsum([len(score) for score in scores])[:-1], axis=1):
        seeds = generator.integers(part.shape[1], size=part.shape)
        columns.append(np.take_along_axis(part, seeds, axis=1).mean(axis=1))
    return np.stack(columns, axis=1)


def interval(sample: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The middle `level` of a sample."""
    low, high = np.quantile(sample, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _user_differences(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    difference = first.mean(axis=0) - second.mean(axis=0)
    return np.where(np.abs(difference) < SAME, 0.0, difference)


def wilcoxon(first: np.ndarray, second: np.ndarray) -> float:
    """p-value of Wilcoxon's signed-rank test over users, two-sided; 1 where no user differs."""
    difference = _user_differences(first, second)
    return float(stats.wilcoxon(difference).pvalue) if difference.any() else 1.0


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """p-value of the exact McNemar test over users, two-sided, on hits [S, U] of 0 and 1; 1 where no user differs.

    With several seeds a user counts for the model that hits with the larger share of its seeds: the exact sign test.
    """
    difference = _user_differences(first, second)
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    return float(stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected by Holm (1979) for their number, in the order given."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(corrected, 1).tolist()


def compare_pairs(names: Sequence[str], ndcg: Sequence[np.ndarray], hits: Sequence[np.ndarray]) -> list[Pair]:
    """Every pair of models, tested.

    Parameters
    ----------
    names : sequence of str
    ndcg, hits : sequences of arrays [S, U]
        NDCG@k and Hit@k of each user, a model an array; users in the same order.
    """
    chosen = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    if not chosen:
        return []
    means = resampled_means(ndcg)
    p_wilcoxon = [wilcoxon(ndcg[i], ndcg[j]) for i, j in chosen]
    p_mcnemar = [mcnemar(hits[i], hits[j]) for i, j in chosen]
    rows = zip(chosen, p_wilcoxon, p_mcnemar, holm(p_wilcoxon), holm(p_mcnemar), strict=True)
    return [
        Pair(
            names[i],
            names[j],
            float(ndcg[i].mean() - ndcg[j].mean()),
            *interval(means[:, i] - means[:, j]),
            *p_values,
        )
        for (i, j), *p_values in rows
    ]
