"""Attacks on whole commands, each in a folder of its own: kills, signals, full and read-only disks, two at once."""

from __future__ import annotations

import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NamedTuple

from recbole_diffusion.cli.main import COMMANDS, main
from recbole_diffusion.training import checkpoint

SMALL = ["--user_inter_num_interval=[27,30]", "--MAX_ITEM_LIST_LENGTH=10", "--hidden_size=16", "--inner_size=32"]
SMALL += ["--n_layers=1", "--n_heads=2", "--show_progress=False", "--metric_decimal_place=8"]
TRAIN = ["train", *SMALL, "--noise_scale=0.3", "--log_dir=log", "--tensorboard_dir=board"]
COMPARE = ["compare", *SMALL, "--model_list=Pop,LastItem", "--seeds=1", "--epochs=1", "--off_switch=False"]
# Seconds after which a command hangs.
PATIENCE = 300


class Answer(NamedTuple):
    """What a command gave."""

    code: int
    out: str
    err: str

    def figures(self) -> list[str]:
        """The metrics of a result, without times and names."""
        return [line for line in self.out.splitlines() if "@" in line]


class Process:
    """A command line at work in a fork of this process, which has all imports behind it.

    Parameters
    ----------
    folder : Path
        Where it works.
    argv : list of str
    limit : int, optional
        No file that it writes may have more bytes, as on a disk that becomes full.
    """

    def __init__(self, folder: Path, argv: list[str], limit: int | None = None) -> None:
        # Elsewhere, so that a full disk leaves them alone.
        self.files: list[IO[bytes]] = [tempfile.TemporaryFile() for _ in range(2)]  # noqa: SIM115 (read in `answer`)
        self.pid = os.fork()
        if self.pid == 0:
            self._run(folder, argv, limit)

    def _run(self, folder: Path, argv: list[str], limit: int | None) -> None:
        code = 70
        try:
            os.chdir(folder)
            for number, file in enumerate(self.files, start=1):
                os.dup2(file.fileno(), number)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
            code = main(argv)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)

    def send(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def answer(self) -> Answer:
        """Wait for its end.

        Raises
        ------
        TimeoutError
            Where it hangs; it is killed.
        """
        end = time.monotonic() + PATIENCE
        while (waited := os.waitpid(self.pid, os.WNOHANG)) == (0, 0):
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise TimeoutError("the command hangs")
            time.sleep(0.02)
        texts = []
        for file in self.files:
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
            file.close()
        return Answer(os.waitstatus_to_exitcode(waited[1]), *texts)


@contextmanager
def disk(size: int) -> Iterator[Path | None]:
    """A folder on a disk of so many bytes; None where this user may mount none."""
    folder = Path(tempfile.mkdtemp())
    # Of 0 the kernel makes one without a bound.
    command = ["mount", "-t", "tmpfs", "-o", f"size={max(size, 4096)}", "none", str(folder)]
    mounted = subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
        shutil.rmtree(folder)


def in_one_line(answer: Answer) -> bool:
    """Whether a command was refused as it should be."""
    last = answer.err.rstrip("\n").split("\n")[-1]
    return answer.code == 2 and last.startswith("error: ") and "Traceback" not in answer.err


def whole(folder: Path) -> None:
    """Nothing in a folder is half of a file."""
    assert not list(folder.rglob(".part-*")), sorted(folder.rglob(".part-*"))
    for path in folder.rglob("*.pth"):
        checkpoint.load_model(path)
    for path in folder.rglob("*.json"):
        json.loads(path.read_text())


class Processes:
    """The attackers on commands.

    Parameters
    ----------
    model : Path
        A checkpoint of a DiffuRec on ml-100k.
    epochs : int
        Of the runs that are killed.
    """

    def __init__(self, model: Path, epochs: int) -> None:
        for name in (
            "recbole_diffusion.training.run",
            *(f"recbole_diffusion.cli.{c.module}" for c in COMMANDS.values()),
        ):
            importlib.import_module(name)
        for name in ("recbole_diffusion.inference.writing", "torch.utils.tensorboard", "matplotlib.pyplot"):
            importlib.import_module(name)
        saved = f"--checkpoint={model}"
        self.train = [*TRAIN, f"--epochs={epochs}"]
        self.commands = {
            "train": self.train,
            "recommend": ["recommend", saved, "--users=all", "--output=out.csv"],
            "evaluate": ["evaluate", saved, "--ranks=ranks.npz", "--output=out.json"],
            "explain": ["explain", saved, "--history=50,286,258", "--output=out.png"],
            "compare": COMPARE,
        }
        self.seconds, self.bytes, self.right = {}, {}, []
        for name, argv in self.commands.items():
            with self._folder() as folder:
                begin = time.monotonic()
                answer = Process(folder, argv).answer()
                assert answer.code == 0, (name, answer)
                self.seconds[name] = time.monotonic() - begin
                self.bytes[name] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
                self.right = self.right or answer.figures()
        assert self.right

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        folder = Path(tempfile.mkdtemp())
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _any(self, chosen: random.Random) -> str:
        """A command; the one that starts processes of its own takes longest, and is chosen least."""
        return chosen.choice([*list(self.commands)[:-1] * 3, "compare"])

    def _resumed(self, folder: Path) -> list[str]:
        """The command that goes on with the training of a folder."""
        last = sorted(folder.glob("saved/[!.]*.last.pth"), key=lambda path: path.stat().st_mtime_ns)
        return [*self.train, *([f"--resume={last[-1]}"] if last else [])]

    def kill(self, chosen: random.Random) -> None:
        """Kill -9 at any moment, once or twice; what resumes ends at the figures of an unbroken run."""
        with self._folder() as folder:
            for _ in range(chosen.randint(1, 2)):
                process = Process(folder, self._resumed(folder))
                time.sleep(chosen.uniform(0, self.seconds["train"]))
                process.send(signal.SIGKILL)
                process.answer()
                for path in folder.glob("saved/[!.]*.pth"):
                    checkpoint.load_model(path)
            answer = Process(folder, self._resumed(folder)).answer()
            assert answer.figures() == self.right, answer

    def end(self, chosen: random.Random) -> None:
        """SIGTERM, SIGHUP and SIGINT end with a code and a line of their own, and leave no part of a file."""
        name, number = self._any(chosen), chosen.choice([signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
        with self._folder() as folder:
            process = Process(folder, self.commands[name])
            time.sleep(chosen.uniform(0.05, self.seconds[name]))
            process.send(number)
            answer = process.answer()
            # Killed by the signal: before the command began, or when all was done.
            assert answer.code in (0, 128 + number, -number), answer
            assert "Traceback" not in answer.err and "internal error" not in answer.err, answer
            if answer.code == 128 + number:
                said = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
                assert answer.err.rstrip("\n").split("\n")[-1] == said, answer
            whole(folder)
            if name == "train":
                assert Process(folder, self._resumed(folder)).answer().figures() == self.right
            elif name == "compare":
                left = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, text=True).stdout
                assert not left, left
                assert Process(folder, COMPARE).answer().code == 0

    def full_disk(self, chosen: random.Random) -> None:
        """A disk that becomes full under any file: the result, or one line."""
        name = self._any(chosen)
        size = chosen.randrange(self.bytes[name] * 5 // 4 + 1)
        with disk(size) as mounted, self._folder() as other:
            folder, limit = (other, size // 4) if mounted is None else (mounted, None)
            answer = Process(folder, self.commands[name], limit).answer()
            assert in_one_line(answer) or answer.code == 0, (name, size, answer)
            assert "Traceback" not in answer.err and "internal error" not in answer.err, (name, size, answer)
            if name == "train" and answer.code == 0:
                assert answer.figures() == self.right, answer
            if name != "compare":
                whole(folder)

    def read_only(self, chosen: random.Random) -> None:
        """A folder where nothing can be written: the result, or one line."""
        name = self._any(chosen)
        with disk(2**24) as folder:
            if folder is None:
                return
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
            answer = Process(folder, self.commands[name]).answer()
            assert in_one_line(answer), (name, answer)

    def two(self, chosen: random.Random) -> None:
        """Two commands in one folder do not disturb each other."""
        name = self._any(chosen)
        with self._folder() as folder:
            pair = [Process(folder, self.commands[name]) for _ in range(2)]
            answers = [process.answer() for process in pair]
            # Of two comparisons one says that the other is at work.
            assert sum(answer.code == 0 for answer in answers) >= (1 if name == "compare" else 2), (name, answers)
            assert all(answer.code == 0 or in_one_line(answer) for answer in answers), (name, answers)
            assert name != "train" or all(answer.figures() == self.right for answer in answers), answers
            whole(folder)


PROCESSES = ("kill", "end", "full_disk", "read_only", "two")
