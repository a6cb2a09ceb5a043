"""Accuracy on either side of a cut through the test interactions, such as short and long histories, for many cuts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..evaluation.ranks import Aligned, ndcg
from ..evaluation.statistics import Means, interval, user_sample

# Cuts that are looked at, at most.
CUTS = 20
# Fewer users on a side say nothing.
FEWEST_USERS = 20
RESAMPLES = 1000
# Resamples whose weights are held at once.
PIECE = 100
DECIMALS = 6


def cuts_through(value: np.ndarray, user: np.ndarray) -> np.ndarray:
    """Values [C] that part the test rows: those up to a cut and those above, enough users on both sides.

    Parameters
    ----------
    value : array [n]
        What the rows are parted by.
    user : array [n]
    """
    cuts = np.unique(np.quantile(value, np.linspace(0, 1, CUTS + 2)[1:-1], method="lower"))
    enough = [
        min(len(np.unique(user[value <= cut])), len(np.unique(user[value > cut]))) >= FEWEST_USERS for cut in cuts
    ]
    return cuts[enough]


def by_cut(
    names: Sequence[str], rows: Aligned, value: np.ndarray, pairs: Sequence[tuple[str, str]]
) -> dict[str, Any] | None:
    """NDCG@k of every model on both sides of every cut, and the difference of each pair, with intervals.

    Users are resampled with all of their rows, the same for every cut, so that the cuts differ by nothing but the cut.
    A side's figure is the mean over its rows.

    Parameters
    ----------
    names : sequence of M str
    rows : Aligned
    value : array [n]
        What the rows are parted by.
    pairs : sequence of (str, str)

    Returns
    -------
    dict or None
        `cuts` [C], `rows` [C, 2], `models` (name -> `mean`, `low`, `high` [C, 2]) and `pairs` (`first`, `second`,
        `difference`, `low`, `high` [C, 2]); of two figures the first is of the rows up to the cut. None where no cut
        leaves enough users on both sides.
    """
    cuts = cuts_through(value, rows.user)
    if not len(cuts):
        return None
    scores = np.concatenate([ndcg(ranks) for ranks in rows.ranks])
    seeds = [len(ranks) for ranks in rows.ranks]
    sides = np.searchsorted(cuts, value)
    users, user = np.unique(rows.user, return_inverse=True)
    generator = np.random.default_rng(0)
    (whole,) = _side_means(np.ones((1, len(value))), scores, sides, len(cuts))
    pieces = [
        _side_means(_weights(generator, min(PIECE, RESAMPLES - begin), len(users))[:, user], scores, sides, len(cuts))
        for begin in range(0, RESAMPLES, PIECE)
    ]
    ends = np.cumsum(seeds)[:-1]
    parts = zip(names, np.split(whole, ends, axis=-1), np.split(np.concatenate(pieces), ends, axis=-1), strict=True)
    means = {name: Means(by_seed, resampled) for name, by_seed, resampled in parts}
    return {
        "cuts": cuts.tolist(),
        "rows": [[int((value <= cut).sum()), int((value > cut).sum())] for cut in cuts],
        "models": {name: {"mean": _plain(of_it.mean), **_interval(of_it)} for name, of_it in means.items()},
        "pairs": [
            {
                "first": first,
                "second": second,
                "difference": _plain(means[first].mean - means[second].mean),
                **_interval(means[first], means[second]),
            }
            for first, second in pairs
        ],
    }


def _weights(generator: np.random.Generator, resamples: int, users: int) -> np.ndarray:
    """How often each user is in each resample, [R, U]."""
    return np.stack([user_sample(generator, users) for _ in range(resamples)]).astype(float)


def _side_means(weights: np.ndarray, scores: np.ndarray, sides: np.ndarray, cuts: int) -> np.ndarray:
    """Weighted means of scores [M, n] up to and above each cut: [R, C, 2, M], for weights [R, n]."""
    columns = np.concatenate([np.ones((1, scores.shape[1])), scores])
    inside = [np.flatnonzero(sides == number) for number in range(cuts + 1)]
    sums = np.stack([weights[:, rows] @ columns[:, rows].T for rows in inside], axis=1).cumsum(axis=1)
    both = np.stack([sums[:, :-1], sums[:, -1:] - sums[:, :-1]], axis=2)
    return both[..., 1:] / both[..., :1]


def _interval(first: Means, second: Means | None = None) -> dict[str, list[list[float]]]:
    low, high = interval(first, second)
    return {"low": _plain(low), "high": _plain(high)}


def _plain(values: np.ndarray) -> list[list[float]]:
    return values.round(DECIMALS).tolist()
