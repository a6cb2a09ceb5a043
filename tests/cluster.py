"""Comparing and tuning on a real SLURM and a real PostgreSQL: `python -m tests.cluster [slurm] [postgresql]`.

What is not installed here is skipped with the reason. SLURM has to have two partitions over the same node, as in
CONTRIBUTING.md: `main`, whose jobs are queued again when `urgent` takes the node. PostgreSQL is started here, as root.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import pandas as pd
from optuna.trial import TrialState

from recbole_diffusion.common.files import read_json

SETTINGS = {
    "dataset": "ml-100k",
    "user_inter_num_interval": "[0,30]",
    "epochs": 40,
    "stopping_step": 100,
    "hidden_size": 16,
    "inner_size": 32,
    "n_layers": 1,
    "n_heads": 2,
    "MAX_ITEM_LIST_LENGTH": 10,
}
# Seconds that anything may take.
LONG = 300


def start(folder: Path, *flags: str, before: tuple[str, ...] = (), **changes: Any) -> subprocess.Popen[str]:
    """Start a command in a folder, whose output goes to its log.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = [f"--{key}={value}" for key, value in {**SETTINGS, **changes}.items()]
    # The folder is another one.
    path = os.pathsep.join(filter(None, (os.getcwd(), os.environ.get("PYTHONPATH"))))
    with open(folder / "log.txt", "a") as log:
        return subprocess.Popen(
            [*before, sys.executable, "-m", "recbole_diffusion", *flags, *settings],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            stdout=log,
            stderr=log,
            text=True,
        )


def until(holds: Callable[[], Any], what: str) -> Any:
    """Wait until something holds."""
    end = time.monotonic() + LONG
    while not (found := holds()):
        if time.monotonic() > end:
            raise AssertionError(f"{what} has not come within {LONG} s")
        time.sleep(0.5)
    return found


def finish(process: subprocess.Popen[str], folder: Path) -> None:
    """Wait for a command to end well."""
    assert process.wait(LONG) == 0, (folder / "log.txt").read_text()


# SLURM.


def why_no_slurm() -> str | None:
    if shutil.which("sbatch") is None or find_spec("submitit") is None:
        return "there is no sbatch, or no submitit"
    said = subprocess.run(["sinfo", "--noheader", "--format=%P %a"], capture_output=True, text=True)
    if said.returncode or not {"main*", "urgent"} <= set(said.stdout.split()):
        return "SLURM does not answer, or has no partitions main and urgent"
    return None


def epochs(folder: Path, seed: int) -> int:
    """Epochs that a run has had."""
    return len(read_json(folder / "compare/ml-100k/runs/SASRec" / str(seed) / "progress.json").get("epochs", []))


def results(folder: Path) -> dict[int, Any]:
    """What the runs of a comparison came to."""
    records = (folder / "compare/ml-100k/runs/SASRec").glob("*/record.json")
    return {int(file.parent.name): read_json(file)["test_result"] for file in records}


def sent(folder: Path) -> int:
    """Jobs that were sent from a folder."""
    return len(list(folder.rglob("*_submitted.pkl")))


def check_comparison(root: Path) -> None:
    compare = ("compare", "--model_list=SASRec", "--seeds=1,2", "--jobs=2")
    alone = root / "alone"
    finish(start(alone, *compare), alone)

    folder = root / "slurm"
    first = start(folder, *compare, "--cluster=slurm")
    until(lambda: epochs(folder, 1) > 2 and epochs(folder, 2) > 2, "the third epoch of two jobs")
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = start(folder, *compare, "--cluster=slurm")
    until(lambda: "is at work" in (folder / "log.txt").read_text(), "the next command")
    subprocess.run(["sbatch", "--partition=urgent", "--exclusive", "--wrap=sleep 5", "--output=/dev/null"], check=True)
    finish(second, folder)
    assert results(folder) == results(alone), (results(folder), results(alone))
    assert sent(folder) == 2
    print("slurm: a comparison whose command was killed and whose jobs were pre-empted has the figures of one at rest")


def check_tuning(root: Path) -> None:
    folder = root / "tuned"
    finish(start(folder, "tune", "--model_list=SASRec", "--trials=4", "--jobs=2", "--cluster=slurm", epochs=3), folder)
    trials = pd.read_csv(folder / "tune/ml-100k/SASRec/trials.csv")
    assert trials["state"].tolist() == ["COMPLETE"] * 4 and sent(folder) == 4
    print("slurm: four trials as four jobs, two at a time")


def check_slurm(root: Path) -> None:
    check_comparison(root)
    check_tuning(root)


# PostgreSQL.


def binaries() -> Path | None:
    """The folder of PostgreSQL's programs; Debian has it out of the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def why_no_postgresql() -> str | None:
    if binaries() is None or find_spec("psycopg") is None:
        return "there is no PostgreSQL, or no psycopg"
    return None if os.geteuid() == 0 else "its server is started as another user, which needs root"


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """A server of its own; gives its URL."""
    programs = binaries()
    folder.mkdir()
    shutil.chown(folder, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def run(program: str, *arguments: str) -> None:
        command = ["runuser", "-u", "postgres", "--", str(programs / program), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)

    data, log = str(folder / "data"), str(folder / "log")
    run("initdb", "-D", data, "--auth=trust")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    run("pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")
    try:
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    finally:
        run("pg_ctl", "-D", data, "-m", "immediate", "stop")


def check_postgresql(root: Path) -> None:
    with server(root / "server") as url:
        tune = ("tune", "--model_list=SASRec", "--trials=3", "--pruner=none", f"--study_storage={url}")
        # By its name another machine: only the missing signs of life tell that its process is gone.
        elsewhere = ("unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh")
        killed = start(root / "killed", *tune, before=elsewhere, epochs=20)

        def at_work() -> Any:
            if "tune/ml-100k/SASRec" not in optuna.get_all_study_names(url):
                return None
            study = optuna.load_study(study_name="tune/ml-100k/SASRec", storage=url)
            return [trial for trial in study.trials if trial.state == TrialState.RUNNING and trial.intermediate_values]

        (lost,) = until(at_work, "the first trial")
        living = start(root / "living", *tune, epochs=20)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        finish(living, root / "living")
        study = optuna.load_study(study_name="tune/ml-100k/SASRec", storage=url)
        states = [trial.state.name for trial in study.trials]
        assert sorted(states) == ["COMPLETE"] * 3 + ["FAIL"] and states[lost.number] == "FAIL", states
        (again,) = [trial for trial in study.trials if trial.system_attrs.get("failed_trial") == lost.number]
        assert again.params == lost.params and again.value is not None
        seconds = (again.datetime_start - lost.datetime_start).total_seconds()
        hosts = lost.user_attrs["host"], again.user_attrs["host"]
    print(
        f"postgresql: the trial of a worker on {hosts[0]} that was killed is done on {hosts[1]}, {seconds:.0f} s later"
    )


PARTS = {"slurm": (why_no_slurm, check_slurm), "postgresql": (why_no_postgresql, check_postgresql)}


def main(names: list[str]) -> int:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for name in names or PARTS:
        why_not, check = PARTS[name]
        reason = why_not()
        if reason is not None:
            print(f"{name}: skipped: {reason}")
            continue
        with TemporaryDirectory() as folder:
            # Another user's server stands in it.
            os.chmod(folder, 0o755)
            check(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
