"""Files that are whole at any moment."""

from __future__ import annotations

import codecs
import errno
import functools
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import UserError

# What the name of a file begins with that is being written, and the seconds after which its writer is gone.
PART = ".part-"
STALE_SECONDS = 3600
# Bytes that are free on a disk that was full for tensors, at most.
NEARLY_FULL = 2**20


@functools.cache
def _remove_left_parts(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder; once a process."""
    for part in folder.glob(f"{PART}[0-9]*-*"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > STALE_SECONDS:
                part.unlink()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to, which becomes `path` when the context ends without an error.

    Raises
    ------
    UserError
        Where nothing can be written there.
    """
    part = path.parent / f"{PART}{os.getpid()}-{path.name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_parts(path.parent)
        yield part
        # Else the name may be on the disk before the content is, should the power fail.
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            part.unlink()


def save_tensors(content: Any, path: Path, **options: Any) -> None:
    """`torch.save`, with an error that says why.

    Raises
    ------
    OSError
    """
    import torch

    try:
        torch.save(content, path, **options)
    except RuntimeError as error:
        # torch says where in its own code it failed, in many lines, not why.
        if shutil.disk_usage(path.parent).free < NEARLY_FULL:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise OSError(str(error).splitlines()[0]) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def reading_encoding(encoding: str | None) -> str:
    """By which to read a text file of that encoding, or UTF-8 for None; a byte-order mark is no part of the text."""
    return "utf-8-sig" if encoding is None or codecs.lookup(encoding).name == "utf-8" else encoding


def write_json(path: Path, content: Any) -> None:
    """Write plain data as json."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a mapping that `write_json` wrote; an empty dict where there is no such file.

    Raises
    ------
    UserError
        For a file that is no json, or holds something else.
    """
    try:
        return parse_json(path.read_bytes(), str(path))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UserError(f"{path}: cannot be read as json ({error})") from error


def check_form(where: str, content: Mapping[str, Any], form: Mapping[str, tuple[type, ...]]) -> None:
    """Refuse what a file holds unless it is as `form` says: key -> types; the message begins with `where`.

    Raises
    ------
    UserError
        Naming the first key that is missing or of another type.
    """
    for key, types in form.items():
        if key not in content or not isinstance(content[key], types):
            raise malformed(where, key)


def malformed(where: str, key: str) -> UserError:
    """The error for a file whose part `key` is not as it was written."""
    return UserError(f"{where}: is damaged, as its {key} is missing or of another form")


def parse_json(content: bytes, where: str) -> dict[str, Any]:
    """The mapping that a file of `write_json` holds; messages begin with `where`.

    Raises
    ------
    UserError
        For what is no json, or no mapping.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: cannot be read as json ({error})") from error
    if not isinstance(found, dict):
        raise UserError(f"{where}: must hold a mapping, got {type(found).__name__}")
    return found
