"""Items by a part of their title or token."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..inference.vocabulary import Vocabulary


class ItemSearch:
    """Finds items of a vocabulary, whatever the case of the letters.

    Parameters
    ----------
    vocabulary : Vocabulary
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        names = vocabulary.names()
        self._tokens = [str(token).casefold() for token in vocabulary.tokens]
        self._texts = [f"{str(name).casefold()}\n{token}" for name, token in zip(names, self._tokens, strict=True)]

    def find(self, text: str, limit: int = 20) -> list[int]:
        """Internal ids of at most `limit` items that have every word of the text in title or token, the nearest first.

        First comes the item of that token, then titles that begin with the text, then those in which a word begins
        with it; in each, whole words come before parts, and short titles before long ones.
        """
        text = " ".join(text.casefold().split())
        words = text.split()
        if not words:
            return []
        found = [item for item, there in enumerate(self._texts) if item and all(word in there for word in words)]
        patterns = [re.compile(rf"{place}{re.escape(text)}{end}") for place in (r"\A", r"\b") for end in (r"\b", "")]

        def distance(item: int) -> tuple[bool, int, int]:
            there = self._texts[item]
            kind = next((number for number, pattern in enumerate(patterns) if pattern.search(there)), len(patterns))
            return self._tokens[item] != text, kind, len(there)

        return sorted(found, key=distance)[:limit]


def beginning_with(text: str, tokens: Iterable[str], limit: int = 20) -> list[str]:
    """At most `limit` of the tokens that begin with a text, the shortest first."""
    return sorted((token for token in tokens if token.startswith(text)), key=lambda token: (len(token), token))[:limit]
