"""Batches for training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import compat

compat.apply()

from recbole.data.dataloader import (  # noqa: E402
    AbstractDataLoader,
    FullSortEvalDataLoader,
    KnowledgeBasedDataLoader,
    NegSampleEvalDataLoader,
    TrainDataLoader,
)
from recbole.data.dataset import Dataset  # noqa: E402
from recbole.data.interaction import Interaction  # noqa: E402
from recbole.data.utils import create_samplers, get_dataloader  # noqa: E402
from recbole.sampler import KGSampler, RepeatableSampler  # noqa: E402
from recbole.utils import ModelType  # noqa: E402

from ..errors import SettingError, UserError  # noqa: E402
from .dataset import PrefixDataset, check_parts, recbole_complaints  # noqa: E402
from .prefixes import Prefixes  # noqa: E402
from .registry import recbole_name  # noqa: E402

# Rounds of sampling with replacement before the rest comes exactly from what is left of the catalogue.
SAMPLING_ROUNDS = 8


def split(config: Any, dataset: Dataset) -> Sequence[Dataset]:
    """The parts of a dataset for training, validation and test.

    Raises
    ------
    UserError
        If the split leaves a part empty.
    """
    with recbole_complaints(config):
        parts = dataset.build()
        check_parts(dataset, parts)
    return parts


def build_loaders(config: Any, dataset: Dataset, parts: Sequence[Dataset] | None = None) -> tuple[Any, Any, Any]:
    """Make the loaders of training, validation and test of a dataset, and split it unless its `parts` are given.

    With `length_batching` a training batch holds histories of like length, padded to the longest of them; without,
    batches are those of RecBole's `data_preparation`. Negatives of sampled evaluation are the same each time.

    Raises
    ------
    UserError
        If the split leaves a part empty.
    """
    parts = split(config, dataset) if parts is None else parts
    with recbole_complaints(config):
        samplers = _samplers(config, dataset, parts)
    if config["length_batching"]:
        for part in parts:
            part.trim = True
    train = _train_loader(config, dataset, parts[0], samplers[0])
    valid, test = (
        _eval_loader(config, part, sampler, phase)
        for part, sampler, phase in zip(parts[1:], samplers[1:], ("valid", "test"), strict=True)
    )
    return train, valid, test


def _samplers(config: Any, dataset: Dataset, parts: Sequence[Dataset]) -> tuple[Any, Any, Any]:
    """RecBole's samplers of the three parts; that of training is the same whether the history is ranked or not.

    RecBole makes all three by `repeatable`: then a negative of a model that is not sequential may be an item that its
    user has interacted with.
    """
    keys = ("train_neg_sample_args", "valid_neg_sample_args", "test_neg_sample_args", "repeatable")
    own = {key: config[key] for key in keys}
    samplers = create_samplers(own, dataset, parts)
    if own["repeatable"] and config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        return create_samplers({**own, "repeatable": False}, dataset, parts)[0], *samplers[1:]
    return samplers


def _train_loader(config: Any, dataset: Dataset, part: Dataset, sampler: Any) -> Any:
    if config["MODEL_TYPE"] == ModelType.KNOWLEDGE:
        negatives = config["train_neg_sample_args"]
        kg_sampler = KGSampler(dataset, negatives["distribution"], negatives["alpha"])
        return KnowledgeBasedDataLoader(config, part, sampler, kg_sampler, shuffle=True)
    if config["MODEL_TYPE"] != ModelType.SEQUENTIAL and not _is_abstract(name := recbole_name(config.model_class)):
        # By name, since RecBole's autoencoders (its own DiffRec among them) take users, not interactions.
        loader = get_dataloader({"model": name, "MODEL_TYPE": config["MODEL_TYPE"]}, "train")
        return loader(config, part, sampler, shuffle=config["shuffle"])
    by_length = isinstance(part, PrefixDataset) and config["length_batching"]
    loader = LengthBatchLoader if by_length else RowLoader
    return loader(config, part, sampler, shuffle=config["shuffle"], rows=_training_rows(config, part))


def _is_abstract(name: str) -> bool:
    """Whether a class of RecBole's is a base class only, from which models of any kind derive."""
    return name.endswith("Recommender") or not name


def _training_rows(config: Any, part: Dataset) -> Tensor | None:
    """Numbers of the rows that a model trains on, by its class's `trains_on`; None for all.

    "prefixes", the default, are a row for each interaction but a user's first. "sequences" are as few rows as have each
    of these interactions as a target once, where every place of a history has the next interaction as its target.
    """
    kind = trains_on(config.model_class)
    if kind == "prefixes":
        return None
    if kind != "sequences":
        raise UserError(f"{config['model']}.trains_on must be prefixes or sequences, got {kind!r}")
    if config["benchmark_filename"] is not None:
        must = f"be ~ for {config['model']}, which trains on sequences: these files hold prefixes"
        raise SettingError("benchmark_filename", config["benchmark_filename"], must=must)
    return part.inter_feat.covering()


def trains_on(model: Any) -> str:
    """What a model or its class trains on, "prefixes" or "sequences"; RecBole's models do not say."""
    return getattr(model, "trains_on", "prefixes")


def epoch_rows(loader: Any) -> int:
    """How many rows an epoch of a training loader has, ours or RecBole's."""
    for name in ("epoch_rows", "sample_size"):
        if hasattr(loader, name):
            return getattr(loader, name)
    return len(loader._dataset)


def _eval_loader(config: Any, part: Dataset, sampler: Any, phase: str) -> AbstractDataLoader:
    if isinstance(part, PrefixDataset) and part.trim:
        # Rows of like length together; no metric depends on the order of the rows.
        part.sort(by=part.item_list_length_field)
    mode = config["eval_args"]["mode"][phase]
    if mode[:3] in ("uni", "pop") and int(mode[3:]) > part.item_num - 2:
        must = f"sample at most {part.item_num - 2} items, all of the catalogue but the target"
        raise SettingError("eval_args.mode", mode, must=must)
    # Other models' samplers know what RecBole takes out, and whether it does.
    without_history = config["MODEL_TYPE"] == ModelType.SEQUENTIAL and config["history_in_ranking"] != "in"
    if without_history:
        _require_histories(config, part)
    if mode == "full":
        return (WithoutHistoryLoader if without_history else FullSortEvalDataLoader)(config, part, sampler)
    if sampler is not None:
        sampler = FixedNegatives(sampler, config["seed"], phase)
    loader = SampledEvalLoader if isinstance(part, PrefixDataset) else NegSampleEvalDataLoader
    return loader(config, part, sampler)


def _require_histories(config: Any, part: Dataset) -> None:
    """Refuse rows that hold the newest interactions of a history only, with no trace of the others.

    Raises
    ------
    SettingError
    """
    if not isinstance(part, PrefixDataset):
        must = (
            f"be in for {config['model']}: its rows hold only the newest {config['MAX_ITEM_LIST_LENGTH']} interactions"
        )
        raise SettingError("history_in_ranking", config["history_in_ranking"], must=must)


def history_items(dataset: PrefixDataset, index: Any) -> tuple[Tensor, Tensor]:
    """What the users of some rows have interacted with before: number of the row, and item, int64 [m] each.

    Where histories come with the files, what stands in them is all that is known.
    """
    rows = dataset.inter_feat[index]
    if isinstance(rows, Prefixes):
        return rows.earlier(dataset.iid_field)
    items = rows[dataset.iid_field + dataset.config["LIST_SUFFIX"]]
    row, place = items.nonzero(as_tuple=True)
    return row, items[row, place]


class WithoutHistoryLoader(FullSortEvalDataLoader):
    """RecBole's batches of full ranking of a sequential model, which say what of the history is not to be ranked.

    The target stays in the ranking, even where it is in the history.
    """

    def collate_fn(self, index: Any) -> tuple[Interaction, tuple[Tensor, Tensor], Tensor, Tensor]:
        """One batch, and the rows and items that are not ranked, as RecBole's loader has them for general models."""
        interaction, _, positive_u, positive_i = super().collate_fn(index)
        row, item = history_items(self._dataset, np.asarray(index))
        others = item != positive_i[row]
        return interaction, (row[others], item[others]), positive_u, positive_i


class _RowNumbers:
    """The numbers 0 to n - 1 as a torch dataset, which gives a whole batch of them at once."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, row: int) -> int:
        return row

    def __getitems__(self, rows: Any) -> Any:
        return rows


def row_lengths(dataset: Dataset) -> Tensor:
    """Length [n] of each row's history; nothing of it is kept."""
    rows = dataset.inter_feat
    return rows.lengths() if isinstance(rows, Prefixes) else rows[dataset.item_list_length_field]


class RowLoader(TrainDataLoader):
    """RecBole's loader for training, without its lists of row numbers.

    Parameters
    ----------
    rows : int64 Tensor [m], optional
        Numbers of the rows of an epoch; all by default.

    Attributes
    ----------
    epoch_rows : int
        How many rows an epoch has.
    """

    def __init__(
        self, config: Any, dataset: Dataset, sampler: Any, shuffle: bool = False, rows: Tensor | None = None
    ) -> None:
        super().__init__(config, dataset, sampler, shuffle=shuffle)
        # torch lets a loader's dataset be set once; RecBole has done that.
        object.__setattr__(self, "dataset", _RowNumbers(self.sample_size))
        self.epoch_rows = len(dataset) if rows is None else len(rows)
        self.row_batches = self.make_batches(self.generator if shuffle else None, rows)

    def make_batches(self, generator: torch.Generator | None, rows: Tensor | None) -> RowBatches:
        """What gives the row numbers of each batch."""
        return RowBatches(self.sample_size, self.step, generator, rows)

    @property
    def _index_sampler(self) -> RowBatches:
        # What torch's loader draws its batches from; its own batch_sampler cannot be given through RecBole's __init__.
        return self.row_batches


class LengthBatchLoader(RowLoader):
    """Training batches of histories of like length, each padded to its longest.

    The order is a new one each epoch, by `generator`: its state before an epoch decides that epoch's batches.
    """

    def make_batches(self, generator: torch.Generator | None, rows: Tensor | None) -> RowBatches:
        return LengthBatches(partial(row_lengths, self._dataset), self.sample_size, self.step, generator, rows)


class RowBatches:
    """Batches of row numbers, in the order of torch's own samplers, which hold each number as an object.

    Parameters
    ----------
    number : int
        n, of all rows.
    size : int
        Rows of a batch.
    generator : torch.Generator or None
        Shuffles the rows; without one they are in order.
    rows : int64 Tensor [m], optional
        Numbers of the rows of an epoch; all by default.
    """

    def __init__(self, number: int, size: int, generator: torch.Generator | None, rows: Tensor | None = None) -> None:
        self.number = number
        self.size = size
        self.generator = generator
        self.rows = rows

    def __len__(self) -> int:
        return -(-(self.number if self.rows is None else len(self.rows)) // self.size)

    def shuffled(self) -> Tensor:
        """The rows of an epoch, in an order of its own."""
        rows = torch.arange(self.number, dtype=torch.int32) if self.rows is None else self.rows
        return rows if self.generator is None else rows[torch.randperm(len(rows), generator=self.generator)]

    def __iter__(self) -> Iterator[np.ndarray]:
        for batch in self.shuffled().split(self.size):
            yield batch.numpy()
        if self.generator is not None and self.rows is None:
            # As torch's sampler ends, so that the next epoch is the same.
            torch.randperm(self.number, generator=self.generator)


class LengthBatches(RowBatches):
    """Batches of row numbers: every row once an epoch, rows of like length together, batches in random order.

    Parameters
    ----------
    lengths : callable
        Gives the length [n] of each row's history.
    number, size, generator, rows
        As in `RowBatches`; without a generator the order is that of the lengths.
    """

    def __init__(
        self,
        lengths: Callable[[], Tensor],
        number: int,
        size: int,
        generator: torch.Generator | None,
        rows: Tensor | None = None,
    ) -> None:
        super().__init__(number, size, generator, rows)
        self.lengths = lengths

    def __iter__(self) -> Iterator[np.ndarray]:
        rows = self.shuffled()
        order = torch.arange(len(self))
        if self.generator is not None:
            order = torch.randperm(len(order), generator=self.generator)
        lengths = self.lengths().to(torch.int32)
        batches = rows[torch.argsort(lengths[rows], stable=True)].split(self.size)
        for number in order.tolist():
            yield batches[number].numpy()


class FixedNegatives:
    """Negatives of sampled evaluation, a function of seed, phase and user alone.

    They are distinct as far as the catalogue goes, and none of them is among the user's positives of that part, nor,
    with `history_in_ranking: out`, among the user's earlier items. NumPy's global random state is not touched.

    Parameters
    ----------
    sampler : recbole AbstractSampler
        Says what the distribution is and which items are in use.
    seed : int
    phase : str
        `valid` or `test`.
    """

    def __init__(self, sampler: Any, seed: int, phase: str) -> None:
        self.phase = phase
        self.used_ids = None if isinstance(sampler, RepeatableSampler) else sampler.used_ids
        self.entropy = (seed, phase == "test")
        weights = np.ones(sampler.item_num)
        if sampler.distribution == "popularity":
            items = np.asarray(sampler._get_candidates_list(), dtype=np.int64)
            weights = np.bincount(items, minlength=sampler.item_num) ** float(sampler.alpha)
        weights[0] = 0
        self.weights = weights
        self.cumulative = weights.cumsum() / weights.sum()

    def sample_by_user_ids(
        self, user_ids: np.ndarray, item_ids: np.ndarray, num: int, history: np.ndarray | None = None
    ) -> Tensor:
        """Negatives for one user's positives `item_ids` [k], none of them in `history` [h]: int64 [num * k]."""
        user = int(user_ids[0])
        banned = np.asarray(item_ids)
        if history is not None:
            banned = np.union1d(banned, history)
        if self.used_ids is not None:
            banned = np.union1d(banned, np.fromiter(self.used_ids[user], dtype=np.int64))
        generator = np.random.default_rng([*self.entropy, user])
        return torch.from_numpy(self._sample(generator, banned, num * len(item_ids)))

    def _sample(self, generator: np.random.Generator, banned: np.ndarray, number: int) -> np.ndarray:
        # Sampling with replacement and dropping what came before is sampling without replacement.
        sampled = kept = np.empty(0, dtype=np.int64)
        for _ in range(SAMPLING_ROUNDS):
            more = self.cumulative.searchsorted(generator.random(2 * number), side="right")
            sampled = np.concatenate([sampled, more])
            sampled = sampled[np.sort(np.unique(sampled, return_index=True)[1])]
            kept = sampled[~np.isin(sampled, banned)]
            if len(kept) >= number:
                return kept[:number]
        # The race of exponential clocks samples by weight, too, at the cost of one number for each item.
        weights = self.weights.copy()
        weights[banned] = weights[kept] = 0
        left = np.flatnonzero(weights)
        kept = np.concatenate([kept, left[np.argsort(generator.exponential(size=len(left)) / weights[left])]])
        if not len(kept):
            raise UserError("eval_args: a user has interacted with every item, so that none is left as a negative")
        return np.resize(kept, number)


class SampledEvalLoader(NegSampleEvalDataLoader):
    """RecBole's batches of sampled evaluation, put together for all users of a batch at once."""

    uid_list: np.ndarray

    def __init__(self, config: Any, dataset: PrefixDataset, sampler: Any, shuffle: bool = False) -> None:
        super().__init__(config, dataset, sampler, shuffle=shuffle)
        if dataset.trim and hasattr(self, "uid_list"):
            lengths = dataset.inter_feat[dataset.item_list_length_field].numpy()
            longest = np.array([lengths[self.uid2index[uid]].max() for uid in self.uid_list])
            self.uid_list = self.uid_list[np.argsort(longest, kind="stable")]

    def _history(self, span: np.ndarray) -> np.ndarray | None:
        """What the negatives of a user must not hold, besides the positives."""
        if self._dataset.config["history_in_ranking"] == "in":
            return None
        return history_items(self._dataset, span)[1].numpy()

    def collate_fn(self, index: Any) -> tuple[Interaction, Tensor | None, Tensor | None, Tensor | None]:
        """One batch: rows with candidates (positives first, then negatives, user by user), and where the positives are.

        Returns
        -------
        interaction : Interaction [n * (1 + N)]
        row_idx : int64 [n * (1 + N)]
            The user of each row, counted within the batch.
        positive_u, positive_i : int64 [n]
            User and item of each positive.
        """
        if not hasattr(self, "uid_list"):  # labelled data, without negatives
            return super().collate_fn(index)
        users = self.uid_list[np.asarray(index)]
        spans = [np.arange(span.start, span.stop) for span in self.uid2index[users]]
        items = self._dataset.inter_feat[self.iid_field]
        candidates, labels = [], []
        for user, span in zip(users, spans, strict=True):
            positives = items[span]
            negatives = self._sampler.sample_by_user_ids(
                np.full(len(span), user), positives.numpy(), self.neg_sample_num, self._history(span)
            )
            candidates += [positives, negatives]
            labels += [torch.ones(len(positives)), torch.zeros(len(negatives))]
        sizes = np.array([len(span) for span in spans])
        local = np.split(np.arange(sizes.sum()), sizes.cumsum()[:-1])
        interaction = self.transform(self._dataset, self._dataset[np.concatenate(spans)])
        interaction = interaction[np.concatenate([np.tile(rows, self.times) for rows in local])]
        interaction[self.iid_field] = torch.cat(candidates)
        interaction = self._dataset.join(interaction)
        interaction[self.label_field] = torch.cat(labels)
        row_idx, positive_u = (torch.from_numpy(np.arange(len(users)).repeat(sizes * k)) for k in (self.times, 1))
        return interaction, row_idx, positive_u, torch.cat(candidates[::2])
