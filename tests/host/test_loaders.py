from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from recbole.data import create_dataset, data_preparation
from recbole.data.dataloader import NegSampleEvalDataLoader, TrainDataLoader, UserDataLoader
from recbole.model.general_recommender import diffrec
from recbole.model.sequential_recommender import SASRec
from recbole.utils import init_seed

from recbole_diffusion.errors import UserError
from recbole_diffusion.host.dataset import build_dataset
from recbole_diffusion.host.loaders import FixedNegatives, LengthBatches, LengthBatchLoader, build_loaders, epoch_rows
from recbole_diffusion.host.settings import load_config

SMALL = {"MAX_ITEM_LIST_LENGTH": 10, "train_batch_size": 4096, "user_inter_num_interval": "[20,60]"}


def config_of(model: Any = "SASRec", dataset: str = "ml-100k", **settings: Any) -> Any:
    return load_config(model, dataset, None, settings)


def loaders_of(model: Any = "SASRec", dataset: str = "ml-100k", **settings: Any) -> tuple[Any, Any, Any]:
    config = config_of(model, dataset, **settings)
    return build_loaders(config, build_dataset(config))


def same(ours: Any, theirs: Any) -> None:
    assert sorted(ours.interaction) == sorted(theirs.interaction)
    for name in theirs.interaction:
        assert ours[name].dtype == theirs[name].dtype, name
        assert torch.equal(ours[name], theirs[name]), name


def same_evaluation(ours: Any, theirs: Any) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        same(mine[0], other[0])
        assert torch.equal(mine[2], other[2]) and torch.equal(mine[3], other[3])


def test_batches_are_recboles_element_by_element() -> None:
    config = config_of(train_batch_size=8192)
    theirs = data_preparation(config, create_dataset(config))
    ours = loaders_of(train_batch_size=8192)
    assert len(ours[0]) == len(theirs[0])
    for _ in range(2):
        rows = 0
        for mine, other in zip(ours[0], theirs[0], strict=True):
            same(mine, other)
            rows += len(mine)
        assert rows == len(theirs[0]._dataset)
    for mine, other in zip(ours[1:], theirs[1:], strict=True):
        same_evaluation(mine, other)


@pytest.mark.parametrize("distribution", ["uniform", "popularity"])
def test_sampled_pairs_are_recboles(distribution: str) -> None:
    negatives = {"distribution": distribution, "sample_num": 2}
    settings = {**SMALL, "loss_type": "BPR", "train_neg_sample_args": negatives, "load_col": {"item": "*"}}
    config = config_of(**settings)
    theirs = data_preparation(config, create_dataset(config))[0]
    ours = loaders_of(**settings)[0]
    init_seed(1, True)
    expected = list(theirs)
    init_seed(1, True)
    for mine, other in zip(ours, expected, strict=True):
        same(mine, other)
        assert (mine["neg_item_id"] != mine["item_id"]).all()


def test_batches_of_like_length_hold_every_row_once_an_epoch() -> None:
    settings = {**SMALL, "length_batching": True, "train_batch_size": 512}
    train = loaders_of(**settings)[0]
    assert isinstance(train, LengthBatchLoader) and isinstance(train, TrainDataLoader)
    whole = train._dataset.inter_feat.materialise()
    expected = Counter(zip(whole["user_id"].tolist(), whole["item_id"].tolist(), strict=True))
    epochs = [list(train) for _ in range(3)]
    for epoch in epochs:
        assert len(epoch) == len(train)
        seen: Counter[tuple[int, int]] = Counter()
        for batch in epoch:
            seen.update(zip(batch["user_id"].tolist(), batch["item_id"].tolist(), strict=True))
            longest = int(batch["item_length"].max())
            assert batch["item_id_list"].shape[1] == longest
            assert ((batch["item_id_list"] > 0).sum(dim=1) == batch["item_length"]).all()
        assert seen == expected
        lengths = [float(batch["item_length"].float().mean()) for batch in epoch]
        assert lengths != sorted(lengths)
    assert len({tuple(epoch[0]["item_id"].tolist()) for epoch in epochs}) == 3
    cells = sum(batch["item_id_list"].numel() for batch in epochs[0])
    assert cells < 1.2 * int(whole["item_length"].sum())
    again = loaders_of(**settings)[0]
    for mine, other in zip(again, epochs[0], strict=True):
        same(mine, other)


def test_the_generators_state_decides_the_next_epochs() -> None:
    train = loaders_of(**SMALL, length_batching=True)[0]
    list(train)
    state = train.generator.get_state()
    expected = [batch["item_id"].tolist() for batch in train] + [batch["item_id"].tolist() for batch in train]
    resumed = loaders_of(**SMALL, length_batching=True)[0]
    resumed.generator.set_state(state)
    assert [batch["item_id"].tolist() for _ in range(2) for batch in resumed] == expected


def test_length_batches_without_shuffling_are_in_the_order_of_the_lengths() -> None:
    batches = LengthBatches(lambda: torch.tensor([3, 1, 2, 1, 3]), 5, 2, None)
    assert len(batches) == 3
    assert [batch.tolist() for batch in batches] == [[1, 3], [2, 0], [4]]


def test_pairs_are_sampled_with_length_batching_too() -> None:
    settings = {
        **SMALL,
        "loss_type": "BPR",
        "length_batching": True,
        "train_neg_sample_args": {"distribution": "uniform"},
    }
    for batch in loaders_of(**settings)[0]:
        assert batch["neg_item_id"].shape == batch["item_id"].shape
        assert (batch["neg_item_id"] != batch["item_id"]).all()


class OfSequences(SASRec):
    trains_on: ClassVar[str] = "sequences"


def targets_of(loader: Any) -> Counter[tuple[int, int]]:
    """User and item of each target of an epoch, of all places of a row; an item comes once a user in this data."""
    seen: Counter[tuple[int, int]] = Counter()
    for batch in loader:
        columns = (batch[name].tolist() for name in ("user_id", "item_id_list", "item_length", "item_id"))
        for user, history, length, item in zip(*columns, strict=True):
            seen.update((user, target) for target in (*history[1:length], item))
    return seen


@pytest.mark.parametrize("length_batching", [False, True])
@pytest.mark.parametrize("longest", [7, 50])
def test_sequences_have_every_target_of_the_prefixes_once(longest: int, length_batching: bool) -> None:
    settings = {"MAX_ITEM_LIST_LENGTH": longest, "train_batch_size": 64, "length_batching": length_batching}
    prefixes = loaders_of(**settings)[0]._dataset.inter_feat
    expected = Counter(zip(prefixes["user_id"].tolist(), prefixes["item_id"].tolist(), strict=True))
    train = loaders_of(OfSequences, **settings)[0]
    assert set(expected.values()) == {1}
    assert targets_of(train) == expected
    lasts = Counter(user for user, _ in expected)
    rows = sum(-(-number // longest) for number in lasts.values())
    assert sum(len(batch) for batch in train) == rows == epoch_rows(train) and len(train) == -(-rows // 64)
    assert epoch_rows(loaders_of(**settings)[0]) == len(prefixes)
    for batch in train:
        width = int(batch["item_length"].max()) if length_batching else longest
        assert batch["item_id_list"].shape[1] == width


def test_a_row_of_sequences_is_a_stretch_of_its_user() -> None:
    train = loaders_of(OfSequences, **SMALL, length_batching=True)[0]
    sequences = train._dataset.inter_feat.sequences.columns
    place = {
        pair: at for at, pair in enumerate(zip(*(sequences[n].tolist() for n in ("user_id", "item_id")), strict=True))
    }
    for batch in train:
        columns = (batch[name].tolist() for name in ("user_id", "item_id_list", "item_length", "item_id"))
        for user, history, length, item in zip(*columns, strict=True):
            places = [place[user, each] for each in (*history[:length], item)]
            assert places == list(range(places[0], places[0] + length + 1))


@pytest.mark.parametrize("length_batching", [False, True])
def test_sequences_come_in_another_order_each_epoch_which_the_generator_decides(length_batching: bool) -> None:
    settings = {**SMALL, "train_batch_size": 16, "length_batching": length_batching}

    def users(loader: Any) -> list[int]:
        return [user for batch in loader for user in batch["user_id"].tolist()]

    train = loaders_of(OfSequences, **settings)[0]
    first = users(train)
    state = train.generator.get_state()
    second = users(train)
    assert sorted(first) == sorted(second) and first != second
    again = loaders_of(OfSequences, **settings)[0]
    again.generator.set_state(state)
    assert users(again) == second


def test_evaluation_does_not_depend_on_what_a_model_trains_on() -> None:
    settings = {**SMALL, "length_batching": True}
    for mine, other in zip(loaders_of(OfSequences, **settings)[1:], loaders_of(**settings)[1:], strict=True):
        same_evaluation(mine, other)


def test_what_else_a_model_may_say_that_it_trains_on_is_refused() -> None:
    other = type("Other", (SASRec,), {"trains_on": "sequence"})
    with pytest.raises(UserError, match=r"Other\.trains_on must be prefixes or sequences, got 'sequence'"):
        loaders_of(other, **SMALL)


@pytest.mark.parametrize("mode", ["full", "uni20"])
def test_evaluation_rows_are_the_same_with_length_batching(mode: str) -> None:
    settings = {**SMALL, "eval_args": {"mode": mode}, "eval_batch_size": 1000}

    def rows(length_batching: bool) -> set[tuple[int, ...]]:
        found = set()
        widths = []
        for batch in loaders_of(**settings, length_batching=length_batching)[2]:
            inter = batch[0]
            widths.append(inter["item_id_list"].shape[1])
            owner = batch[2] if mode == "full" else batch[1]
            assert owner.tolist() == sorted(owner.tolist())
            histories = torch.nn.functional.pad(inter["item_id_list"], (0, 10 - widths[-1])).tolist()
            for user, item, history in zip(
                inter["user_id"].tolist(), inter["item_id"].tolist(), histories, strict=True
            ):
                found.add((user, item, *history))
        assert widths == sorted(widths)
        return found

    assert rows(True) == rows(False)


def test_sampled_evaluation_has_recboles_layout_and_fixed_negatives() -> None:
    eval_args = {"mode": "uni20", "split": {"RS": [0.6, 0.2, 0.2]}}
    settings = {**SMALL, "user_inter_num_interval": "[20,25]", "eval_args": eval_args, "load_col": {"item": "*"}}
    _, valid, test = loaders_of(**settings)
    config = config_of(**settings)
    theirs = data_preparation(config, create_dataset(config))[2]
    # RecBole's own way of putting a batch together, with our negatives.
    theirs._sampler = test._sampler
    for mine, other in zip(test, theirs, strict=True):
        same(mine[0], other[0])
        for a, b in zip(mine[1:], other[1:], strict=True):
            assert torch.equal(a, b)
    state = np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    first = [batch[0]["item_id"].tolist() for batch in test]
    assert [batch[0]["item_id"].tolist() for batch in test] == first
    assert np.random.get_state()[1].tolist() == state  # type: ignore[union-attr]
    assert [batch[0]["item_id"].tolist() for batch in loaders_of(**settings)[2]] == first
    other_seed = [batch[0]["item_id"].tolist() for batch in loaders_of(**settings, seed=7)[2]]
    assert other_seed != first and [batch[0]["item_id"].tolist() for batch in valid] != first
    for inter, row_idx, positive_u, positive_i in test:
        for user in positive_u.unique().tolist():
            items = inter["item_id"][row_idx == user].tolist()
            positives = positive_i[positive_u == user].tolist()
            assert items[: len(positives)] == positives
            assert len(set(items)) == len(items) == 21 * len(positives)


class Scene:
    """What FixedNegatives reads of RecBole's sampler."""

    def __init__(self, counts: list[int], distribution: str = "popularity", used: set[int] | None = None) -> None:
        self.item_num, self.distribution, self.alpha = len(counts), distribution, 1.0
        self.counts = counts
        self.used_ids = np.array([used or set()] * 1000)

    def _get_candidates_list(self) -> list[int]:
        return [item for item, count in enumerate(self.counts) for _ in range(count)]


def draw(sampler: FixedNegatives, number: int, user: int = 1, positives: tuple[int, ...] = (1,)) -> list[int]:
    return sampler.sample_by_user_ids(np.full(len(positives), user), np.array(positives), number).tolist()


def test_negatives_are_distinct_as_far_as_the_catalogue_goes() -> None:
    uniform = FixedNegatives(Scene([0] * 8, "uniform", used={2, 3}), 1, "test")
    assert sorted(draw(uniform, 4)) == [4, 5, 6, 7]
    repeated = Counter(draw(uniform, 10))
    assert set(repeated) == {4, 5, 6, 7} and max(repeated.values()) == 3
    with pytest.raises(UserError, match="interacted with every item"):
        draw(uniform, 3, positives=(1, 4, 5, 6, 7))


def test_negatives_by_popularity() -> None:
    counts = [0, 400, 200, 100, 50, 0, 50]
    sampler = FixedNegatives(Scene(counts), 1, "valid")
    drawn = Counter(draw(sampler, 1, user, (1,))[0] for user in range(999))
    # Of 200 : 100 : 50 : 50 among 999, within five standard deviations; an item that nobody took is never drawn.
    for item, share in ((2, 0.5), (3, 0.25), (4, 0.125), (6, 0.125)):
        assert abs(drawn[item] - 999 * share) < 5 * (999 * share * (1 - share)) ** 0.5
    assert set(drawn) == {2, 3, 4, 6}
    # The exact draw takes over where one item has nearly all of the weight.
    skewed = FixedNegatives(Scene([0, 1, 10**6, 1, 1, 1]), 1, "valid")
    assert sorted(draw(skewed, 4)) == [2, 3, 4, 5]


def test_each_model_of_recboles_gets_its_own_loader(atomic: Callable[..., str]) -> None:
    from recbole.model.general_recommender import DiffRec

    train = loaders_of("MultiVAE")[0]
    assert isinstance(train, UserDataLoader)
    assert list(next(iter(train))) == ["user_id"]
    # RecBole's general DiffRec reads users, a sequential model of that name does not.
    settings = {"eval_args": {"mode": "uni20"}}
    assert isinstance(loaders_of(DiffRec, **settings)[0], UserDataLoader)
    assert isinstance(loaders_of("BPR", **settings)[2], NegSampleEvalDataLoader)
    ours = loaders_of("DiffRec", **SMALL)[0]
    assert isinstance(ours, LengthBatchLoader)
    assert {"item_id", "item_id_list", "item_length"} <= set(next(iter(ours)))
    from recbole.utils import KGDataLoaderState

    graph, _, _ = loaders_of("CKE")
    graph.set_mode(KGDataLoaderState.RSKG)
    assert {"user_id", "neg_item_id", "head_id"} <= set(next(iter(graph)))


def test_a_worker_process_gives_the_same_batches() -> None:
    settings = {**SMALL, "length_batching": True, "user_inter_num_interval": "[20,24]"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch counts the cores
        alone, helped = loaders_of(**settings)[0], loaders_of(**settings, worker=1)[0]
        for mine, other in zip(helped, alone, strict=True):
            same(mine, other)


def test_top_items_can_be_asked_for_as_recbole_does() -> None:
    from recbole.model.sequential_recommender import SASRec
    from recbole.utils.case_study import full_sort_topk

    config = config_of(**SMALL, length_batching=True)
    train, _, test = build_loaders(config, build_dataset(config))
    users = test._dataset.token2id("user_id", test._dataset.field2id_token["user_id"][[5, 2, 9]])
    model = SASRec(config, train._dataset)
    scores, items = full_sort_topk(users, model, test, 4)
    assert scores.shape == items.shape == (3, 4) and torch.isfinite(scores).all()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("length_batching", [False, True])
def test_loading_and_an_epoch_warn_of_nothing(length_batching: bool) -> None:
    from recbole.model.sequential_recommender import SASRec

    settings = {**SMALL, "load_col": {"inter": "*", "user": "*", "item": "*"}, "hidden_size": 8, "inner_size": 8}
    config = config_of(**settings, n_layers=1, n_heads=1, length_batching=length_batching, eval_args={"mode": "uni5"})
    train, valid, _ = build_loaders(config, build_dataset(config))
    model = SASRec(config, train._dataset)
    for batch in train:
        model.calculate_loss(batch.to("cpu")).backward()
    with torch.no_grad():
        for interaction, *_ in valid:
            assert model.predict(interaction.to("cpu")).shape == (len(interaction),)


class Subclass(diffrec.DiffRec):
    """A user's own, of RecBole's DiffRec."""


def test_a_subclass_of_an_autoencoder_of_recboles_takes_users_as_it_does() -> None:
    assert isinstance(loaders_of(Subclass, user_inter_num_interval="[20,60]")[0], UserDataLoader)
