"""Recommendations on their way to stdout or to a file, which is whole or not there at all."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ..common.extras import require_extra
from ..common.files import atomic_write
from ..errors import SettingError
from .results import Recommendations

OUTPUT_FORMATS = ("csv", "jsonl", "parquet")

Write = Callable[[Recommendations], None]


def output_format(path: str, given: str | None) -> str:
    """The format of an output, by its name where none is given; that of stdout is jsonl.

    Raises
    ------
    SettingError
        For another one, and for parquet where there is no file to write it to.
    UserError
        For parquet where pyarrow is missing.
    """
    chosen = given or ("jsonl" if path == "-" else Path(path).suffix[1:])
    if chosen not in OUTPUT_FORMATS:
        formats = ", ".join(OUTPUT_FORMATS)
        if given is None:
            raise SettingError("output", path, must=f"end in one of {formats}, or be given with --output_format")
        raise SettingError("output_format", given, must=f"be one of {formats}")
    if chosen == "parquet" and path == "-":
        raise SettingError("output_format", chosen, must="be csv or jsonl for stdout; parquet needs a file")
    if chosen == "parquet":
        require_extra("parquet", "parquet output")
    return chosen


@contextmanager
def open_output(path: str, kind: str) -> Iterator[Write]:
    """Give a function that writes recommendations, batch by batch.

    A file has its name once all is written: where the context ends with an error, an older file of that name stays.

    Parameters
    ----------
    path : str
        `-` for stdout.
    kind : {'csv', 'jsonl', 'parquet'}
        csv and parquet have a row an item, jsonl a line a user.

    Raises
    ------
    UserError
        Where the file cannot be written.
    """
    if path == "-":
        # UTF-8 like a file, whatever the encoding of the terminal.
        yield _text_writer(sys.stdout.buffer, kind)
        return
    if Path(path).exists() and not Path(path).is_file():
        raise SettingError("output", path, must="be the name of a file, or - for stdout")
    with atomic_write(Path(path)) as part:
        if kind == "parquet":
            with _parquet_writer(part) as write:
                yield write
        else:
            with open(part, "wb") as file:
                yield _text_writer(file, kind)


def _text_writer(file: IO[bytes], kind: str) -> Write:
    has_header = False

    def write(recommendations: Recommendations) -> None:
        nonlocal has_header
        if not len(recommendations):
            return
        if kind == "jsonl":
            text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in recommendations.records())
        else:
            table = recommendations.to_frame()
            text = table.to_csv(index=False, header=not has_header, float_format="%.7g", lineterminator="\n")
            has_header = True
        file.write(text.encode())
        file.flush()

    return write


@contextmanager
def _parquet_writer(path: Path) -> Iterator[Write]:
    import pyarrow
    import pyarrow.parquet

    writer: Any = None

    def write(recommendations: Recommendations) -> None:
        nonlocal writer
        if not len(recommendations):
            return
        schema = None if writer is None else writer.schema
        table = pyarrow.Table.from_pandas(recommendations.to_frame(), schema=schema, preserve_index=False)
        if writer is None:
            writer = pyarrow.parquet.ParquetWriter(path, table.schema)
        writer.write_table(table)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        pyarrow.parquet.write_table(pyarrow.table({"user": pyarrow.array([], pyarrow.string())}), path)
