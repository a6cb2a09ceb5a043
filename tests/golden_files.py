"""Files of recorded numbers: NAME.npz, or NAME.npz.xz as ours are kept, in two thirds of the bytes."""

from __future__ import annotations

import io
import lzma
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parent / "golden"


def read(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by their keys."""
    content = path.read_bytes()
    return dict(np.load(io.BytesIO(lzma.decompress(content) if path.suffix == ".xz" else content)))


def ours(name: str) -> dict[str, np.ndarray]:
    """The arrays of a recording of ours."""
    return read(GOLDEN / f"{name}.npz.xz")


def name_of(path: Path) -> str:
    """NAME."""
    return path.name.partition(".npz")[0]


def given_files(config: pytest.Config) -> list[Path]:
    """The files of --golden=PATH, a file or a folder, or ours."""
    given = Path(config.getoption("--golden") or GOLDEN).resolve()
    paths = [given] if given.is_file() else sorted({*given.glob("*.npz"), *given.glob("*.npz.xz")})
    if not paths:
        raise pytest.UsageError(f"--golden={given}: neither a recording nor a folder of recordings, NAME.npz")
    return paths
