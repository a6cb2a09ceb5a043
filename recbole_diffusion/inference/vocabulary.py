"""Between the items' external tokens, their internal ids and their titles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import UserError, suggestion

# Above this, looking for a token that is like the unknown one takes too long.
LARGEST_TO_SEARCH = 5_000


class Vocabulary:
    """The items that a model knows.

    Parameters
    ----------
    tokens : sequence of str
        External token of each internal id; id 0 is the padding.
    titles : sequence of str, optional
        Title of each internal id.
    """

    def __init__(self, tokens: Sequence[str], titles: Sequence[str] | None = None) -> None:
        self.tokens = np.array(tokens, dtype=object)
        self.titles = None if titles is None else np.array(titles, dtype=object)
        self._ids = {token: number for number, token in enumerate(tokens) if number}

    def __len__(self) -> int:
        return len(self._ids)

    def entitle(self, titles: Mapping[str, str]) -> int:
        """Take titles by token, and give how many items have one; that of the others is empty."""
        self.titles = np.array([titles.get(token, "") for token in self.tokens], dtype=object)
        return sum(token in titles for token in self._ids)

    def names(self) -> np.ndarray:
        """What to call each item, by internal id: its title, or its token where it has none."""
        return self.tokens if self.titles is None else np.where(self.titles == "", self.tokens, self.titles)

    def id_of(self, token: str) -> int:
        """Internal id of an item; 0 where the model does not know it."""
        return self._ids.get(token) or self._ids.get(token.strip(), 0)

    def ids(self, history: Iterable[Any], skip_unknown: bool = False) -> np.ndarray:
        """Internal ids, int64 [L], of a history of tokens; numbers are read as tokens.

        Spaces around a token count only where the model knows such an item.

        Parameters
        ----------
        skip_unknown : bool
            Whether to leave out items that the model does not know, instead of refusing the history.

        Raises
        ------
        UserError
            For an unknown item, which is named, and for a history without items.
        """
        tokens = [str(token) for token in history]
        ids = [self.id_of(token) for token in tokens]
        if not skip_unknown and 0 in ids:
            token = tokens[ids.index(0)]
            hint = suggestion(token, self._ids) if len(self) <= LARGEST_TO_SEARCH else ""
            raise UserError(
                f"item {token!r}: not among the {len(self):,} items that the model knows{hint}; "
                "skip_unknown leaves such items out"
            )
        ids = [number for number in ids if number]
        if not ids:
            reason = "no item of it is known" if tokens else "it is empty"
            raise UserError(f"a history must hold at least one item; {reason}")
        return np.array(ids, dtype=np.int64)
