"""Accuracy on either side of a cut through the test interactions, such as short and long histories, for many cuts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..evaluation.ranks import Aligned, ndcg
from ..evaluation.statistics import LEVEL

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
    """NDCG@k of every model on both sides of every cut, and the difference of each pair, with bootstrap intervals.

    Users, with all of their rows, and seeds are resampled as for the whole test set; the same users for every cut, so
    that the cuts differ by nothing but the cut. A side's figure is the mean over its rows.

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
    whole = _side_means(np.ones((1, len(value))), scores, sides, len(cuts))
    means = np.stack([part.mean(axis=-1)[0] for part in np.split(whole, np.cumsum(seeds)[:-1], axis=-1)])
    pieces = [
        _side_means(_weights(generator, min(PIECE, RESAMPLES - begin), len(users))[:, user], scores, sides, len(cuts))
        for begin in range(0, RESAMPLES, PIECE)
    ]
    resampled = _over_seeds(np.concatenate(pieces), seeds, generator)
    number = {name: place for place, name in enumerate(names)}
    return {
        "cuts": cuts.tolist(),
        "rows": [[int((value <= cut).sum()), int((value > cut).sum())] for cut in cuts],
        "models": {name: {"mean": _plain(means[i]), **_interval(resampled[i])} for name, i in number.items()},
        "pairs": [
            {
                "first": first,
                "second": second,
                "difference": _plain(means[number[first]] - means[number[second]]),
                **_interval(resampled[number[first]] - resampled[number[second]]),
            }
            for first, second in pairs
        ],
    }


def _weights(generator: np.random.Generator, resamples: int, users: int) -> np.ndarray:
    """How often each user is in each resample, [R, U]."""
    return np.stack(
        [np.bincount(generator.integers(users, size=users), minlength=users) for _ in range(resamples)]
    ).astype(float)


def _side_means(weights: np.ndarray, scores: np.ndarray, sides: np.ndarray, cuts: int) -> np.ndarray:
    """Weighted means of scores [M, n] up to and above each cut: [R, C, 2, M], for weights [R, n]."""
    columns = np.concatenate([np.ones((1, scores.shape[1])), scores])
    inside = [np.flatnonzero(sides == number) for number in range(cuts + 1)]
    sums = np.stack([weights[:, rows] @ columns[:, rows].T for rows in inside], axis=1).cumsum(axis=1)
    both = np.stack([sums[:, :-1], sums[:, -1:] - sums[:, :-1]], axis=2)
    return both[..., 1:] / both[..., :1]


def _over_seeds(means: np.ndarray, seeds: Sequence[int], generator: np.random.Generator) -> list[np.ndarray]:
    """Means [R, C, 2] of each model over its seeds, resampled too."""
    parts = np.split(means, np.cumsum(seeds)[:-1], axis=-1)
    chosen = [generator.integers(count, size=(len(means), 1, 1, count)) for count in seeds]
    return [np.take_along_axis(part, of_it, axis=-1).mean(axis=-1) for part, of_it in zip(parts, chosen, strict=True)]


def _interval(sample: np.ndarray) -> dict[str, list[list[float]]]:
    low, high = np.quantile(sample, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return {"low": _plain(low), "high": _plain(high)}


def _plain(values: np.ndarray) -> list[list[float]]:
    return values.round(DECIMALS).tolist()
