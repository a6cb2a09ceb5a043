from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from recbole.data.dataset import Dataset, DIENDataset, KnowledgeBasedDataset, SequentialDataset

from recbole_diffusion.errors import SettingError, UserError
from recbole_diffusion.host.dataset import PrefixDataset, build_dataset
from recbole_diffusion.host.loaders import build_loaders
from recbole_diffusion.host.prefixes import Prefixes
from recbole_diffusion.host.registry import recbole_folder
from recbole_diffusion.host.settings import load_config

HEADER = "user_id:token\titem_id:token\ttimestamp:float"


def interactions(sizes: list[int]) -> str:
    """Users with so many interactions each, on overlapping items and at times that interleave."""
    rows = [(user, (3 * user + k) % 11, 7 * k + user) for user, size in enumerate(sizes) for k in range(size)]
    return f"{HEADER}\n" + "".join(f"u{user}\ti{item}\t{at}\n" for user, item, at in rows)


def with_features(sizes: list[int]) -> dict[str, str]:
    lines = interactions(sizes).splitlines()
    inter = [f"{lines[0]}\trating:float\tmood:token\twords:token_seq\tvector:float_seq"]
    for n, line in enumerate(lines[1:]):
        inter.append(f"{line}\t{n % 5}\tm{n % 3}\t{' '.join(f'w{k}' for k in range(n % 4))}\t{n} {n + 1}")
    item = ["item_id:token\tbrand:token\ttags:token_seq", *(f"i{i}\tb{i % 2}\tt{i} t{i % 3}" for i in range(11))]
    user = ["user_id:token\tage:token", *(f"u{u}\t{20 + u % 2}" for u in range(len(sizes)))]
    return {"inter": "\n".join(inter), "item": "\n".join(item), "user": "\n".join(user)}


def both(data_path: str | None, dataset: str = "made", **settings: Any) -> tuple[SequentialDataset, PrefixDataset]:
    """RecBole's dataset and ours, of the same settings."""

    def config() -> Any:
        return load_config("SASRec", dataset, None, settings | ({"data_path": data_path} if data_path else {}))

    ours = build_dataset(config())
    assert isinstance(ours, PrefixDataset)
    return SequentialDataset(config()), ours


def same(ours: Any, theirs: Any) -> None:
    assert list(ours) == list(theirs)
    for name in theirs:
        assert ours[name].dtype == theirs[name].dtype, name
        assert torch.equal(ours[name], theirs[name]), name


SPLITS: list[dict[str, Any]] = [
    {"split": {"LS": "valid_and_test"}},
    {"split": {"LS": "valid_only"}},
    {"split": {"LS": "test_only"}},
    {"split": {"RS": [0.8, 0.1, 0.1]}},
    {"split": {"RS": [0.6, 0.2, 0.2]}, "group_by": "none"},
    {"split": {"TS": [0.6, 0.2, 0.2]}},
]


@pytest.mark.parametrize("eval_args", SPLITS, ids=str)
def test_every_split_holds_recboles_rows(atomic: Callable[..., str], eval_args: dict[str, Any]) -> None:
    path = atomic(**with_features([1, 2, 3, 4, 9, 14, 5, 6]))
    theirs, ours = both(path, load_col=None, MAX_ITEM_LIST_LENGTH=6, eval_args=eval_args)
    for our_part, their_part in zip(ours.build(), theirs.build(), strict=True):
        assert isinstance(our_part.inter_feat, Prefixes)
        same(our_part.inter_feat.materialise(), their_part.inter_feat)
        for form in ("coo", "csr"):
            our_matrix, their_matrix = our_part.inter_matrix(form), their_part.inter_matrix(form)
            assert np.array_equal(our_matrix.toarray(), their_matrix.toarray())
        rated = our_part.inter_matrix("coo", "rating")
        assert np.array_equal(rated.toarray(), their_part.inter_matrix("coo", "rating").toarray())
        if len(their_part):
            same(our_part[[0, -1]], their_part[[0, -1]])
    assert str(ours) == str(theirs)


def test_features_of_every_type_and_embedded_numbers(atomic: Callable[..., str]) -> None:
    path = atomic(**with_features([4, 9, 5]))
    settings = {"load_col": None, "numerical_features": ["rating", "vector"], "normalize_all": True}
    theirs, ours = both(path, MAX_ITEM_LIST_LENGTH=4, **settings)
    for our_part, their_part in zip(ours.build(), theirs.build(), strict=True):
        same(our_part.inter_feat.materialise(), their_part.inter_feat)
        same(our_part[[0]], their_part[[0]])
        assert our_part.field2seqlen == their_part.field2seqlen
    assert our_part[[0]]["vector_list"].shape[-1] == 2


def test_unused_columns_and_filters(atomic: Callable[..., str]) -> None:
    path = atomic(**with_features([2, 3, 5, 9, 12]))
    settings = {
        "load_col": None,
        "unused_col": {"inter": ["timestamp", "timestamp_list", "rating"]},
        "user_inter_num_interval": "[4,inf)",
        "val_interval": {"rating": "[1,inf)"},
        "rm_dup_inter": "first",
        "MAX_ITEM_LIST_LENGTH": 5,
    }
    theirs, ours = both(path, **settings)
    for our_part, their_part in zip(ours.build(), theirs.build(), strict=True):
        same(our_part.inter_feat.materialise(), their_part.inter_feat)
    assert "rating" not in our_part[[0]] and "rating_list" in our_part[[0]] and "timestamp_list" not in our_part[[0]]


def test_ml_100k_is_recboles_element_by_element() -> None:
    theirs, ours = both(None, "ml-100k", load_col={"user": "*", "item": "*"})
    for our_part, their_part in zip(ours.build(), theirs.build(), strict=True):
        same(our_part.inter_feat.materialise(), their_part.inter_feat)
        rows = np.arange(0, len(their_part), 97)
        same(our_part[rows], their_part[rows])


def test_histories_that_come_with_the_files(atomic: Callable[..., str]) -> None:
    header = "user_id:token\titem_id:token\titem_id_list:token_seq\n"
    files = {
        "train.inter": f"{header}u0\ti1\ti0\nu0\ti2\ti0 i1\nu1\ti3\ti2\n",
        "valid.inter": f"{header}u0\ti3\ti0 i1 i2\n",
        "test.inter": f"{header}u0\ti0\ti1 i2 i3\n",
    }
    path = atomic(**files)
    settings: dict[str, Any] = {
        "benchmark_filename": ["train", "valid", "test"],
        "load_col": {"inter": ["user_id", "item_id", "item_id_list"]},
        "alias_of_item_id": ["item_id_list"],
    }
    theirs, ours = both(path, **settings)
    for our_part, their_part in zip(ours.build(), theirs.build(), strict=True):
        same(our_part.inter_feat, their_part.inter_feat)
        assert np.array_equal(our_part.inter_matrix("csr").toarray(), their_part.inter_matrix("csr").toarray())
    theirs, ours = both(path, **settings)
    config = ours.config
    config["length_batching"] = True
    train, valid, _ = build_loaders(config, ours)
    assert sorted(batch["item_id_list"].shape for batch in train) == [(3, 2)]
    assert next(iter(valid))[0]["item_id_list"].shape == (1, 3)

    def build(**more: Any) -> Dataset:
        return build_dataset(load_config("SASRec", "made", None, {"data_path": path, **settings, **more}))

    with pytest.raises(SettingError, match=r"alias_of_item_id must hold item_id_list, so .* got \[\]"):
        build(alias_of_item_id=[])
    with pytest.raises(SettingError, match="MAX_ITEM_LIST_LENGTH must be at least 3, the longest item_id_list"):
        build(MAX_ITEM_LIST_LENGTH=2)
    # What is cut are the oldest, not the newest.
    cut = build(MAX_ITEM_LIST_LENGTH=2, seq_len={"item_id_list": 2})
    test = cut.build()[2][[0]]
    assert cut.field2id_token["item_id"][test["item_id_list"][0]].tolist() == ["i2", "i3"]
    with pytest.raises(SettingError, match=r"benchmark_filename must name 3 files"):
        build(benchmark_filename=["train", "test"])


def test_each_model_gets_its_kind_of_dataset(atomic: Callable[..., str]) -> None:
    from recbole.model.sequential_recommender import SASRec

    def kind(model: Any, **settings: Any) -> type:
        return type(build_dataset(load_config(model, "ml-100k", None, settings)))

    assert kind("BPR") is Dataset
    assert kind("CKE") is KnowledgeBasedDataset
    assert kind("DIEN") is DIENDataset
    # A model of somebody else's that is called like one of RecBole's is not given what RecBole made for that one.
    assert kind(type("DIEN", (SASRec,), {"__module__": "mine"})) is PrefixDataset


@pytest.mark.parametrize(
    ("sizes", "eval_args", "complaint"),
    [
        ([1, 1, 1], {}, "no user has a history.* needs 2 interactions .* 0 of 3 have"),
        ([2, 2, 1], {}, "test part empty; a user needs 3 interactions for it, and 0 of 3 have that many"),
        ([3, 3], {}, "validation part empty; a user needs 4 interactions for it, and 0 of 2 have that many"),
        ([2, 2], {"split": {"LS": "test_only"}}, "test part empty; a user needs 3"),
        ([2, 2], {"split": {"RS": [0.8, 0.1, 0.1]}}, "part empty; the most that one of 2 users has is 2"),
    ],
)
def test_too_few_interactions_are_told(
    atomic: Callable[..., str], sizes: list[int], eval_args: dict[str, Any], complaint: str
) -> None:
    config = load_config(
        "SASRec", "made", None, {"data_path": atomic(inter=interactions(sizes)), "eval_args": eval_args}
    )
    dataset = build_dataset(config)
    with pytest.raises(UserError, match=complaint) as raised:
        build_loaders(config, dataset)
    assert str(raised.value).startswith("dataset=made: ") and "\n" not in str(raised.value)


def test_parts_may_be_empty_where_the_settings_say_so(atomic: Callable[..., str]) -> None:
    path = atomic(inter=interactions([4, 5, 3]))
    settings = {"data_path": path, "eval_args": {"split": {"LS": "test_only"}}}
    config = load_config("SASRec", "made", None, settings)
    train, valid, test = build_loaders(config, build_dataset(config))
    assert len(train) and not valid and len(test)


def test_what_recbole_complains_of_is_the_users_to_mend(atomic: Callable[..., str]) -> None:
    path = atomic(inter=interactions([4, 5, 3]))

    def build(**settings: Any) -> Dataset:
        return build_dataset(load_config("SASRec", "made", None, {"data_path": path, **settings}))

    left = "dataset=made: no interaction is left by the filters: 12 after .*, 0 after user_inter_num_interval"
    with pytest.raises(UserError, match=left):
        build(user_inter_num_interval="[100,inf)")
    with pytest.raises(SettingError, match=r"save_dataset must be left out, as reading a pickle runs .*got True"):
        build(save_dataset=True)
    with pytest.raises(SettingError, match="dataset_save_path"):
        build(dataset_save_path="saved/made.pth")


def orders(seed: int = 0, **settings: Any) -> list[tuple[str, str, float]]:
    """User, item and time of the interactions of ml-100k in the order of the histories, times as in the file."""
    dataset = build_dataset(load_config("SASRec", "ml-100k", None, {"seed": seed, **settings}))
    dataset.build()
    columns = dataset.inter_feat.sequences.columns
    users, items = (dataset.field2id_token[name][columns[name]] for name in ("user_id", "item_id"))
    assert dataset.time_scale is not None
    times = dataset.time_scale[0] + dataset.time_scale[1] * columns["timestamp"].double().numpy()
    return list(zip(users, items, times, strict=True))


def test_the_order_of_ties_changes_rows_within_ties_only() -> None:
    in_file = orders()
    assert orders(tie_order="file") == in_file
    table = pd.read_csv(recbole_folder() / "dataset_example" / "ml-100k" / "ml-100k.inter", sep="\t", dtype=str)
    table.columns = pd.Index(["user", "item", "rating", "time"])
    exact = {(user, item): float(time) for user, item, _, time in table.itertuples(index=False)}
    by_item, at_random = orders(tie_order="item"), orders(tie_order="random")
    assert orders(tie_order="random") == at_random != orders(seed=1, tie_order="random")
    for other in (by_item, at_random):
        assert other != in_file
        # The same users, with the same times in the same order.
        assert [(row[0], exact[row[:2]]) for row in other] == [(row[0], exact[row[:2]]) for row in in_file]
    keys = [(row[0], exact[row[:2]], row[1]) for row in by_item]
    assert all(one[2] <= two[2] for one, two in pairwise(keys) if one[:2] == two[:2])
