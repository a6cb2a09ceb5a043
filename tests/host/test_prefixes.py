from __future__ import annotations

import copy
import pickle
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from recbole.data.interaction import Interaction

from recbole_diffusion.host.prefixes import Prefixes, Sequences


def make(sizes: list[int], max_length: int = 3) -> Prefixes:
    """User u's k-th interaction is item 10 u + k, with a pair of weights."""
    users = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.int64))
    items = torch.tensor([10 * user + k for user, size in enumerate(sizes, start=1) for k in range(size)])
    weights = torch.stack([items.float(), -items.float()], dim=1)
    sequences = Sequences({"user_id": users, "item_id": items, "weight": weights}, "user_id")
    return Prefixes.of(sequences, max_length, "_list", "item_length")


@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(1, 5))
@settings(max_examples=50, deadline=None)
def test_every_prefix_is_a_row(sizes: list[int], max_length: int) -> None:
    rows = make(sizes, max_length).materialise()
    histories, targets = [], []
    for user, size in enumerate(sizes, start=1):
        for k in range(1, size):
            histories.append([10 * user + j for j in range(max(0, k - max_length), k)])
            targets.append(10 * user + k)
    padded = [history + [0] * (max_length - len(history)) for history in histories]
    assert rows["item_id"].tolist() == targets
    assert rows["item_length"].tolist() == [len(history) for history in histories]
    assert rows["item_id_list"].tolist() == padded
    assert rows["weight_list"].shape == (len(targets), max_length, 2)
    assert rows["weight_list"][..., 1].tolist() == [[-item for item in row] for row in padded]


@given(st.lists(st.integers(1, 12), min_size=1, max_size=5), st.integers(1, 5), st.randoms())
@settings(max_examples=100, deadline=None)
def test_covering_rows_have_every_target_at_one_place(sizes: list[int], max_length: int, random: Random) -> None:
    prefixes = make(sizes, max_length)
    order = list(range(len(prefixes)))
    random.shuffle(order)
    prefixes = prefixes[order]
    rows = prefixes[prefixes.covering()].materialise()
    found = []
    for history, length, item in zip(rows["item_id_list"], rows["item_length"], rows["item_id"], strict=True):
        found += [*history[1:length].tolist(), int(item)]
    assert sorted(found) == sorted(prefixes["item_id"].tolist())
    # No fewer rows would do.
    assert len(rows) == sum(-(-(size - 1) // max_length) for size in sizes)


def test_rows_that_lack_one_before_the_last_cannot_be_covered() -> None:
    with pytest.raises(ValueError, match="rows are missing before the last one of a user"):
        make([4])[[0, 2]].covering()


def test_a_narrower_width_keeps_the_newest() -> None:
    rows = make([5]).materialise(width=2)
    assert rows["item_id_list"].tolist() == [[10, 0], [10, 11], [11, 12], [12, 13]]
    assert rows["item_length"].tolist() == [1, 2, 2, 2]


def test_columns_are_those_of_recbole_and_in_its_order() -> None:
    prefixes = make([3, 2])
    names = ["user_id", "item_id", "weight", "item_length", "item_id_list", "weight_list"]
    assert prefixes.columns == list(prefixes) == list(prefixes.interaction) == names
    assert "item_id_list" in prefixes and "user_id_list" not in prefixes
    assert prefixes.item_id.tolist() == [11, 12, 21]
    assert prefixes["item_length"].tolist() == [1, 2, 1]
    assert prefixes["item_id_list"] is prefixes["item_id_list"]
    assert prefixes.numpy()["item_id_list"].shape == (3, 3)
    with pytest.raises(KeyError):
        prefixes["rating"]
    with pytest.raises(AttributeError):
        getattr(prefixes, "rating")  # noqa: B009


@pytest.mark.parametrize(
    "index",
    [
        [2, 0],
        np.array([2, 0]),
        torch.tensor([2, 0]),
        torch.tensor([2, 0], dtype=torch.int32),
        slice(1, 3),
        range(1, 3),
        torch.tensor([True, False, True]),
        [True, False, True],
        [],
    ],
)
def test_selecting_is_selecting_from_the_materialised_rows(index: object) -> None:
    prefixes = make([3, 2])
    chosen = prefixes[index]
    assert isinstance(chosen, Prefixes) and chosen.sequences is prefixes.sequences
    as_list = list(index) if isinstance(index, range) else index
    expected = prefixes.materialise()[as_list]
    assert len(chosen) == len(expected["item_id"])
    for name in expected:
        assert torch.equal(chosen[name], expected[name]), name


def test_one_row_is_an_interaction_of_scalars() -> None:
    row = make([3, 2])[1]
    assert row["item_id"].item() == 12 and row["item_id_list"].tolist() == [10, 11, 0]


def test_sorting_and_shuffling_take_the_histories_along() -> None:
    prefixes = make([4, 3])
    before = {
        int(item): history.tolist() for item, history in zip(prefixes["item_id"], prefixes["item_id_list"], strict=True)
    }
    torch.manual_seed(3)
    prefixes.shuffle()
    assert prefixes["item_id"].tolist() != list(before)
    after = {
        int(item): history.tolist() for item, history in zip(prefixes["item_id"], prefixes["item_id_list"], strict=True)
    }
    assert after == before
    prefixes.sort(by=["item_length", "item_id"], ascending=[False, True])
    assert prefixes["item_id"].tolist() == [13, 12, 22, 11, 21]


def test_columns_can_be_added_and_dropped_without_touching_other_selections() -> None:
    prefixes = make([3, 2])
    other = prefixes[[0, 2]]
    prefixes["label"] = torch.tensor([1.0, 0.0, 1.0])
    prefixes.update(Interaction({"weight": torch.tensor([7, 8, 9])}))
    prefixes.drop("item_id")
    del prefixes["weight_list"]
    assert prefixes.columns == ["user_id", "weight", "item_length", "item_id_list", "label"]
    assert prefixes[[2, 1]]["label"].tolist() == [1, 0] and prefixes[[2, 1]]["weight"].tolist() == [9, 8]
    assert prefixes.materialise()["item_id_list"].tolist() == [[10, 0, 0], [10, 11, 0], [20, 0, 0]]
    assert "label" not in other and other["item_id"].tolist() == [11, 21]
    with pytest.raises(ValueError, match=r"Column \[item_id\] is not in"):
        prefixes.drop("item_id")
    with pytest.raises(NotImplementedError):
        prefixes.add_prefix("neg_")


def test_copies_and_repeats_work_as_for_any_interaction() -> None:
    prefixes = make([3, 2])
    for twin in (copy.deepcopy(prefixes), pickle.loads(pickle.dumps(prefixes)), prefixes.to("cpu"), prefixes.cpu()):
        assert torch.equal(twin["item_id_list"], prefixes["item_id_list"]) and len(twin) == 3
    repeated = prefixes.repeat(2)
    assert repeated["item_id_list"].shape == (6, 3) and repeated["item_id"].tolist() == [11, 12, 21] * 2
    assert prefixes.repeat_interleave(2)["item_id"].tolist() == [11, 11, 12, 12, 21, 21]
    assert prefixes.to("cpu", selected_field="item_id")["item_id"].tolist() == [11, 12, 21]
    assert "item_id_list" in str(prefixes)


def test_nothing_to_predict_gives_no_rows() -> None:
    prefixes = make([1, 1])
    assert len(prefixes) == 0 and prefixes.materialise()["item_id_list"].shape == (0, 3)


def test_a_row_costs_four_bytes_more_than_its_interaction() -> None:
    prefixes = make([500] * 20, max_length=50)
    stored = [prefixes.rows, prefixes.sequences.start]
    assert sum(column.numel() * column.element_size() for column in stored) <= 8 * 10_000
    assert len(prefixes[:5].sequences.columns["item_id"]) == 10_000
