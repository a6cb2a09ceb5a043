from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Processes that run tests side by side share the cores; before anything imports torch.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


# Tiny models and comparisons that several rooms look at.
pytest_plugins = ["browser", "saved_models", "small_plans"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", help="recorded runs of the authors' codes to check against: an .npz (.xz) or a folder")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run every test in a folder of its own, so that no run leaves files in the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def process_as_new() -> Iterator[None]:
    """What a test, or the first import of RecBole's trainer, leaves in the process does not reach the next test."""
    import torch

    torch.autograd.set_detect_anomaly(False)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    torch.autograd.set_detect_anomaly(False)
    for handler in [handler for handler in root.handlers if handler not in handlers]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(level)


@pytest.fixture(scope="session", autouse=True)
def ml_100k_read_once() -> Iterator[None]:
    """The files that RecBole brings along are parsed once a process; each dataset has a copy of the table."""
    from recbole_diffusion.host.atomic_files import _AtomicFile
    from recbole_diffusion.host.registry import recbole_folder

    read, known = _AtomicFile.read, {}  # type: ignore[var-annotated]

    def read_once(self: Any, fields: dict[str, Any]) -> Any:
        if not Path(self.path).is_relative_to(recbole_folder()):
            return read(self, fields)
        key = (self.path, self.separator, self.encoding, *fields.items())
        if key not in known:
            known[key] = read(self, fields)
        return known[key].copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_AtomicFile, "read", read_once)
        yield


@pytest.fixture
def atomic(tmp_path: Path) -> Callable[..., str]:
    """Write a dataset of atomic files, `inter=TEXT` and so on; gives the folder to be named as `data_path`."""

    def write(name: str = "made", **files: str) -> str:
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, text in files.items():
            (folder / f"{name}.{suffix}").write_bytes(text.encode())
        return str(folder.parent)

    return write
