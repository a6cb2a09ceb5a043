"""Ranks of the test items on disk, and metrics of single users from them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from ..common.files import atomic_write
from ..errors import UserError
from .ranking import UserRanks, user_ranks

K = 10
# The deepest rank that an archive tells from those behind it. Metrics end earlier, and deep ranks hardly compress.
DEEPEST = 100
# Share of the items that make up the head, the most popular first.
HEAD = 0.2


class StoredRanks(NamedTuple):
    """What `ranks.npz` of a run holds.

    user, item, rank : int32 [n]
        As `ranking.UserRanks` has them, a row for each test interaction.
    length : int32 [n]
        Number of interactions before it, of which a model may be shown only the last.
    popularity : int32 [V]
        Number of training interactions of each item.
    rank_out : int32 [n], optional
        The rank without the history; of runs with `history_in_ranking: both`.
    time : int64 [n], optional
        When each test interaction took place, in the dataset's unit; of data with times.
    """

    user: np.ndarray
    item: np.ndarray
    length: np.ndarray
    rank: np.ndarray
    popularity: np.ndarray
    rank_out: np.ndarray | None = None
    time: np.ndarray | None = None


class Aligned(NamedTuple):
    """The ranks of several models for the same rows.

    user, item, length : int32 [n]
        Of each row, sorted by user and item.
    popularity : int32 [V]
    ranks : list of int32 [S, n]
        One entry a model.
    time : int64 [n] or None
    """

    user: np.ndarray
    item: np.ndarray
    length: np.ndarray
    popularity: np.ndarray
    ranks: list[np.ndarray]
    time: np.ndarray | None = None


def training_popularity(dataset: Any) -> np.ndarray:
    """Number of interactions int32 [V] of each item in the training part, a sequence's first included."""
    return np.asarray(dataset.inter_matrix(form="csr").sum(axis=0)).ravel().astype(np.int32)


def whole_lengths(dataset: Any, earlier: Sequence[Any] = ()) -> np.ndarray:
    """Number of interactions int64 [n] before each row's target, those that a model is not shown included.

    Rows are in the order of the dataset, which is that of its evaluation. `earlier` are the parts of the split before
    it, where these do not hold histories.
    """
    prefixes = dataset.inter_feat
    if not hasattr(prefixes, "sequences"):
        users = np.concatenate([part.inter_feat[part.uid_field].numpy() for part in earlier])
        return np.bincount(users, minlength=dataset.user_num)[prefixes[dataset.uid_field].numpy()]
    rows = prefixes.rows.long()
    return (rows - prefixes.sequences.start[rows]).numpy()


def times(dataset: Any) -> np.ndarray | None:
    """When each row's target took place, int64 [n], in the order of the dataset; None where the data have no times."""
    scale = getattr(dataset, "time_scale", None)
    if scale is None:
        return None
    offset, factor = scale
    return (offset + factor * dataset.inter_feat[dataset.time_field].numpy().astype(float)).round().astype(np.int64)


def save_ranks(path: Path, ranks: UserRanks, popularity: np.ndarray, time: np.ndarray | None = None) -> None:
    """Write the ranks of a run, uncompressed: an archive of several runs sees what they share."""
    with atomic_write(path) as part, open(part, "wb") as file:
        columns = {name: column.astype(np.int32) for name, column in ranks._asdict().items() if column is not None}
        columns |= {} if time is None else {"time": time}
        np.savez(file, **columns, popularity=popularity)


def save_test_ranks(path: Path, trainer: Any, train_data: Any, valid_data: Any, test_data: Any) -> None:
    """Rank the test items of a model, and write the ranks with what the report of a comparison groups them by."""
    tested, earlier = test_data._dataset, [data._dataset for data in (train_data, valid_data) if data]
    ranks = user_ranks(trainer, test_data)._replace(length=whole_lengths(tested, earlier))
    save_ranks(path, ranks, training_popularity(train_data._dataset), times(tested))


def load_ranks(path: Path) -> StoredRanks:
    """Read what `save_ranks` wrote.

    Raises
    ------
    UserError
        For a file that is missing or no such file.
    """
    try:
        with np.load(path) as columns:
            optional = StoredRanks._field_defaults
            found = {name: columns[name] for name in StoredRanks._fields if name in columns or name not in optional}
            return StoredRanks(**found)
    except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
        raise UserError(f"{path}: the ranks cannot be read ({error})") from error


def shallow(stored: bytes) -> bytes:
    """A file of `save_ranks` in which every rank behind `DEEPEST` is `DEEPEST` + 1."""
    file = io.BytesIO()
    with np.load(io.BytesIO(stored)) as columns:
        cut = {name: np.minimum(columns[name], DEEPEST + 1) for name in ("rank", "rank_out") if name in columns}
        np.savez(file, **{**columns, **cut})
    return file.getvalue()


def hit(rank: np.ndarray, k: int = K) -> np.ndarray:
    """Hit@k of a single target at `rank`, any shape."""
    return (rank <= k).astype(float)


def ndcg(rank: np.ndarray, k: int = K) -> np.ndarray:
    """NDCG@k of a single target at `rank`, any shape."""
    return np.where(rank <= k, 1 / np.log2(rank + 1.0), 0.0)


def align(models: Sequence[Sequence[StoredRanks]], without_history: bool = False) -> Aligned:
    """Put the rows of all models and seeds into one order.

    Parameters
    ----------
    models : sequence of sequences of StoredRanks
        By model, then by seed.
    without_history : bool
        Whether to take `rank_out` instead of `rank`.

    Raises
    ------
    UserError
        Where two of them were trained or tested on different interactions, or one has no such ranks.
    """
    first: StoredRanks | None = None
    time: np.ndarray | None = None
    ranks = []
    for seeds in models:
        rows = []
        for stored in seeds:
            if without_history:
                if stored.rank_out is None:
                    raise UserError("a run has no ranks without the history: it was not run with both")
                stored = stored._replace(rank=stored.rank_out)
            order = np.lexsort((stored.length, stored.item, stored.user))
            columns = {name: getattr(stored, name)[order] for name in ("user", "item", "length", "rank")}
            sorted_rows = stored._replace(**columns)
            if first is None:
                first = sorted_rows
            elif not all(np.array_equal(getattr(first, name), getattr(sorted_rows, name)) for name in ("user", "item")):
                raise UserError("the runs were tested on different interactions, so that they cannot be compared")
            elif not np.array_equal(first.popularity, sorted_rows.popularity):
                # As where the data files have changed since the first of them.
                raise UserError("the runs were trained on different interactions, so that they cannot be compared")
            if time is None and stored.time is not None:
                time = stored.time[order]
            rows.append(sorted_rows.rank)
        ranks.append(np.stack(rows))
    assert first is not None
    return Aligned(first.user, first.item, first.length, first.popularity, ranks, time)


def by_user(user: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean of `values` [S, n] over the rows of each `user` [n]: [S, U], in order of the users."""
    return pd.DataFrame(values.T).groupby(user, sort=True).mean().to_numpy().T


def is_head(popularity: np.ndarray) -> np.ndarray:
    """Which items bool [V] are the head: the share `HEAD` of the catalogue with the most training interactions.

    Of items equally popular the one with the lower id comes first; the padding item 0 is none.
    """
    order = np.argsort(-popularity[1:], kind="stable") + 1
    head = np.zeros(len(popularity), dtype=bool)
    head[order[: round(HEAD * len(order))]] = True
    return head


def length_groups(length: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Sort history lengths [n] into four groups of about equal size: the group int [n] of each, and their names."""
    edges = np.unique(np.quantile(length, [0.25, 0.5, 0.75, 1], method="lower"))
    group = np.searchsorted(edges, length)
    lows = [int(length.min()), *(int(edge) + 1 for edge in edges[:-1])]
    names = [f"{low}" if low == high else f"{low} to {high}" for low, high in zip(lows, edges.astype(int), strict=True)]
    return group, names
