"""Fetch a dataset that is not there; a download that breaks off leaves nothing behind."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from logging import getLogger
from pathlib import Path

import yaml
from tqdm import tqdm

from ..errors import UserError, suggestion

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 60
# A download that still runs has touched its folder within the time-out.
STALE_SECONDS = 10 * TIMEOUT_SECONDS


def ensure_files(folder: str | Path, dataset: str, parts: Sequence[str] | None = None) -> None:
    """See to it that a dataset's interactions are there, downloading RecBole's copy if they are not.

    A folder without them counts as not there; other files in it are kept, unless the download brings one of that name.

    Parameters
    ----------
    folder : path
        Where DATASET.inter is looked for.
    dataset : str
        Name of the dataset.
    parts : sequence of str, optional
        With `benchmark_filename`, the files DATASET.PART.inter instead; those are never downloaded.

    Raises
    ------
    UserError
        If they are not there and cannot be had.
    """
    folder = Path(folder)
    names = [f"{dataset}.{part}.inter" for part in parts] if parts else [f"{dataset}.inter"]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing and parts:
        raise UserError(f"there is no file {folder / missing[0]}, which benchmark_filename={list(parts)} names")
    if missing:
        _download(folder, dataset)


def known_datasets() -> dict[str, str]:
    """Name -> address of the datasets that RecBole's authors offer."""
    import recbole

    text = Path(recbole.__file__).with_name("properties").joinpath("dataset", "url.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


def _download(folder: Path, dataset: str) -> None:
    instead = f"set --data_path=FOLDER to a folder that holds {dataset}/{dataset}.inter"
    addresses = known_datasets()
    if dataset not in addresses:
        # Those on this disk stand first.
        near = suggestion(dataset, [path.parent.name for path in _beside(folder)]) or suggestion(dataset, addresses)
        raise UserError(
            f"dataset={dataset}: there is no file {folder / dataset}.inter, nor does RecBole offer that dataset; "
            f"{instead}{near}"
        )
    url = addresses[dataset]
    getLogger().info(f"downloading dataset {dataset} from {url}")
    try:
        with _scratch_folder(folder) as scratch:
            _fetch(url, scratch / "archive.zip")
            unpacked = scratch / "unpacked"
            with zipfile.ZipFile(scratch / "archive.zip") as archive:
                archive.extractall(unpacked)
            _rename(unpacked, Path(url).stem, dataset)
            if not (unpacked / f"{dataset}.inter").is_file():
                raise UserError(f"dataset={dataset}: the archive {url} holds no {dataset}.inter; {instead}")
            _move(unpacked, folder)
    except (OSError, http.client.HTTPException, zipfile.BadZipFile) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise UserError(f"dataset={dataset}: the download of {url} failed ({reason}); {instead}") from error


def _beside(folder: Path) -> Iterator[Path]:
    """The interactions of the datasets in the folder that should hold this one."""
    return (path for path in folder.parent.glob("*/*.inter") if path.stem == path.parent.name)


@contextlib.contextmanager
def _scratch_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder on the same disk as `folder`; those of downloads that were killed are removed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}.download-"
    for left in folder.parent.glob(f"{prefix}*"):
        newest = max((path.stat().st_mtime for path in [left, *left.rglob("*")]), default=0.0)
        if time.time() - newest > STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as scratch:
        yield Path(scratch)


def _fetch(url: str, file: Path) -> None:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as response, open(file, "wb") as out:
        size = int(response.headers.get("Content-Length") or 0)
        with tqdm(total=size or None, unit="B", unit_scale=True, desc=url.rpartition("/")[2]) as bar:
            while chunk := response.read(CHUNK_BYTES):
                out.write(chunk)
                bar.update(len(chunk))
    if size and file.stat().st_size != size:
        raise OSError(f"it ended after {file.stat().st_size} of {size} bytes")


def _rename(folder: Path, old: str, new: str) -> None:
    """Give the atomic files of an archive the name that the dataset has here."""
    for file in list(folder.iterdir()):
        if file.is_file() and old in file.stem:
            file.rename(file.with_name(file.stem.replace(old, new) + file.suffix))


def _move(source: Path, folder: Path) -> None:
    """Move finished files into place, the interactions last: where those are, all is there."""
    folder.mkdir(exist_ok=True)
    for path in sorted(source.iterdir(), key=lambda path: path.suffix == ".inter"):
        target = folder / path.name
        if path.is_file() or not target.exists():
            os.replace(path, target)
