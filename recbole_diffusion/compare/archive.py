"""The finished runs of a dataset in one compressed file, which a comparison reads before it trains and adds to after.

The file is a tar, compressed as a whole by xz: users, items and settings are much the same in all runs, so that each
run costs little more than its own ranks. A run lies in it as in the folder of a comparison, `runs/NAME/SEED`. Other
members, such as the trials of a tuning, are kept as they are.
"""

from __future__ import annotations

import io
import logging
import lzma
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from ..common.files import atomic_write, check_form, parse_json
from ..common.log import on_screen
from ..errors import UserError
from ..evaluation.ranks import load_ranks, shallow
from .plan import OF_DESCRIPTION, Plan, Run, check_same
from .states import OF_RUN

# The record is the last to be written: where it stands, the run is done.
RUN_FILES = ("run.json", "ranks.npz", "record.json")
# The dictionary of preset 9, 64 MB, holds the ranks of many runs, in which xz then sees what they share; the ranks are
# numbers of four bytes, whose position in the number tells more (lp, pb) than in a text.
FILTERS: Final = [
    {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 3, "lp": 1, "pb": 1},
]
# What a slow core packs at least.
BYTES_A_SECOND = 500_000

logger = logging.getLogger(__name__)


def read_archive(path: Path) -> dict[str, bytes]:
    """Every member of an archive: name -> content; nothing where there is no such file.

    Raises
    ------
    UserError
        For a file that is no such archive.
    """
    try:
        with tarfile.open(path, "r:xz") as archive:
            members = ((member.name, archive.extractfile(member)) for member in archive if member.isfile())
            return {name: file.read() for name, file in members if file is not None}
    except FileNotFoundError:
        return {}
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError) as error:
        raise UserError(f"archive={path}: must be a tar.xz file that can be read ({error})") from error


def write_archive(path: Path, members: dict[str, bytes]) -> None:
    """Write an archive. The same members give the same bytes.

    Raises
    ------
    UserError
        Where the file cannot be written.
    """
    with (
        atomic_write(path) as part,
        lzma.open(part, "wb", format=lzma.FORMAT_XZ, filters=FILTERS) as packed,
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for name in sorted(members):
            member = tarfile.TarInfo(name)
            member.size = len(members[name])
            archive.addfile(member, io.BytesIO(members[name]))


def _names(plan: Plan, run: Run) -> dict[str, str]:
    """The names of a run's files in the archive: file -> name."""
    folder = run.folder.relative_to(plan.folder).as_posix()
    return {file: f"{folder}/{file}" for file in RUN_FILES}


def _kept(file: Path) -> bytes:
    """What an archive keeps of a run's file."""
    content = file.read_bytes()
    if file.name != "ranks.npz":
        return content
    # Refuses a damaged file by its name.
    load_ranks(file)
    return shallow(content)


def unpack(plan: Plan) -> None:
    """Put the finished runs that the plan's archive holds into its folder, unless they are done there.

    Raises
    ------
    UserError
        Where the archive holds a run of the plan with other settings, or one that cannot be read.
    """
    if plan.archive is None:
        return
    members = read_archive(plan.archive)
    for run in plan.runs:
        names = _names(plan, run)
        if (run.folder / "record.json").exists() or not set(names.values()) <= set(members):
            continue
        where = f"archive={plan.archive}"
        read = {}
        for file, form in (("run.json", OF_DESCRIPTION), ("record.json", OF_RUN)):
            member = f"{where}: {names[file]}"
            read[file] = parse_json(members[names[file]], member)
            check_form(member, read[file], form)
        check_same(run, read["run.json"], where, "leave it out by --archive=~")
        for file, name in names.items():
            with atomic_write(run.folder / file) as part:
                part.write_bytes(members[name])


def check_archive(plan: Plan) -> None:
    """Refuse an archive that finished runs cannot be added to, before any of them trains.

    Raises
    ------
    UserError
    """
    if plan.archive is None:
        return
    try:
        plan.archive.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=plan.archive.parent):
            pass
    except OSError as error:
        raise UserError(f"archive={plan.archive}: cannot be written ({error.strerror})") from error


def pack(plan: Plan) -> None:
    """Add the finished runs of the plan's folder to its archive; what the archive holds already stays as it is.

    Of the ranks it keeps the first hundred: see `evaluation.ranks.shallow`. Where the plan's deadline comes before that
    is done, the archive stays as it is, and a warning says so.

    Raises
    ------
    UserError
        Where the archive cannot be written.
    """
    if plan.archive is None:
        return
    members = read_archive(plan.archive)
    new = {
        name: _kept(run.folder / file)
        for run in plan.runs
        if (run.folder / "record.json").exists()
        for file, name in _names(plan, run).items()
        if name not in members
    }
    if not new:
        return
    packed = members | new
    seconds = sum(map(len, packed.values())) / BYTES_A_SECOND
    if plan.deadline.left() < seconds:
        with on_screen(logger):
            why = f"packing takes up to {seconds:.0f} s, and the deadline comes before"
            logger.warning("archive=%s: stays as it is (%s); the same command adds the runs later", plan.archive, why)
        return
    write_archive(plan.archive, packed)
