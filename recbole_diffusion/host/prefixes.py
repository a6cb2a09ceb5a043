"""Sequences stored once: a training row is a position in them, and its history is cut out when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor


class Sequences:
    """Every user's interactions, once and flat.

    Parameters
    ----------
    columns : dict of Tensor [N, ...]
        One entry a field, sorted by user, then by time.
    user_field : str
        The field that tells the users apart.
    """

    def __init__(self, columns: dict[str, Tensor], user_field: str) -> None:
        self.columns = columns
        self.user_field = user_field
        users = columns[user_field]
        first = torch.ones(len(users), dtype=torch.bool, device=users.device)
        first[1:] = users[1:] != users[:-1]
        position = torch.arange(len(users), dtype=torch.int32, device=users.device)
        # int32 [N]: where the sequence begins that a position belongs to.
        self.start = torch.where(first, position, 0).cummax(0).values if len(users) else position

    def __len__(self) -> int:
        return len(self.start)

    def to(self, device: Any) -> Sequences:
        """The same sequences on another device."""
        moved = object.__new__(Sequences)
        moved.user_field = self.user_field
        moved.columns = {field: column.to(device) for field, column in self.columns.items()}
        moved.start = self.start.to(device)
        return moved


class Prefixes(Interaction):
    """Rows of RecBole's augmented data that hold positions instead of padded histories.

    A row stands for the interaction at its position (the target) and the up to `max_length` interactions of the same
    user before it (the history), and looks like a row of RecBole's: the target's fields, the history's length, and one
    `FIELD_list` a field. What is not stored is computed when it is read; selecting rows copies positions only.

    Parameters
    ----------
    sequences : Sequences
        Shared between all the selections of a dataset.
    rows : Tensor [n]
        Positions of the targets; each has at least one interaction of its user before it.
    max_length : int
        Longest history.
    list_suffix : str
        What a field's name takes on for its history, `_list` in RecBole.
    length_field : str
        Name of the field that holds the length of the history.
    """

    def __init__(
        self, sequences: Sequences, rows: Tensor, max_length: int, list_suffix: str, length_field: str
    ) -> None:
        # Not calling the base class, whose __init__ stores columns.
        self.sequences = sequences
        self.rows = rows
        self.max_length = max_length
        self.list_suffix = list_suffix
        self.length_field = length_field
        self._source = {field + list_suffix: field for field in sequences.columns if field != sequences.user_field}
        self._names = [*sequences.columns, length_field, *self._source]
        self._added: dict[str, Tensor] = {}
        self._computed: dict[str, Tensor] = {}

    @classmethod
    def of(cls, sequences: Sequences, max_length: int, list_suffix: str, length_field: str) -> Prefixes:
        """One row for each interaction but the first of each user."""
        position = torch.arange(len(sequences), dtype=torch.int32, device=sequences.start.device)
        rows = position[position > sequences.start]
        return cls(sequences, rows, max_length, list_suffix, length_field)

    @property
    def length(self) -> int:
        """Number of rows."""
        return len(self.rows)

    @property
    def interaction(self) -> dict[str, Tensor]:
        """All columns as RecBole stores them: for the methods of the base class that copy everything anyway."""
        return {name: self[name] for name in self}

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self)

    def lengths(self) -> Tensor:
        """Length of each row's history, int64 [n], from 1 to `max_length`."""
        # Of numbers of 4 bytes until the end: there may be many rows.
        return (self.rows - self.sequences.start[self.rows]).clamp_(max=self.max_length).long()

    def earlier(self, field: str) -> tuple[Tensor, Tensor]:
        """All interactions of the user before each row, those beyond `max_length` too.

        Parameters
        ----------
        field : str
            One that the sequences store.

        Returns
        -------
        row : int64 Tensor [m]
            Number of the row, ascending.
        value : Tensor [m, ...]
            The field's value, oldest first within a row.
        """
        rows = self.rows.long()
        begin = self.sequences.start[rows].long()
        lengths = rows - begin
        row = torch.arange(len(rows), device=rows.device).repeat_interleave(lengths)
        place = torch.arange(len(row), device=rows.device) - (lengths.cumsum(0) - lengths - begin)[row]
        return row, self.sequences.columns[field][place]

    def covering(self) -> Tensor:
        """Numbers of the fewest rows whose places have every row's target once, where all places have a target.

        A place's target is the interaction after it: the history shifted by one, and at last the row's own target.
        A user's last row is among them, and where the sequence is longer than `max_length` the row that ends where the
        history of that one begins, and so on.

        Returns
        -------
        int64 Tensor [m], in the order of the rows

        Raises
        ------
        ValueError
            Where a user's rows are not all those up to a last one: a history would have targets of other rows.
        """
        rows = self.rows.long()
        start = self.sequences.start[rows].long()
        last = torch.zeros(len(self.sequences), dtype=torch.int64, device=rows.device)
        last = last.scatter_reduce(0, start, rows, "amax")
        users = start.unique()
        if len(rows.unique()) != int((last[users] - users).sum()):
            raise ValueError("rows are missing before the last one of a user")
        return ((last[start] - rows) % self.max_length == 0).nonzero().flatten()

    def materialise(self, width: int | None = None) -> Interaction:
        """The rows as RecBole holds them.

        Parameters
        ----------
        width : int, optional
            Length to which histories are padded with 0 on the right; `max_length` by default. Of a longer history the
            newest interactions stay.
        """
        width = self.max_length if width is None else width
        lengths = self.lengths().clamp(max=width)
        lists = iter(self._histories([self._source[name] for name in self if self._is_list(name)], lengths, width))
        return Interaction(
            {
                name: next(lists) if self._is_list(name) else lengths if name == self.length_field else self[name]
                for name in self
            }
        )

    def _is_list(self, name: str) -> bool:
        return name in self._source and name not in self._added

    def _histories(self, fields: list[str], lengths: Tensor, width: int) -> list[Tensor]:
        """The newest `lengths` [n] values of each field before each row, padded with 0: [n, width, ...] a field."""
        offset = torch.arange(width, device=lengths.device)
        padding = offset >= lengths[:, None]
        position = (self.rows - lengths)[:, None] + offset
        position.masked_fill_(padding, 0)
        histories = []
        for field in fields:
            values = self.sequences.columns[field][position]
            histories.append(values.masked_fill_(padding.view(padding.shape + (1,) * (values.dim() - 2)), 0))
        return histories

    def __iter__(self) -> Iterator[str]:
        return iter([*self._names, *(name for name in self._added if name not in self._names)])

    def __contains__(self, item: object) -> bool:
        return item in self._names or item in self._added

    def __len__(self) -> int:
        return self.length

    def __getattr__(self, item: str) -> Any:
        # Only reached for what is no attribute; underscored names would recurse while a copy is being made.
        if not item.startswith("_") and "_added" in self.__dict__ and item in self:
            return self[item]
        raise AttributeError(f"'Prefixes' object has no attribute '{item}'")

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return self._column(index)
        if isinstance(index, (int, np.integer)):
            return self[[int(index)]].materialise()[0]
        return self._select(self._positions(index))

    def _column(self, name: str) -> Tensor:
        if name not in self:
            raise KeyError(name)
        if name in self._added:
            return self._added[name]
        if name in self.sequences.columns:
            return self.sequences.columns[name][self.rows.long()]
        # Kept, because a model that reads histories by column (RecBole's FEARec) does so for every row of every batch.
        if name not in self._computed:
            lengths = self.lengths()
            if name == self.length_field:
                self._computed[name] = lengths
            else:
                self._computed[name] = self._histories([self._source[name]], lengths, self.max_length)[0]
        return self._computed[name]

    def _positions(self, index: Any) -> Any:
        """An index as torch takes it; a list of a million numbers is quicker through NumPy."""
        if isinstance(index, (slice, Tensor)):
            return index
        index = np.asarray(index)
        return torch.as_tensor(index if index.size else index.astype(np.int64), device=self.rows.device)

    def _select(self, index: Any) -> Prefixes:
        selected = object.__new__(Prefixes)
        selected.__dict__.update(self.__dict__)
        selected._names = list(self._names)
        selected._computed = {}
        selected.rows = self.rows[index]
        selected._added = {name: column[index] for name, column in self._added.items()}
        return selected

    def _reindex(self, index: Any) -> None:
        self.__dict__.update(self._select(self._positions(index)).__dict__)

    def __setitem__(self, key: str, value: Tensor) -> None:
        if not isinstance(key, str):
            raise KeyError(f"{type(key)} object does not support item assigment")
        self._added[key] = value

    def __delitem__(self, key: str) -> None:
        if key not in self:
            raise KeyError(key)
        self._names = [name for name in self._names if name != key]
        self._added.pop(key, None)

    def drop(self, column: str) -> None:
        """Take a column away; what other columns are computed from stays."""
        if column not in self:
            raise ValueError(f"Column [{column}] is not in [{self}].")
        del self[column]

    def update(self, new_inter: Interaction) -> None:
        """Add the columns of another interaction, one value a row."""
        for name in new_inter:
            self[name] = new_inter[name]

    def add_prefix(self, prefix: str) -> None:
        """Not supported: the names belong to the sequences that all selections share."""
        raise NotImplementedError("materialise() first")

    def to(self, device: Any, selected_field: Any = None) -> Interaction:
        """The same rows with everything that they need on another device."""
        if selected_field is not None:
            return self.materialise().to(device, selected_field)
        moved = self._select(slice(None))
        moved.sequences = self.sequences.to(device)
        moved.rows = self.rows.to(device)
        moved._added = {name: column.to(device) for name, column in self._added.items()}
        return moved

    def cpu(self) -> Interaction:
        """The same rows on the CPU."""
        return self.to("cpu")

    def __str__(self) -> str:
        return f"The batch_size of interaction: {self.length}\n    {', '.join(self)}\n"
