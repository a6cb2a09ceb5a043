from __future__ import annotations

import numpy as np
import pytest

from recbole_diffusion.compare.cuts import CUTS, FEWEST_USERS, by_cut, cuts_through
from recbole_diffusion.evaluation import statistics
from recbole_diffusion.evaluation.ranks import Aligned, ndcg

USERS = 500


def made(seeds: tuple[int, int] = (5, 4)) -> Aligned:
    """Ranks of two models, the first of which is better where the history is short."""
    generator = np.random.default_rng(5)
    user = np.arange(USERS)
    length = generator.integers(1, 60, USERS)
    near, far = ([generator.integers(1, top, USERS) for _ in range(max(seeds))] for top in (12, 40))
    first = np.stack([np.where(length <= 20, near[seed], far[seed]) for seed in range(seeds[0])])
    second = np.stack([far[::-1][seed] for seed in range(seeds[1])])
    return Aligned(user, user % 10, length, np.arange(11), [first, second])


def test_both_sides_of_a_cut_are_the_means_of_their_rows() -> None:
    rows = made()
    found = by_cut(["a", "b"], rows, rows.length, [("a", "b")])
    assert found is not None and len(found["cuts"]) <= CUTS
    for place, cut in enumerate(found["cuts"]):
        for side, inside in enumerate((rows.length <= cut, rows.length > cut)):
            assert found["rows"][place][side] == inside.sum() >= FEWEST_USERS
            means = [ndcg(ranks[:, inside]).mean() for ranks in rows.ranks]
            for name, mean in zip("ab", means, strict=True):
                assert found["models"][name]["mean"][place][side] == pytest.approx(mean, abs=1e-6)
            (pair,) = found["pairs"]
            assert pair["difference"][place][side] == pytest.approx(means[0] - means[1], abs=2e-6)
            assert pair["low"][place][side] < pair["difference"][place][side] < pair["high"][place][side]
    place = int(np.argmin(np.abs(np.array(found["cuts"]) - 20)))
    assert found["pairs"][0]["low"][place][0] > found["pairs"][0]["high"][place][1]


def test_the_interval_is_that_of_the_users_of_a_side_resampled_alone() -> None:
    rows = made()
    found = by_cut(["a", "b"], rows, rows.length, [("a", "b")])
    assert found is not None
    place = len(found["cuts"]) // 2
    inside = rows.length > found["cuts"][place]
    means = statistics.resampled_means([ndcg(ranks[:, inside]) for ranks in rows.ranks], 2000)
    low, high = statistics.interval(*means)
    (pair,) = found["pairs"]
    width = high - low
    assert pair["low"][place][1] == pytest.approx(low, abs=0.1 * width)
    assert pair["high"][place][1] == pytest.approx(high, abs=0.1 * width)


def test_a_user_is_resampled_with_all_of_his_rows() -> None:
    # Each user has ten equal rows, so that the interval is as wide as with one row each.
    one = made(seeds=(1, 1))
    ten = Aligned(
        *(np.repeat(column, 10) for column in one[:3]), one.popularity, [np.repeat(r, 10, 1) for r in one.ranks]
    )
    alone, repeated = (by_cut(["a", "b"], rows, rows.length, []) for rows in (one, ten))
    assert alone is not None and repeated is not None
    assert repeated["models"] == alone["models"] and repeated["cuts"] == alone["cuts"]


def test_without_enough_users_on_both_sides_there_is_no_cut() -> None:
    user, value = np.arange(30), np.arange(30)
    assert len(cuts_through(value, user)) == 0
    assert by_cut(["a"], Aligned(user, user, value, value, [value[None]]), value, []) is None
    assert len(cuts_through(np.zeros(100), np.arange(100))) == 0
    # Many rows, but of few users.
    assert len(cuts_through(np.arange(1000), np.arange(1000) % 10)) == 0
