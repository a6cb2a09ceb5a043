"""Large tables, a block at a time."""

from __future__ import annotations

from collections.abc import Iterator

# Scores that may be held at once: 256 MB in float32.
LARGEST_BLOCK = 2**26


def row_pieces(rows: int, width: int, largest_block: int = LARGEST_BLOCK) -> Iterator[slice]:
    """Cut `rows` rows of `width` scores into pieces of at most `largest_block` scores, but of a row at least."""
    piece = max(1, largest_block // width)
    for begin in range(0, rows, piece):
        yield slice(begin, min(begin + piece, rows))
