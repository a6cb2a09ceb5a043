"""Titles of items: from a dataset's `.item` file, or from a table of the user's."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Literal

import pandas as pd

from ..common.files import reading_encoding
from ..errors import UserError, suggestion

# A column whose name holds one of these is taken for the items' titles, the first the best.
NAME_LIKE = ("title", "name")
# What would move the cursor of a terminal or change its colours.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def read_titles(
    path: str | Path,
    column: str | None = None,
    encoding: str | None = None,
    item_column: str = "item_id",
    separator: str = "\t",
) -> dict[str, str]:
    """Titles by item token, from an atomic file of RecBole's, a tab-separated or a comma-separated file with a header.

    Parameters
    ----------
    path : str or Path
        The items stand in the column `item_column`, or else in `item_id`, or else in the first one.
    column : str, optional
        Column of the titles; by default the first whose name holds `title`, or else `name`.
    encoding : str, optional
        UTF-8 if not given.
    item_column : str
        The dataset's ITEM_ID_FIELD.
    separator : str
        The dataset's field_separator, one character; a header without it and without tabs has commas.

    Returns
    -------
    dict
        Empty where no column is given and none has such a name.

    Raises
    ------
    UserError
        Where the file cannot be read, or has no such column.
    """
    encoding = reading_encoding(encoding)
    try:
        with open(path, encoding=encoding) as file:
            header = file.readline().rstrip("\r\n")
        separator = next((mark for mark in (separator, "\t") if len(mark) == 1 and mark in header), ",")
        # In an atomic file a quotation mark is a letter like any other.
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if separator == "," else csv.QUOTE_NONE
        cells = next(csv.reader([header], delimiter=separator, quoting=quoting), [])
        names = [cell.partition(":")[0] for cell in cells]
        found = _title_column(names) if column is None else column
        if found is None:
            return {}
        if found not in names:
            there = f"(there are: {', '.join(names)}){suggestion(found, names)}"
            raise UserError(f"{path}: there is no column {found} {there}")
        items = next((name for name in (item_column, "item_id") if name in names), names[0])
        where = [names.index(items), names.index(found)]
        table = pd.read_csv(
            path,
            sep=separator,
            # By place: pandas gives an empty name, and one that stands there twice, another.
            header=None,
            skiprows=1,
            names=range(len(cells)),
            usecols=where,
            dtype=str,
            keep_default_na=False,
            quoting=quoting,
            encoding=encoding,
            index_col=False,
        )
    except OSError as error:
        raise UserError(f"{path}: the titles cannot be read ({error.strerror})") from error
    except (UnicodeError, csv.Error, pd.errors.ParserError) as error:
        raise UserError(f"{path}: the titles cannot be read ({' '.join(str(error).split())})") from error
    titles = (CONTROL.sub(" ", title) for title in table[where[1]])
    return dict(zip(table[where[0]], titles, strict=True))


def _title_column(names: list[str]) -> str | None:
    matches = (name for part in NAME_LIKE for name in names if part in name.lower())
    return next(matches, None)
