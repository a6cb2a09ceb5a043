"""The columns of a large atomic file, kept beside it as they were read, so that its text is parsed once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from logging import Logger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..common.files import atomic_write
from ..errors import UserError

# Bytes of a file below which parsing takes no more than a fraction of a second.
SMALLEST = 2**23
# Counted up when what stands in a kept file changes.
FORM = 1
# No cell holds it: files with it are refused.
END = "\0"


def parse_once(path: str, read_by: str, parse: Callable[[], pd.DataFrame], logger: Logger) -> pd.DataFrame:
    """What `parse` makes of a file, from the last time if neither the file nor the settings have changed since.

    Parameters
    ----------
    path : str
        Of an atomic file. One below 8 MB is parsed each time.
    read_by : str
        All settings that `parse` depends on. Each value has a file of its own.
    parse : callable
        Gives columns of float64 and of text; it must be the same for the same content and settings.
    logger : Logger
        It says where columns are kept.
    """
    file = Path(path)
    if file.stat().st_size < SMALLEST:
        return parse()
    digest = hashlib.sha256(f"{FORM} {pd.__version__} {read_by}".encode())
    kept = file.with_name(f"{file.name}.{digest.hexdigest()[:8]}.npz")
    with open(file, "rb") as content:
        while block := content.read(2**20):
            digest.update(block)
    key = digest.hexdigest()
    # What is damaged, or is no such file at all, is written anew; numpy and zipfile raise errors of many kinds over it.
    with suppress(Exception), open(kept, "rb") as content, np.load(content) as arrays:
        if arrays["key"] == key:
            return _table(arrays)
    table = parse()
    # A folder that nobody may write to only costs the time.
    with suppress(UserError):
        with atomic_write(kept) as part, open(part, "wb") as target:
            np.savez(target, key=np.array(key), **_arrays(table))
        logger.info(f"the parsed columns of {path} are kept in {kept.name} (cache_data=False keeps none)")
    return table


def _arrays(table: pd.DataFrame) -> dict[str, Any]:
    """Columns as arrays that need no pickle: numbers as they are, text as the number of each cell's word."""
    arrays = {"fields": np.array(list(table))}
    for number, field in enumerate(table):
        column = table[field]
        if column.dtype == np.float64:
            arrays[f"{number} numbers"] = column.to_numpy()
            continue
        codes, words = pd.factorize(column)
        arrays[f"{number} codes"] = codes.astype(np.int32)
        arrays[f"{number} words"] = np.frombuffer(END.join(words).encode(), dtype=np.uint8)
        arrays[f"{number} type"] = np.array(str(column.dtype))
    return arrays


def _table(arrays: np.lib.npyio.NpzFile) -> pd.DataFrame:
    columns = {}
    for number, field in enumerate(arrays["fields"].tolist()):
        if f"{number} numbers" in arrays:
            columns[field] = pd.Series(arrays[f"{number} numbers"])
            continue
        words = pd.Series(arrays[f"{number} words"].tobytes().decode().split(END), dtype=str(arrays[f"{number} type"]))
        # -1 stands for an empty cell.
        columns[field] = pd.Series(words.array.take(arrays[f"{number} codes"], allow_fill=True))
    return pd.DataFrame(columns)
