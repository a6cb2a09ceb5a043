"""A training batch, and the rows of it that this process computes: all of them, unless several processes share it.

A loss is written for the rows at hand. What it takes from the other rows goes through the batch, so that processes that
share a batch have the loss and the gradients of one that computes it whole: each gives its part of the loss, and both
losses and gradients are added up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..diffusion.noise import Noise, RowsOfNoise


class Processes(Protocol):
    """What is taken of the processes among which a table is split."""

    rank: int
    number: int

    def add(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the processes, through which gradients flow."""

    def each(self, value: Tensor) -> Tensor:
        """The tensor of each process, [n, ...]; no gradient flows."""

    def exchange(self, rows: Tensor, sizes: list[int], theirs: list[int]) -> Tensor:
        """Give `sizes` [n] rows to each process, in order, for `theirs` [n] rows of each; gradients flow back."""


class History(NamedTuple):
    """A batch of histories.

    items : int64 [B, L], padded on the right with 0
    length : int64 [B], at least 1
    mask : bool [B, L], true where an item stands; None when every row is full
    places_a_row : mean number of places of all training rows, where a batch holds rows of like length; else None
    """

    items: Tensor
    length: Tensor
    mask: Tensor | None
    places_a_row: float | None = None


def sum_of_places(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Sum over the real places of [B, L]."""
    return rows.sum() if mask is None else (rows * mask).sum()


def counted_places(history: History) -> Tensor | float:
    """By how many places the mean over the real places of a batch divides.

    These are its own. Where each batch holds rows of like length, they are those that a batch of as many rows has in
    the mean: by its own, a place of a short history would weigh more than one of a long history.
    """
    if history.places_a_row is not None:
        return len(history.length) * history.places_a_row
    return history.items.numel() if history.mask is None else history.mask.sum()


class Batch:
    """A batch that one process computes whole.

    Parameters
    ----------
    history : History
        All B rows.
    noise : Noise
        Gives random numbers for all rows.

    Attributes
    ----------
    rows : slice
        The rows of this process; b is their number.
    """

    def __init__(self, history: History, noise: Noise) -> None:
        self.history = history
        self.noise = noise
        self.rows = slice(0, len(history.length))

    def __len__(self) -> int:
        """B."""
        return len(self.history.length)

    def own(self, values: Any) -> Any:
        """The rows [b, ...] of this process, of a tensor [B, ...] or an Interaction that every process has."""
        return values

    def own_history(self) -> History:
        """The histories of this process, as wide as the longest of the batch."""
        return self.history

    def own_noise(self) -> Noise:
        """Random numbers [b, ...] for the rows of this process: those that the whole batch would have there."""
        return self.noise

    def every(self, rows: Tensor) -> Tensor:
        """All rows [B, ...], of the rows [b, ...] that each process computes; gradients find their way back."""
        return rows

    def total(self, rows: Tensor) -> Tensor:
        """The sum [...] over all rows, of the rows [b, ...] that each process computes."""
        return rows.sum(dim=0)

    def mean(self, rows: Tensor) -> Tensor:
        """The mean over all rows, of the rows [b] that each process computes."""
        return rows.mean()

    def added(self, value: Tensor) -> Tensor:
        """The sum of what each process has; no gradient goes through it."""
        return value.detach()

    def loss(self, rows: Tensor) -> Tensor:
        """The part of this process in the mean over all rows, or all real places, of losses [b] or [b, L].

        A scalar stands for the mean over the rows of this process.
        """
        if rows.dim() < 2:
            return rows.mean()
        return sum_of_places(rows, self.history.mask) / counted_places(self.history)


class PartOfBatch(Batch):
    """A batch of which this process computes some rows.

    A process for which no row is left computes the first one, which then does not count.

    Parameters
    ----------
    history : History
    noise : Noise
    rank, number : int
        This process, from 0, and how many there are.
    add : callable
        A tensor of each process -> their sum, through which gradients flow.
    """

    def __init__(self, history: History, noise: Noise, rank: int, number: int, add: Callable[[Tensor], Tensor]) -> None:
        super().__init__(history, noise)
        self.rows, self.counted = rows_of(len(self), rank, number)
        self.add = add

    def own(self, values: Any) -> Any:
        return values[self.rows]

    def own_history(self) -> History:
        items, length, mask, places = self.history
        return History(self.own(items), self.own(length), None if mask is None else self.own(mask), places)

    def own_noise(self) -> Noise:
        return RowsOfNoise(self.noise, len(self), self.rows)

    def every(self, rows: Tensor) -> Tensor:
        begin = self.rows.start if self.counted else len(self)
        before, behind = begin, len(self) - begin - self.counted
        counted = rows[: self.counted]
        parts = [rows.new_zeros((before, *rows.shape[1:])), counted, rows.new_zeros((behind, *rows.shape[1:]))]
        return self.add(torch.cat(parts))

    def total(self, rows: Tensor) -> Tensor:
        return self.add(rows[: self.counted].sum(dim=0))

    def mean(self, rows: Tensor) -> Tensor:
        return self.total(rows) / len(self)

    def added(self, value: Tensor) -> Tensor:
        return self.add(value.detach())

    def loss(self, rows: Tensor) -> Tensor:
        if rows.dim() < 2 or not self.counted:
            return rows.mean() * (self.counted / len(self))
        return sum_of_places(rows, self.own_history().mask) / counted_places(self.history)


def rows_of(size: int, rank: int, number: int) -> tuple[slice, int]:
    """The rows of a batch that a process computes, and how many of them count: none where there are too few.

    Parameters
    ----------
    size : int
        Rows of the batch.
    rank, number : int
        The process, from 0, and how many there are.
    """
    begin, end = size * rank // number, size * (rank + 1) // number
    return (slice(begin, end), end - begin) if end > begin else (slice(0, 1), 0)
