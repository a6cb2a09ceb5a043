"""Read RecBole's atomic files as they are written, and name what is wrong with one.

RecBole's own reader takes the ids `NA`, `null` and `nan` for holes, loses rows behind a `"`, fails on a byte-order
mark, cuts the last character of a header that no line end follows, and drops rows without an id after a warning.
"""

from __future__ import annotations

import codecs
import csv
import math
import operator
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from logging import Logger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..common.files import reading_encoding
from ..errors import SettingError, UserError, suggestion
from .parsed import parse_once

# Bytes of a file that are looked at together.
BLOCK = 2**26
# Cells of a float column that mean "missing". In a token column only the empty cell does.
MISSING_FLOATS = ["", "NA", "N/A", "NaN", "nan", "NULL", "null", "None"]

# Narrower than Python's float(), which takes 1_000 and digits of other scripts.
NUMBER = re.compile(
    r"[ \t]*[-+]?(\d+\.?\d*(e[-+]?\d+)?|\.\d+(e[-+]?\d+)?|inf|infinity)[ \t]*", re.ASCII | re.IGNORECASE
)


def load_feat(self: Any, filepath: str, source: Any) -> pd.DataFrame | None:
    """Stand in for RecBole's `Dataset._load_feat`, with its arguments and what it notes of the fields.

    Returns
    -------
    DataFrame or None
        One column a field that is loaded: floats as float64, tokens as text, sequences as arrays.

    Raises
    ------
    UserError
        For a file that cannot be read, an empty one, a header that is none, a column that is needed and not there, a
        word in a float column, and a hole in a column of user or item ids (unless `drop_incomplete_rows` is set), or of
        times that order the data.
    """
    from recbole.utils import FeatureSource, FeatureType

    load_col, unload_col = self._get_load_and_unload_col(source)
    if load_col == set():
        return None
    file = _AtomicFile(filepath, self.config["field_separator"], self.config["encoding"])
    fields = {
        field: ftype
        for field, ftype in file.fields.items()
        if (load_col is None or field in load_col) and not (unload_col and field in unload_col)
    }
    ids = _id_fields(self, source)
    _check_columns(self, file, fields, ids, load_col, source)
    if not fields:
        self.logger.warning(f"No columns has been loaded from [{source}]")
        return None
    if source != "link":  # its fields are those of other files (dataset.py 471)
        _note_fields(self, fields, source)
    if self.config["cache_data"]:
        by = repr((fields, file.separator, file.encoding))
        table = parse_once(filepath, by, lambda: file.read(fields), self.logger)
    else:
        table = file.read(fields)
    whole = [*ids, *_history_fields(self, source)]
    if self.config["drop_incomplete_rows"]:
        table = _complete_rows(table, whole, filepath, self.logger)
    _require_cells(file, table, fields, whole, [self.time_field] if _needs_times(self, source) else [])
    for field, ftype in fields.items():
        if ftype == FeatureType.TOKEN_SEQ or ftype == FeatureType.FLOAT_SEQ:
            sequences = file.sequences(table[field], ftype, self.config["seq_separator"])
            length = max(map(len, sequences))
            longest = (self.config["seq_len"] or {}).get(field)
            if longest:
                # Of a history the newest, of any other sequence the first, as RecBole has it.
                newest = source == FeatureSource.INTERACTION and field.endswith(self.config["LIST_SUFFIX"])
                part = slice(-longest, None) if newest else slice(longest)
                sequences = [sequence[part] for sequence in sequences]
                length = min(length, longest)
            table[field] = pd.Series(sequences, index=table.index, dtype=object)
            self.field2seqlen[field] = length
    return table


def _note_fields(dataset: Any, fields: dict[str, Any], source: Any) -> None:
    """Note what RecBole does of the fields of a file, but for the lengths of sequences."""
    for field, ftype in fields.items():
        dataset.field2source[field] = source
        dataset.field2type[field] = ftype
        if not ftype.value.endswith("seq"):
            dataset.field2seqlen[field] = 1
        if "float" in ftype.value:
            dataset.field2bucketnum[field] = 2


def _require_cells(
    file: _AtomicFile, table: pd.DataFrame, fields: dict[str, Any], whole: list[str], times: list[str]
) -> None:
    """Refuse a hole in one of the columns `whole` and `times`, and a number that is infinite."""
    for field in (*whole, *times):
        if table[field].isna().any():
            numbers = field in times
            instead = "" if numbers else "; drop_incomplete_rows=True drops such rows"
            where = file.where(field, _is_hole if numbers else operator.not_)
            raise UserError(f"{file.path}: column {field} is empty in {where}{instead}")
    for field, ftype in fields.items():
        if ftype.value == "float" and np.isinf(table[field].to_numpy()).any():
            raise UserError(f"{file.path}: column {field} is infinite in {file.where(field, _is_infinite)}")


def _complete_rows(table: pd.DataFrame, ids: list[str], path: str, logger: Logger) -> pd.DataFrame:
    """The rows of a table that have all of their ids; the log counts the others."""
    complete = table[table[ids].notna().all(axis=1)].reset_index(drop=True)
    dropped = len(table) - len(complete)
    if dropped:
        counts = f"dropped {dropped} of {len(table)} rows, without {' or '.join(ids)}"
        logger.warning(f"drop_incomplete_rows: {path}: {counts}")
    if complete.empty:
        raise UserError(f"{path}: no row has {' and '.join(ids)}")
    return complete


class _AtomicFile:
    """An atomic file of RecBole's: a header of `name:type` cells, then one row a line."""

    def __init__(self, path: str, separator: str, encoding: str | None) -> None:
        from recbole.utils import FeatureType

        self.path, self.separator, self.encoding = path, separator, reading_encoding(encoding)
        try:
            with open(path, "rb") as file:
                wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        if wide and self.encoding == "utf-8-sig":
            raise UserError(f"{path}: written in UTF-16; set encoding=utf-16")
        self.fields: dict[str, Any] = {}
        known = [ftype.value for ftype in FeatureType]
        header = next(self._lines(), (0, []))[1]
        if len(header) == 1 and (marks := re.findall(r":(?:token|float)(?:_seq)?(\W+)", header[0])):
            must = f"be {marks[0]!r}, which stands in the header of {path}"
            raise SettingError("field_separator", separator, must=must)
        if not any(header):
            example = "user_id:token<TAB>item_id:token"
            raise UserError(f"{path}: the file is empty; it must begin with a header such as {example}")
        for cell in header:
            field, colon, ftype = cell.rpartition(":")
            if not colon:
                raise UserError(f"{path}: {cell!r} in the header has no type; it must read like {cell}:token")
            if ftype not in known:
                raise UserError(f"{path}: {cell!r} in the header: the type must be one of {', '.join(known)}")
            if field in self.fields:
                raise UserError(f"{path}: the header names {field} twice")
            self.fields[field] = FeatureType(ftype)

    def read(self, fields: dict[str, Any]) -> pd.DataFrame:
        """The columns `fields`: floats as float64, all others as text."""
        from recbole.utils import FeatureType

        cells = {field: f"{field}:{ftype.value}" for field, ftype in fields.items()}
        floats = [field for field, ftype in fields.items() if ftype == FeatureType.FLOAT]
        self._refuse_odd_rows()
        try:
            table = pd.read_csv(
                self.path,
                # pandas takes several characters for a pattern.
                sep=self.separator if len(self.separator) == 1 else re.escape(self.separator),
                usecols=list(cells.values()),
                dtype={cell: np.float64 if field in floats else str for field, cell in cells.items()},
                encoding=self.encoding,
                # The C reader knows no separators of several characters.
                engine="c" if len(self.separator) == 1 else "python",
                quoting=csv.QUOTE_NONE,
                keep_default_na=False,
                na_values={cell: MISSING_FLOATS if field in floats else [""] for field, cell in cells.items()},
                # A separator at the end of the rows would otherwise make the first column an index.
                index_col=False,
            )
        except UnicodeDecodeError as error:
            raise UserError(f"{self.path}: not written in {self.encoding} ({error}); set `encoding`") from error
        except ValueError as error:
            for field in floats:
                found = self.where(field, _is_word)
                if found:
                    raise UserError(f"{self.path}: column {field} is float, but no number in {found}") from None
                # pandas before 3 reads no number beyond the largest.
                if infinite := self.where(field, _is_infinite):
                    raise UserError(f"{self.path}: column {field} is infinite in {infinite}") from None
            raise UserError(f"{self.path}: cannot be read ({' '.join(str(error).split())})") from error
        if table.empty:
            raise UserError(f"{self.path}: there is a header, but no row below it")
        table.columns = list(fields)
        return table

    def _refuse_odd_rows(self) -> None:
        """Refuse rows with more cells than the header, which pandas shifts, and NUL, which it drops.

        Empty cells at the end are none.
        """
        width = len(self.fields)
        if not self._may_have_odd_rows(width):
            return
        rows = islice(self._lines(), 1, None)
        for number, cells in rows:
            if any(cells[width:]):
                raise UserError(f"{self.path}: line {number} has {len(cells)} cells, the header {width}")
            if any("\0" in cell for cell in cells):
                raise UserError(f"{self.path}: line {number} holds a NUL")

    def _may_have_odd_rows(self, width: int) -> bool:
        """Whether a line has more cells than `width`, or NUL, for a large file without a loop over its lines."""
        mark = self.separator.encode(self.encoding.removesuffix("-sig"))
        if len(mark) != 1 or mark == b"\n" or "\n".encode(self.encoding.removesuffix("-sig")) != b"\n":
            return True
        carried = 0
        with open(self.path, "rb") as file:
            while block := file.read(BLOCK):
                content = np.frombuffer(block, dtype=np.uint8)
                ends = np.flatnonzero(content == ord("\n"))
                marks = np.searchsorted(np.flatnonzero(content == mark[0]), np.append(ends, len(content)))
                counts = np.diff(marks, prepend=0)
                counts[0] += carried
                if counts.max() >= width or b"\0" in block:
                    return True
                carried = counts[-1]
        return False

    def sequences(self, column: pd.Series, ftype: Any, separator: str) -> list[np.ndarray]:
        """The cells of a sequence column, cut at the separator; an empty cell gives an empty sequence."""
        from recbole.utils import FeatureType

        parts = [[part for part in cell.split(separator) if part] for cell in column.fillna("")]
        if ftype == FeatureType.TOKEN_SEQ:
            return [np.array(part) for part in parts]
        with suppress(ValueError):
            sequences = [np.array(part, dtype=np.float64) for part in parts]
            if all(np.isfinite(sequence).all() for sequence in sequences):
                return sequences
        found = self.where(str(column.name), lambda cell: not all(map(_is_finite, filter(None, cell.split(separator)))))
        raise UserError(f"{self.path}: column {column.name} is float_seq, but not of numbers in {found}")

    def where(self, field: str, wrong: Callable[[str], bool]) -> str:
        """The first lines whose cell of `field` is wrong, as words; nothing if none is."""
        at = list(self.fields).index(field)
        rows = islice(self._lines(), 1, None)
        cells = ((number, cells[at] if at < len(cells) else "") for number, cells in rows)
        first = list(islice(((number, cell) for number, cell in cells if wrong(cell)), 4))
        shown = ", ".join(f"line {number}" + (f" ({cell!r})" if cell else "") for number, cell in first[:3])
        return shown + (", and more" if len(first) > 3 else "")

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """Line number and cells of every line that is not blank."""
        try:
            with open(self.path, encoding=self.encoding, errors="replace") as lines:
                for number, line in enumerate(lines, start=1):
                    if line.strip("\r\n"):
                        yield number, line.rstrip("\r\n").split(self.separator)
        except UnicodeError as error:
            raise UserError(f"{self.path}: not written in {self.encoding} ({error}); set `encoding`") from error


def _is_hole(cell: str) -> bool:
    """Whether a cell of a float column is missing."""
    return cell in MISSING_FLOATS


def _is_infinite(cell: str) -> bool:
    return not _is_word(cell) and not _is_hole(cell) and math.isinf(float(cell))


def _is_finite(part: str) -> bool:
    """Whether a part of a sequence of floats is a number."""
    with suppress(ValueError):
        return math.isfinite(float(part))
    return False


def _is_word(cell: str) -> bool:
    """Whether a cell of a float column is neither missing nor a number as pandas reads one."""
    return not _is_hole(cell) and not NUMBER.fullmatch(cell)


def _id_fields(dataset: Any, source: Any) -> list[str]:
    """The columns of a file that may have no holes."""
    from recbole.utils import FeatureSource

    users, items = dataset.uid_field, dataset.iid_field
    fields = {FeatureSource.INTERACTION: [users, items], FeatureSource.USER: [users], FeatureSource.ITEM: [items]}
    return [field for field in fields.get(source, []) if field]


def _history_fields(dataset: Any, source: Any) -> list[str]:
    """The column of histories in files that bring them along."""
    from recbole.utils import FeatureSource, ModelType

    config = dataset.config
    sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    brings = source == FeatureSource.INTERACTION and config["benchmark_filename"] is not None and sequential
    return [dataset.iid_field + config["LIST_SUFFIX"]] if brings else []


def _holds_histories(file: _AtomicFile) -> bool:
    """Whether a file has a column of lists of items."""
    return any(ftype.value == "token_seq" for ftype in file.fields.values())


def orders_by_time(config: Any) -> bool:
    """Whether the interactions are put into order by their time field."""
    from recbole.utils import ModelType

    return bool(config["MODEL_TYPE"] == ModelType.SEQUENTIAL or config["eval_args"]["order"] == "TO")


def _needs_times(dataset: Any, source: Any) -> bool:
    """Whether the rows of a file are put into order by their time field."""
    from recbole.utils import FeatureSource

    interactions = source == FeatureSource.INTERACTION and dataset.config["benchmark_filename"] is None
    return bool(interactions and orders_by_time(dataset.config) and dataset.time_field)


def _check_columns(
    dataset: Any, file: _AtomicFile, fields: dict[str, Any], ids: list[str], load_col: set[str] | None, source: Any
) -> None:
    """Refuse a file that lacks a column that the settings need."""
    from recbole.utils import FeatureType, ModelType

    config, time_field = dataset.config, dataset.time_field
    needs_time = _needs_times(dataset, source)
    needed = dict.fromkeys([*ids, *_history_fields(dataset, source), *([time_field] if needs_time else [])])
    needed_anyway = set(needed)
    # RecBole's and our defaults name the time field for every model.
    needed |= dict.fromkeys(sorted((load_col or set()) - (set() if needs_time else {time_field})))
    there = ", ".join(file.fields)
    for field in needed:
        if field not in file.fields and field in _history_fields(dataset, source) and not _holds_histories(file):
            joined = Path(dataset.dataset_path) / f"{dataset.dataset_name}.inter"
            raise UserError(
                f"{file.path}: there is no column {field}: with benchmark_filename a row is a history and the next "
                f"item. For plain interactions put the rows of all files into {joined}, leave benchmark_filename out, "
                "and split by eval_args={split: {LS: valid_and_test}} (each user's last two) or "
                "{split: {GTS: [0.8, 0.9]}} (by time)"
            )
        if field not in file.fields:
            instead = suggestion(field, file.fields)
            if field == time_field and config["MODEL_TYPE"] != ModelType.SEQUENTIAL and not instead:
                instead = "; without times a general model takes eval_args={order: RO}"
            by = ", which load_col names" if field in (load_col or ()) and field not in needed_anyway else ""
            raise UserError(f"{file.path}: there is no column {field}{by} (there are: {there}){instead}")
        if field not in fields:
            raise UserError(f"{file.path}: column {field} is needed, but load_col or unload_col leaves it out")
    for field in ids:
        if fields[field] != FeatureType.TOKEN:
            raise UserError(f"{file.path}: column {field} must be {field}:token, got {field}:{fields[field].value}")
    if needs_time and fields[time_field] != FeatureType.FLOAT:
        raise UserError(
            f"{file.path}: column {time_field} must be {time_field}:float, got {time_field}:{fields[time_field].value}"
        )
