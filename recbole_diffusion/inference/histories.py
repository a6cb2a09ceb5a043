"""Histories as users hand them in, and those of the users of a dataset."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ..errors import SettingError, UserError, suggestion
from .vocabulary import LARGEST_TO_SEARCH, Vocabulary


class Labelled(NamedTuple):
    """Histories of tokens, and the label of each."""

    users: list[Any]
    histories: list[Iterable[Any]]


def labelled(histories: Any, columns: Mapping[str, str]) -> Labelled:
    """Read one history or several.

    Parameters
    ----------
    histories : sequence, mapping, array or DataFrame
        One history of item tokens; a sequence of histories, or an array of two dimensions; a mapping from users to
        histories; or a DataFrame of interactions, one a row, which are put in order of time where it has such a column.
    columns : mapping
        What a DataFrame's columns "user", "item" and "time" are called.

    Raises
    ------
    UserError
        Where it is none of these, or a DataFrame lacks a column, or a row a user or a time.
    """
    if isinstance(histories, pd.DataFrame):
        return _of_frame(histories, columns)
    if isinstance(histories, Mapping):
        for user, history in histories.items():
            # A text would be read letter by letter.
            if isinstance(history, str) or not isinstance(history, Iterable):
                raise UserError(f"the history of {user!r} must be a list of item tokens, got {reprlib.repr(history)}")
        return Labelled(list(histories), list(histories.values()))
    if isinstance(histories, str) or not isinstance(histories, Sequence | np.ndarray | pd.Series):
        raise UserError(
            f"histories must be a list of item tokens or a list of such lists, got {reprlib.repr(histories)}"
        )
    rows = list(histories)
    if any(isinstance(row, str) or np.ndim(row) == 0 for row in rows):
        if not all(isinstance(row, str) or np.ndim(row) == 0 for row in rows):
            raise UserError("histories must be a list of item tokens or a list of such lists, not a mix of both")
        rows = [rows]
    return Labelled(list(range(len(rows))), rows)


def _of_frame(frame: pd.DataFrame, columns: Mapping[str, str]) -> Labelled:
    for column in (columns["user"], columns["item"]):
        if column not in frame:
            there = ", ".join(map(str, frame.columns))
            raise UserError(f"the DataFrame has no column {column} (there are: {there})")
    for column in (columns["user"], columns["time"]):
        # pandas would drop rows without a user, and take those without a time for the newest.
        if column in frame and frame[column].isna().any():
            raise UserError(f"the DataFrame has rows without {column}")
    if columns["time"] in frame:
        frame = frame.sort_values(columns["time"], kind="stable")
    groups = frame.groupby(columns["user"], sort=False)[columns["item"]]
    names, rows = [], []
    for name, items in groups:
        names.append(name)
        rows.append(items.tolist())
    return Labelled(names, rows)


class UserHistories:
    """The items of every user of a dataset, oldest first.

    Parameters
    ----------
    tokens : sequence of str
        The users.
    items : int64 array [N]
        All histories, one after the other, as numbers of the items in `names`.
    start : int64 array [users + 1]
        Where each begins and ends in `items`.
    names : object array [V]
        Tokens of the dataset's items.
    vocabulary : Vocabulary
        The items that the model knows, which may be others.
    """

    def __init__(
        self, tokens: Sequence[str], items: np.ndarray, start: np.ndarray, names: np.ndarray, vocabulary: Vocabulary
    ) -> None:
        self.tokens = list(tokens)
        self.items, self.start = items, start
        self.names, self.vocabulary = names, vocabulary
        # 0 where the model does not know the item.
        self._known = np.array([0, *(vocabulary.id_of(name) for name in names[1:])], dtype=np.int64)
        self._rows = {token: row for row, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        return len(self.tokens)

    def row(self, row: int, skip_unknown: bool = False) -> np.ndarray:
        """The model's ids int64 [L] of one history; see `Vocabulary.ids`."""
        items = self.items[self.start[row] : self.start[row + 1]]
        ids = self._known[items]
        return ids if ids.all() else self.vocabulary.ids(self.names[items], skip_unknown)

    def of(self, user: Any, skip_unknown: bool = False) -> np.ndarray:
        """The model's ids int64 [L] of the history of the user with this token.

        Raises
        ------
        UserError
            Where there is no such user, or the model does not know an item of the history.
        """
        row = self._rows.get(str(user))
        if row is None:
            hint = suggestion(str(user), self._rows) if len(self) <= LARGEST_TO_SEARCH else ""
            raise UserError(f"user {str(user)!r}: not among the {len(self):,} users of the dataset{hint}")
        return self.row(row, skip_unknown)


def read_users(
    path: str | Path, state: Mapping[str, Any], model: Any, vocabulary: Vocabulary, data_path: str | None = None
) -> UserHistories:
    """The histories of a checkpoint's dataset, filtered as in training, with the held-out interactions at their ends.

    Parameters
    ----------
    path : str or Path
        The checkpoint, named in messages.
    state : mapping
        What it holds.
    model : nn.Module
    vocabulary : Vocabulary
        The items of the checkpoint.
    data_path : str, optional
        Folder of the dataset; by default where it was in training.

    Raises
    ------
    UserError
        Where the dataset cannot be read, or has none of the model's items.
    """
    # Reading a dataset takes all of RecBole; recommending from a history must not wait for it.
    from ..host.dataset import build_dataset
    from ..host.settings import load_config
    from ..host.table import without_computed

    # The data need no device: that of the training may be one of another machine.
    settings = {**without_computed(state["config"]), "resume": None, "use_gpu": False}
    if data_path is not None:
        settings["data_path"] = data_path
    if settings.get("benchmark_filename") is not None:
        problem = "recommending to users needs a dataset of interactions; give histories instead"
        raise SettingError("benchmark_filename", settings["benchmark_filename"], problem)
    config = load_config(type(model), state["dataset"], None, settings)
    dataset = build_dataset(config)
    names = np.array([str(token) for token in dataset.field2id_token[dataset.iid_field]], dtype=object)
    if not set(names[1:]) & set(vocabulary.tokens[1:]):
        raise UserError(
            f"{path}: the checkpoint is of another catalogue: it knows no item of dataset={state['dataset']}"
        )
    user, item, time = dataset.uid_field, dataset.iid_field, dataset.time_field
    table = dataset.inter_feat
    order = [user, time] if time in table else [user]
    table = table.sort_values(order, kind="stable")
    ids, counts = np.unique(table[user].to_numpy(), return_counts=True)
    tokens = [str(token) for token in dataset.field2id_token[user][ids]]
    items = table[item].to_numpy(dtype=np.int64, copy=True)
    return UserHistories(tokens, items, np.concatenate([[0], counts.cumsum()]), names, vocabulary)
