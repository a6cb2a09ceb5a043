"""What is recommended, as arrays, as a table, or a record a user."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from .certainty import Certainty

# Columns of `Recommendations.to_frame` that stand for the user, not for one of the items.
USER_FIGURES = ("distance", "entropy")


@dataclass(frozen=True)
class Recommendations:
    """The best k items of each history, best first.

    Attributes
    ----------
    users : list
        A label a row: the user's token, or the number of the history from 0.
    items : object array [B, k]
        Tokens; None where the catalogue holds fewer items that may be recommended.
    scores : float32 array [B, k]
        On the model's own scale; NaN where there is no item.
    titles : object array [B, k] or None
    certainty : Certainty of arrays, or None
        With two noises or more.
    target_ranks : int64 array [B] or None
        Where an item that was asked about stands, from 1; 0 where it is left out, as an item of the history is.
    """

    users: list[Any]
    items: np.ndarray
    scores: np.ndarray
    titles: np.ndarray | None = None
    certainty: Certainty | None = None
    target_ranks: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.users)

    def reordered(self, order: np.ndarray) -> Recommendations:
        """The rows in another order."""
        titles, measured, ranks = self.titles, self.certainty, self.target_ranks
        return Recommendations(
            [self.users[row] for row in order],
            self.items[order],
            self.scores[order],
            None if titles is None else titles[order],
            None if measured is None else Certainty(*(figure[order] for figure in measured)),
            None if ranks is None else ranks[order],
        )

    def to_frame(self) -> pd.DataFrame:
        """One row an item: user, rank (from 1), item, score, and where there are such title and certainty."""
        rows, k = self.items.shape
        columns: dict[str, Any] = {
            "user": np.repeat(np.array(self.users, dtype=object), k),
            "rank": np.tile(np.arange(1, k + 1), rows),
            "item": self.items.ravel(),
            "score": self.scores.ravel(),
        }
        if self.titles is not None:
            columns["title"] = self.titles.ravel()
        if self.certainty is not None:
            for name, figure in self.certainty._asdict().items():
                columns[name] = np.repeat(figure, k) if name in USER_FIGURES else figure.ravel()
        real = np.array([item is not None for item in self.items.flat], dtype=bool)
        return pd.DataFrame({name: column[real] for name, column in columns.items()})

    def records(self) -> Iterator[dict[str, Any]]:
        """One mapping a user, of plain data: user, items, scores, and where there are such titles and certainty."""
        for row, user in enumerate(self.users):
            real = [place for place, item in enumerate(self.items[row]) if item is not None]
            record = {"user": user, "items": self.items[row, real].tolist(), "scores": _plain(self.scores[row, real])}
            if self.titles is not None:
                record["titles"] = self.titles[row, real].tolist()
            if self.certainty is not None:
                for name, figure in self.certainty._asdict().items():
                    record[name] = _plain(figure[row]) if name in USER_FIGURES else _plain(figure[row, real])
            yield record


def joined(parts: list[Recommendations]) -> Recommendations:
    """Recommendations to several groups of users as one."""
    titled = parts[0].titles is not None
    measured = [part.certainty for part in parts if part.certainty is not None]
    ranks = [part.target_ranks for part in parts if part.target_ranks is not None]
    return Recommendations(
        [user for part in parts for user in part.users],
        np.concatenate([part.items for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.titles for part in parts if part.titles is not None]) if titled else None,
        Certainty(*(np.concatenate(figures) for figures in zip(*measured, strict=True))) if measured else None,  # type: ignore[arg-type]
        np.concatenate(ranks) if ranks else None,
    )


def _plain(figures: Any) -> Any:
    """Floats as short as they are written in float32."""
    return np.vectorize(lambda value: float(f"{value:.7g}"), otypes=[float])(figures).tolist()
