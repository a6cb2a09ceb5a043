"""`python -m benchmarks.pending`: several comparisons side by side until a deadline."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_diffusion.cli.exit_codes import run_command
from recbole_diffusion.cli.parsers import settings_parser
from recbole_diffusion.common.files import atomic_write
from recbole_diffusion.errors import OutOfTime, UserError

# Checkpoints that are larger are left behind.
LARGEST_CHECKPOINT = 20e6
# What must be on the command line.
NEEDED = ("output", "pack", "deadline")

HELP = f"""\
Run the comparisons of several files at once until a deadline, and pack what is to be taken along.

usage: python -m benchmarks.pending --config_files="FILE FILE" --output=FOLDER --pack=ARCHIVE --deadline=MINUTES
       [--jobs=N] [--KEY=VALUE ...]

Each FILE is one for `recbole-diffusion compare --config_files=FILE`, and may say in `jobs` how many runs it has at a
time. FOLDER/NAME, with the NAME of the file, becomes the folder of its comparison: the same command goes on there.
ARCHIVE, a tar.xz, holds what reports are made of, and of runs that are not done the checkpoints up to
{LARGEST_CHECKPOINT / 1e6:.0f} MB, from which they go on on another machine.
"""


def run(argv: Sequence[str]) -> None:
    """Do what the command line says.

    Raises
    ------
    UserError
        Where something is missing on the command line, or a comparison failed.
    OutOfTime
        Where runs are left at the deadline.
    """
    arguments = settings_parser("python -m benchmarks.pending").read(argv)
    if arguments.help or arguments.keys:
        print(HELP, end="")
        return
    settings = dict(arguments.settings)
    missing = [key for key in NEEDED if key not in settings]
    if missing or not arguments.config_files:
        raise UserError(f"--{(missing or ['config_files'])[0]} must be given")
    files = list(map(Path, arguments.config_files))
    if len({file.stem for file in files}) < len(files):
        raise UserError("--config_files: each file must have a name of its own, by which its folder is called")
    output, archive = (Path(settings.pop(key)) for key in ("output", "pack"))
    codes = compare_all(files, output, settings)
    pack(output, archive)
    ended = ", ".join(f"{file.name} with {code}" for file, code in zip(files, codes, strict=True) if code)
    if ended:
        error = OutOfTime if set(codes) <= {0, OutOfTime.exit_code} else UserError
        raise error(f"{archive} is written; not all is done: {ended}")


def compare_all(files: Sequence[Path], output: Path, settings: Mapping[str, Any]) -> list[int]:
    """Run the comparisons at once, each in a folder of its own in `output`; gives the status of each."""
    shared = [f"--{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "recbole_diffusion", "compare"]
    processes = [
        subprocess.Popen([*command, f"--config_files={file}", f"--output={output / file.stem}", *shared])
        for file in files
    ]
    try:
        return [process.wait() for process in processes]
    finally:
        # Where this command is broken off, they keep what they have.
        for process in processes:
            process.terminate()


def pack(folder: Path, archive: Path) -> None:
    """Pack what is taken along of a folder of comparisons."""
    files = list(taken_along(folder))
    with atomic_write(archive) as part, tarfile.open(part, "w:xz", preset=1) as packed:
        for file in files:
            packed.add(file, arcname=str(file.relative_to(folder)))


def taken_along(folder: Path) -> Iterator[Path]:
    """The files that are packed: all but the checkpoints of runs that are done, and large ones."""
    for file in sorted(folder.rglob("*")):
        unneeded = file.suffix == ".pth" and (
            (file.parent / "record.json").exists() or file.stat().st_size > LARGEST_CHECKPOINT
        )
        if file.is_file() and not unneeded:
            yield file


if __name__ == "__main__":
    sys.exit(run_command(lambda: run(sys.argv[1:]), debug="--debug" in sys.argv))
