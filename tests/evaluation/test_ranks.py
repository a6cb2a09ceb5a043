from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recbole.data import dataset as recbole_dataset

from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.ranking import UserRanks, user_ranks
from recbole_diffusion.evaluation.ranks import (
    StoredRanks,
    align,
    by_user,
    hit,
    is_head,
    length_groups,
    load_ranks,
    ndcg,
    save_ranks,
    shallow,
    times,
    training_popularity,
    whole_lengths,
)
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.training.run import prepare

ML_100K = Path(recbole_dataset.__file__).parents[2] / "dataset_example" / "ml-100k"
SETTINGS = {
    "user_inter_num_interval": "[0,30]",
    "hidden_size": 16,
    "inner_size": 32,
    "n_layers": 1,
    "n_heads": 2,
    "MAX_ITEM_LIST_LENGTH": 10,
    "metric_decimal_place": 12,
}
STORED = StoredRanks(
    user=np.array([3, 1, 2], np.int32),
    item=np.array([5, 4, 2], np.int32),
    length=np.array([9, 8, 7], np.int32),
    rank=np.array([30, 10, 20], np.int32),
    popularity=np.array([0, 1, 2, 3, 4, 5], np.int32),
)


@pytest.mark.parametrize("model", ["DiffuRec", "SASRec"])
def test_metrics_of_single_users_average_to_recboles(model: str) -> None:
    prepared = prepare(load_config(model, "ml-100k", config_dict=SETTINGS))
    expected = prepared.trainer.evaluate(prepared.test_data, load_best_model=False)
    rank = user_ranks(prepared.trainer, prepared.test_data).rank
    for k in (5, 10, 20):
        assert hit(rank, k).mean() == pytest.approx(expected[f"hit@{k}"], abs=1e-9)
        assert ndcg(rank, k).mean() == pytest.approx(expected[f"ndcg@{k}"], abs=1e-9)


def test_lengths_and_popularity_are_those_of_the_data() -> None:
    prepared = prepare(load_config("Pop", "ml-100k", config_dict=SETTINGS))
    ranks = user_ranks(prepared.trainer, prepared.test_data)
    lengths = whole_lengths(prepared.test_data._dataset)
    assert ranks.length.max() == 10 < lengths.max()
    assert np.array_equal(np.minimum(lengths, 10), ranks.length)
    popularity = training_popularity(prepared.train_data._dataset)
    # Of each user all but the last two interactions are trained on.
    assert popularity.sum() == (lengths - 1).sum()
    assert popularity[0] == 0


def test_ranks_come_back_from_disk(tmp_path: Path) -> None:
    save_ranks(tmp_path / "ranks.npz", UserRanks(*[np.arange(3)] * 5), np.arange(5))
    stored = load_ranks(tmp_path / "ranks.npz")
    assert stored.rank.dtype == np.int32
    assert stored.user.tolist() == [0, 1, 2] and stored.popularity.tolist() == [0, 1, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["ranks.npz"]


def test_times_are_those_of_the_targets_and_come_back_in_order(tmp_path: Path) -> None:
    data = prepare(load_config("Pop", "ml-100k", config_dict=SETTINGS)).test_data._dataset
    found = times(data)
    assert found is not None and found.dtype == np.int64
    # Leave-one-out tests on the last interaction of each user.
    last = pd.read_csv(ML_100K / "ml-100k.inter", sep="\t").groupby("user_id:token")["timestamp:float"].max()
    tokens = data.id2token(data.uid_field, data.inter_feat[data.uid_field].numpy())
    assert np.abs(found - last[tokens.astype(int)].to_numpy()).max() <= 2
    # ml-100k was gathered from September 1997 to April 1998.
    assert found.min() > 874_000_000 and found.max() < 894_000_000
    path = tmp_path / "ranks.npz"
    user = np.array([2, 0, 1])
    save_ranks(path, UserRanks(*[user] * 4), np.arange(5), user + 10**12)
    path.write_bytes(shallow(path.read_bytes()))
    aligned = align([[load_ranks(path)]]).time
    assert aligned is not None and aligned.tolist() == [10**12, 10**12 + 1, 10**12 + 2]
    data.time_scale = None
    assert times(data) is None


def test_ranks_of_both_rankings_and_of_one_alone_come_back(tmp_path: Path) -> None:
    both = UserRanks(*[np.arange(3)] * 4, rank_out=np.arange(3) + 7)
    for ranks in (both, both._replace(rank_out=None)):
        save_ranks(tmp_path / "ranks.npz", ranks, np.arange(5))
        stored = load_ranks(tmp_path / "ranks.npz")
        assert stored.rank.tolist() == [0, 1, 2]
        assert (stored.rank_out is None) == (ranks.rank_out is None)
        if stored.rank_out is not None:
            assert stored.rank_out.dtype == np.int32
            assert align([[stored]], without_history=True).ranks[0].tolist() == [[7, 8, 9]]
            assert align([[stored]]).ranks[0].tolist() == [[0, 1, 2]]
    with pytest.raises(UserError, match="a run has no ranks without the history"):
        align([[stored]], without_history=True)


def test_an_archive_keeps_the_first_hundred_ranks(tmp_path: Path) -> None:
    path = tmp_path / "ranks.npz"
    ranks = np.array([1, 100, 101, 5000])
    for without in (None, ranks - 1):
        save_ranks(path, UserRanks(*[np.arange(4) + 500] * 3, ranks, without), np.arange(500, 505))
        path.write_bytes(shallow(path.read_bytes()))
        stored = load_ranks(path)
        assert stored.rank.tolist() == [1, 100, 101, 101]
        assert stored.rank_out is None or stored.rank_out.tolist() == [0, 99, 100, 101]
        assert (stored.rank_out is None) == (without is None)
        assert stored.user.tolist() == [500, 501, 502, 503] and stored.popularity.tolist() == [500, 501, 502, 503, 504]


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 torn"])
def test_ranks_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "ranks.npz").write_bytes(content)
    with pytest.raises(UserError, match="the ranks cannot be read"):
        load_ranks(tmp_path / "ranks.npz")


def test_align_brings_the_rows_into_one_order() -> None:
    shuffled = STORED._replace(
        **{name: getattr(STORED, name)[[2, 0, 1]] for name in ("user", "item", "length", "rank")}
    )
    rows = align([[STORED, shuffled], [shuffled]])
    assert rows.user.tolist() == [1, 2, 3] and rows.length.tolist() == [8, 7, 9]
    assert [ranks.tolist() for ranks in rows.ranks] == [[[10, 20, 30]] * 2, [[10, 20, 30]]]


def test_align_refuses_other_training_items() -> None:
    other = STORED._replace(popularity=STORED.popularity[[0, 1, 2, 3, 5, 4]])
    with pytest.raises(UserError, match="trained on different interactions"):
        align([[STORED], [other]])


def test_align_refuses_other_test_items() -> None:
    with pytest.raises(UserError, match="different interactions"):
        align([[STORED], [STORED._replace(item=STORED.item + 1)]])


def test_a_users_rows_are_averaged() -> None:
    values = np.array([[1.0, 3.0, 5.0], [0.0, 2.0, 7.0]])
    assert by_user(np.array([4, 4, 9]), values).tolist() == [[2, 5], [1, 7]]


def test_head_is_the_most_popular_fifth() -> None:
    popularity = np.array([99, 1, 7, 3, 7, 2, 0, 0, 0, 0, 0])
    assert np.flatnonzero(is_head(popularity)).tolist() == [2, 4]
    assert np.flatnonzero(is_head(np.array([0, 5, 5, 5, 5, 5]))).tolist() == [1]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=200))
def test_length_groups_are_ranges_that_cover_all(lengths: list[int]) -> None:
    length = np.array(lengths)
    group, names = length_groups(length)
    assert len(names) <= 4 and group.max() == len(names) - 1
    frame = pd.DataFrame({"group": group, "length": length}).groupby("group")["length"].agg(["min", "max"])
    for number, name in enumerate(names):
        low, _, high = name.partition(" to ")
        if number in frame.index:
            assert int(low) <= frame.loc[number, "min"] and frame.loc[number, "max"] <= int(high or low)
    assert frame["max"].is_monotonic_increasing
