"""Recommendations on their way to a file: whole in the end, and to be gone on with after a break."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, NamedTuple

import pandas as pd

from ..errors import SettingError, UserError
from .results import Recommendations

OUTPUT_FORMATS = ("csv", "jsonl", "parquet")
# Rows of a parquet file that are held at once while it is written.
GROUP = 100_000


class Progress(NamedTuple):
    """How far a file has come.

    done : int
        Inputs that were taken, answered or not.
    failed : int
        Those of them that could not be answered.
    size : int
        Bytes of the part that hold the answers to these.
    """

    done: int = 0
    failed: int = 0
    size: int = 0


def output_format(path: str, given: str | None) -> str:
    """The format of an output, by its name where none is given; that of stdout is jsonl.

    Raises
    ------
    SettingError
        For another one, and for parquet where pyarrow is missing or there is no file to write it to.
    """
    chosen = given or ("jsonl" if path == "-" else Path(path).suffix[1:])
    if chosen not in OUTPUT_FORMATS:
        key, value = ("output", path) if given is None else ("output_format", given)
        raise SettingError(key, value, f"one of {', '.join(OUTPUT_FORMATS)} is wanted; --output_format says which")
    if chosen == "parquet" and path == "-":
        raise SettingError("output_format", chosen, "parquet is written to files only; take csv or jsonl for stdout")
    if chosen == "parquet" and find_spec("pyarrow") is None:
        raise SettingError("output", path, "parquet needs pyarrow: pip install pyarrow")
    return chosen


def as_text(recommendations: Recommendations, kind: str, header: bool) -> str:
    """Whole lines: csv has one an item, jsonl one a user; what becomes parquet is kept as one line of JSON an item."""
    if not len(recommendations):
        return ""
    if kind == "jsonl":
        records = list(recommendations.records())
    elif kind == "parquet":
        records = recommendations.to_frame().to_dict("records")
    else:
        return recommendations.to_frame().to_csv(index=False, header=header, float_format="%.7g", lineterminator="\n")
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


class ScreenOutput:
    """Writes to stdout."""

    complete = False

    def __init__(self, kind: str) -> None:
        self.kind, self.progress = kind, Progress()

    def write(self, recommendations: Recommendations, done: int, failed: int) -> None:
        """Write a lot; `done` and `failed` count since the beginning."""
        text = as_text(recommendations, self.kind, header=self.progress.size == 0)
        # UTF-8 like a file, whatever the terminal's encoding.
        sys.stdout.buffer.write(text.encode())
        sys.stdout.buffer.flush()
        self.progress = Progress(done, failed, self.progress.size + len(text))

    def finish(self) -> None:
        """All is written already."""


class FileOutput:
    """Writes to `NAME.part`, and to `NAME` when all is there.

    `NAME.part.json` says how many bytes of the part are whole; what stands behind them is cut off when a run goes on.

    Parameters
    ----------
    path : str
    kind : {'csv', 'jsonl', 'parquet'}
    command : str
        What is asked for. Only the same can be gone on with.
    resume : bool
        Whether to go on with the part of a run that was broken off.

    Raises
    ------
    UserError
        Where a part is there and is not to be gone on with, or is of another command; where a folder or a device has
        that name.
    """

    def __init__(self, path: str, kind: str, command: str, resume: bool) -> None:
        self.path, self.kind, self.command = Path(path), kind, command
        self.part, self.notes = Path(f"{path}.part"), Path(f"{path}.part.json")
        self.progress = Progress()
        if self.path.exists() and not self.path.is_file():
            raise SettingError("output", path, "the name of a file is wanted; - stands for stdout")
        self.complete = resume and self.path.exists() and not self.part.exists()
        self._file: IO[bytes] | None = None
        if self.part.exists() and not resume:
            raise UserError(f"{self.part}: of a run that was broken off; --resume goes on with it, or delete it")
        if self.part.exists():
            self.progress = self._read_notes()

    def _read_notes(self) -> Progress:
        try:
            notes = json.loads(self.notes.read_text(encoding="utf-8"))
            progress = Progress(**notes["progress"])
        except (OSError, ValueError, KeyError, TypeError):
            # Broken off before the first lot was whole.
            return Progress()
        if self.part.stat().st_size < progress.size:
            raise UserError(f"{self.part}: shorter than it was; delete it, and begin again")
        if notes["command"] != self.command:
            wanted = "of other options, another input or another checkpoint; delete it, or run what it was begun with"
            raise UserError(f"{self.part}: {wanted}")
        return progress

    def write(self, recommendations: Recommendations, done: int, failed: int) -> None:
        """Write a lot; `done` and `failed` count since the beginning.

        Raises
        ------
        UserError
            Where the disk is full, say; what was written before stays.
        """
        text = as_text(recommendations, self.kind, header=self.progress.size == 0)
        with self._errors():
            if self._file is None:
                self._file = self._opened()
            self._file.write(text.encode())
            self._file.flush()
            os.fsync(self._file.fileno())
            self.progress = Progress(done, failed, self._file.tell())
            fresh = Path(f"{self.notes}.new")
            fresh.write_text(
                json.dumps({"command": self.command, "progress": self.progress._asdict()}), encoding="utf-8"
            )
            os.replace(fresh, self.notes)

    def _opened(self) -> IO[bytes]:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = open(self.part, "ab")  # noqa: SIM115 (kept open between the lots)
        file.truncate(self.progress.size)
        file.seek(self.progress.size)
        return file

    def finish(self) -> None:
        """Give the file its name.

        Raises
        ------
        UserError
        """
        with self._errors():
            if self._file is None:
                self._file = self._opened()
            self._file.close()
            if self.kind == "parquet":
                fresh = Path(f"{self.path}.new")
                try:
                    _to_parquet(self.part, fresh)
                    os.replace(fresh, self.path)
                finally:
                    fresh.unlink(missing_ok=True)
                self.part.unlink()
            else:
                os.replace(self.part, self.path)
            self.notes.unlink(missing_ok=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            done = self.progress.done
            kept = f"; {done} inputs are answered in {self.part}, and --resume goes on" if done else ""
            raise UserError(f"{self.path}: cannot be written ({error.strerror or error}){kept}") from error


def _to_parquet(lines: Path, path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    schema = None
    writer: Any = None
    try:
        for frame in pd.read_json(lines, lines=True, chunksize=GROUP, dtype=False):
            table = pyarrow.Table.from_pandas(frame, schema=schema, preserve_index=False)
            schema = table.schema
            writer = writer or pyarrow.parquet.ParquetWriter(path, schema)
            writer.write_table(table)
        if writer is None:
            pyarrow.parquet.write_table(pyarrow.table({"user": pyarrow.array([], pyarrow.string())}), path)
    finally:
        if writer is not None:
            writer.close()
