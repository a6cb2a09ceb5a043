"""Histories from a file or from stdin, one a line; a line that cannot be read does not take the others with it."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..errors import SettingError, UserError, suggestion

INPUT_FORMATS = ("jsonl", "csv")


class InputLine(NamedTuple):
    """A line of the input.

    number : int
        From 1.
    user : str
        As the line says, else its number.
    history : list of str
        Empty where there is a problem.
    problem : str or None
        Why the line cannot be read.
    """

    number: int
    user: str
    history: list[str]
    problem: str | None = None


def input_format(path: str, given: str | None) -> str:
    """The format of an input, by its name where none is given; that of stdin is jsonl.

    Raises
    ------
    SettingError
    """
    chosen = given or ("jsonl" if path == "-" else Path(path).suffix[1:])
    if chosen not in INPUT_FORMATS:
        formats = " or ".join(INPUT_FORMATS)
        if given is None:
            raise SettingError("input", path, must=f"end in {formats}, or be given with --input_format")
        raise SettingError("input_format", given, must=f"be {formats}")
    return chosen


def comes_once(path: str) -> bool:
    """Whether the input is stdin, a pipe or a device, which cannot be read twice."""
    file = Path(path)
    return path == "-" or (file.exists() and not file.is_file() and not file.is_dir())


@contextmanager
def opened(path: str) -> Iterator[BinaryIO]:
    """The bytes of a file, or of stdin for `-`.

    Raises
    ------
    UserError
    """
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        file = open(path, "rb")  # noqa: SIM115 (an error within the context is not one of opening)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    with file:
        yield file


def count_lines(path: str) -> int | None:
    """How many lines there are to read, for a progress bar; None where that is unknown."""
    if comes_once(path):
        return None
    with opened(path) as file:
        return sum(bool(line.strip()) for line in file)


def read_lines(file: BinaryIO, name: str, kind: str) -> Iterator[InputLine]:
    """The lines of an input.

    Parameters
    ----------
    file : binary file
    name : str
        What the file is called in messages.
    kind : {'jsonl', 'csv'}
        jsonl: `{"user": "7", "history": ["50", "172"]}`, or the list alone. csv: a header with a column `history`, its
        items separated by spaces, and a column `user` or none.

    Raises
    ------
    UserError
        For a csv file without such a header.
    """
    numbered = ((number, line) for number, line in enumerate(file, start=1) if line.strip())
    parse: Callable[[str], tuple[object, object]] = _from_json
    if kind == "csv":
        _, header = next(numbered, (0, b""))
        parse = _csv_reader(_decoded(header, name), name)
    for number, line in numbered:
        try:
            user, history = parse(_decoded(line, name))
            if not isinstance(history, list) or not all(type(item) in (str, int) for item in history):
                raise UserError("the history must be a list of item tokens")
            if user is not None and type(user) not in (str, int):
                raise UserError("the user must be a text or a number")
            if isinstance(user, str) and not _is_writable(user):
                raise UserError("the user must be written in whole letters, got half of a surrogate pair")
        except UserError as error:
            yield InputLine(number, str(number), [], str(error))
        else:
            yield InputLine(number, str(number if user is None else user), [str(item) for item in history])


def _is_writable(text: str) -> bool:
    """Whether a text can be written in UTF-8; json may hold halves of surrogate pairs, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _decoded(line: bytes, name: str) -> str:
    try:
        return line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not written in UTF-8") from error


def _from_json(line: str) -> tuple[object, object]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"no valid JSON ({' '.join(str(error).split())})") from error
    if isinstance(content, dict):
        if "history" not in content:
            raise UserError(f"there is no key 'history'{suggestion('history', map(str, content))}")
        return content.get("user"), content["history"]
    return None, content


def _csv_reader(header: str, name: str) -> Callable[[str], tuple[object, object]]:
    try:
        columns = next(csv.reader([header]), [])
    except csv.Error as error:
        raise UserError(f"{name}: the header is no valid csv ({error})") from error
    if "history" not in columns:
        raise UserError(f"{name}: there is no column history in the header (there are: {', '.join(columns)})")
    at = columns.index("history")
    user_at = columns.index("user") if "user" in columns else None

    def parse(line: str) -> tuple[object, object]:
        try:
            cells = next(csv.reader([line], strict=True))
        except csv.Error as error:
            raise UserError(f"no valid csv ({error})") from error
        if len(cells) != len(columns):
            raise UserError(f"{len(cells)} cells, where the header has {len(columns)}")
        return None if user_at is None else cells[user_at], cells[at].split()

    return parse
