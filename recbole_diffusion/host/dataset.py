"""RecBole's dataset, with histories stored once."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from . import compat

compat.apply()

import recbole.data.dataset  # noqa: E402
from recbole.data.dataset import Dataset, KnowledgeBasedDataset, SequentialDataset  # noqa: E402
from recbole.data.interaction import Interaction  # noqa: E402
from recbole.utils import ModelType  # noqa: E402

from ..errors import SettingError, UserError  # noqa: E402
from .prefixes import Prefixes, Sequences  # noqa: E402
from .registry import recbole_name  # noqa: E402
from .temporal import SCHEME, read_temporal, split_by_time  # noqa: E402

PICKLES = ("save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path")
# How many rows of a user leave-one-out takes before it gives one to a part.
LEAVE_ONE_OUT = {
    "valid_and_test": {"training": 1, "test": 2, "validation": 3},
    "valid_only": {"training": 1, "validation": 2},
    "test_only": {"training": 1, "test": 2},
}
PARTS = ("training", "validation", "test")


def build_dataset(config: Any) -> Dataset:
    """Load, filter and renumber a dataset, as RecBole's `create_dataset` does.

    Sequential models get a `PrefixDataset`, unless RecBole has a dataset class for that model of its own.

    Raises
    ------
    UserError
        If files or settings do not allow it.
    """
    for key in PICKLES:
        if config[key]:
            raise SettingError(key, config[key], must="be left out, as reading a pickle runs its code")
    files = config["benchmark_filename"]
    if files is not None and len(files) != len(PARTS):
        raise SettingError("benchmark_filename", files, must=f"name {len(PARTS)} files: {', '.join(PARTS)}")
    dataset_class = _dataset_class(config)
    split = config["eval_args"]["split"]
    if files is None and SCHEME in split and not issubclass(dataset_class, PrefixDataset):
        must = f"be LS, RS or TS for {config['model']}: {SCHEME} takes a sequential model that reads histories of items"
        raise SettingError("eval_args.split", split, must=must)
    if "data_path" in config.given and not Path(config["data_path"]).parent.is_dir():
        raise SettingError("data_path", config.data_folder, must="be a folder that exists")
    with recbole_complaints(config):
        return dataset_class(config)


def _dataset_class(config: Any) -> type[Dataset]:
    # By its name alone, a model of somebody else's would get the dataset of RecBole's model of that name.
    own = getattr(recbole.data.dataset, f"{recbole_name(config.model_class)}Dataset", None)
    if own is not None:
        return own
    by_type = {ModelType.SEQUENTIAL: PrefixDataset, ModelType.KNOWLEDGE: KnowledgeBasedDataset}
    return by_type.get(config["MODEL_TYPE"], Dataset)


@contextlib.contextmanager
def recbole_complaints(config: Any) -> Iterator[None]:
    """Turn what RecBole itself raises over data and their settings into a `UserError`."""
    try:
        yield
    except (ValueError, NotImplementedError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
        if Path(recbole.__file__).parent not in raised_in.parents:
            raise
        raise UserError(f"dataset={config['dataset']}: {error}") from error


class PrefixDataset(SequentialDataset):
    """A `SequentialDataset` whose augmented rows are `Prefixes`.

    Rows, their order and their content are RecBole's; `dataset[index]` gives them with padded histories.
    """

    # Whether batches are padded to their longest history only.
    trim = False
    # Times as RecBole keeps them times the second, plus the first, are those of the files; None without times.
    time_scale: tuple[float, float] | None = None
    inter_feat: Any

    def _normalize(self) -> None:
        """Normalize as RecBole does, which is by default to [0, 1], and keep what leads back to the times."""
        if self.time_field not in self.inter_feat:
            super()._normalize()
            return
        first, last = self.inter_feat[self.time_field].agg(["min", "max"])
        super()._normalize()
        low, high = self.inter_feat[self.time_field].agg(["min", "max"])
        factor = (last - first) / (high - low) if last > first else 0.0
        self.time_scale = (float(first - factor * low), float(factor))

    def data_augmentation(self) -> None:
        """Make one row for each interaction but the first of each user."""
        self._aug_presets()
        self._check_field("uid_field", "time_field")
        self.sort(by=[self.uid_field, self.time_field])
        self.inter_feat = Prefixes.of(
            Sequences(self.inter_feat.interaction, self.uid_field),
            self.max_item_list_len,
            self.config["LIST_SUFFIX"],
            self.item_list_length_field,
        )
        if not len(self.inter_feat):
            raise too_few(self, "no user has a history, so there is nothing to train on", 2)

    def build(self) -> list[PrefixDataset]:
        """Split into training, validation and test."""
        temporal = read_temporal(self.config["eval_args"]["split"])
        if temporal is None or self.benchmark_filename_list is not None:
            return super().build()
        self._change_feat_format()
        self.sort(by=self.time_field)
        *parts, unknown = split_by_time(self.inter_feat, self.time_field, self.iid_field, temporal)
        if unknown:
            self.logger.info(f"{SCHEME}: {unknown} interactions with items that training lacks are no targets")
        self._drop_unused_col()
        return [self.copy(self.inter_feat[rows]) for rows in parts]

    def __getitem__(self, index: Any, join: bool = True) -> Interaction:
        """Rows with their histories padded on the right, and with the features of user and item."""
        rows = self.inter_feat[index]
        width = None
        if self.trim and len(rows):
            width = int(rows[self.item_list_length_field].max())
        if isinstance(rows, Prefixes):
            rows = rows.materialise(width)
        elif width is not None:
            for field in self._list_fields():
                rows[field] = rows[field][:, :width]
        return self.join(rows) if join else rows

    def _list_fields(self) -> list[str]:
        fields = [field + self.config["LIST_SUFFIX"] for field in self.inter_feat]
        return [field for field in fields if field in self.inter_feat]

    def inter_matrix(self, form: str = "coo", value_field: str | None = None) -> Any:
        """Sparse [users, items] matrix of all interactions of this part, a sequence's first one included."""
        feat = self.inter_feat
        if not isinstance(feat, Prefixes):
            return super().inter_matrix(form, value_field)
        if value_field is not None and value_field not in feat:
            raise ValueError(f"Value_field [{value_field}] should be one of `df_feat`'s features.")
        rows = feat.rows.long()
        # Not by the history's length, which MAX_ITEM_LIST_LENGTH bounds.
        second = feat.sequences.start[rows] == rows - 1
        rows = torch.cat([rows, rows[second] - 1])
        fields = [self.uid_field, self.iid_field, *([value_field] if value_field else [])]
        interactions = Interaction({field: feat.sequences.columns[field][rows] for field in fields})
        return self._create_sparse_matrix(interactions, self.uid_field, self.iid_field, form, value_field)

    def _grouped_index(self, group_by_list: np.ndarray) -> list[np.ndarray]:
        """RecBole's groups, in the order of first appearance, without a loop over the rows."""
        codes, names = pd.factorize(group_by_list)
        ends = np.bincount(codes, minlength=len(names)).cumsum()
        return np.split(np.argsort(codes, kind="stable"), ends[:-1])

    def _split_index_by_leave_one_out(
        self, grouped_index: Sequence[np.ndarray], leave_one_num: int
    ) -> list[np.ndarray]:
        """RecBole's split, without a loop over the rows: the last row of a group to the last part, and so on backwards.

        A group's first row always stays in the first part.
        """
        sizes = np.array([len(group) for group in grouped_index])
        index = np.concatenate(grouped_index)
        begin = np.repeat(sizes.cumsum() - sizes, sizes)
        from_start = np.arange(len(index)) - begin
        from_end = np.repeat(sizes, sizes) - from_start
        part = np.where(from_start == 0, 0, np.maximum(leave_one_num + 1 - from_end, 0))
        return [index[part == number] for number in range(leave_one_num + 1)]

    def _benchmark_presets(self) -> None:
        """Check that histories which come with the files can be used as they are."""
        list_field = self.iid_field + self.config["LIST_SUFFIX"]
        if list_field not in self.alias["item_id"]:
            must = f"hold {list_field}, so that histories and targets share their ids"
            raise SettingError("alias_of_item_id", self.config["alias_of_item_id"], must=must)
        longest = self.field2seqlen[list_field]
        if longest > self.max_item_list_len:
            raise SettingError(
                "MAX_ITEM_LIST_LENGTH",
                self.max_item_list_len,
                must=f"be at least {longest}, the longest {list_field}; seq_len={{{list_field}: N}} keeps the newest N",
            )
        # RecBole's own method names the field so, whatever ITEM_ID_FIELD is.
        self.item_id_list_field = list_field
        super()._benchmark_presets()


def check_parts(dataset: Dataset, parts: Sequence[Dataset]) -> None:
    """Refuse a split that leaves a part empty which the settings ask for.

    Raises
    ------
    UserError
        Saying how many interactions users need, and how many users have them.
    """
    config = dataset.config
    if config["benchmark_filename"] is not None:
        return
    mode, split = next(iter(config["eval_args"]["split"].items()))
    if mode == "LS":
        # A sequence's first interaction is history only.
        extra = int(config["MODEL_TYPE"] == ModelType.SEQUENTIAL)
        needed = {part: number + extra for part, number in LEAVE_ONE_OUT[split].items()}
    elif mode == SCHEME:
        needed = dict.fromkeys(PARTS, 0)
    else:
        needed = {part: 0 for part, ratio in zip(PARTS, split, strict=True) if ratio}
    sizes = dict(zip(PARTS, map(len, parts), strict=True))
    for part, number in needed.items():
        if sizes[part] == 0:
            raise too_few(dataset, f"the split {mode}: {split} leaves the {part} part empty", number)


def too_few(dataset: Dataset, what: str, needed: int) -> UserError:
    """The error that says how many interactions users have; `needed` is 0 where no number is enough for sure."""
    feat = dataset.inter_feat
    users = (feat.sequences.columns if isinstance(feat, Prefixes) else feat)[dataset.uid_field]
    counts = np.unique(users.numpy(), return_counts=True)[1]
    has = f"the most that one of {len(counts)} users has is {counts.max()}"
    if needed:
        enough = int((counts >= needed).sum())
        has = f"a user needs {needed} interactions for it, and {enough} of {len(counts)} have that many"
    return UserError(f"dataset={dataset.dataset_name}: {what}; {has}")
