from __future__ import annotations

import logging
import subprocess
import sys
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console
from small_plans import small_plan

from recbole_diffusion.common.deadline import Deadline
from recbole_diffusion.common.files import read_json, write_json
from recbole_diffusion.compare import local, runner
from recbole_diffusion.compare.plan import Plan, Run
from recbole_diffusion.compare.runner import live_table, run_all
from recbole_diffusion.compare.states import state_of
from recbole_diffusion.errors import OutOfTime, UserError

DONE = {"seconds": 10.0, "epochs": [], "best_valid_score": 0.5, "best_epoch": 0}


@pytest.fixture
def plan() -> Plan:
    return small_plan(model_list="Pop,other=Pop(epochs=3)", seeds="1,2")


def sleepers() -> list[psutil.Process]:
    """The scripts at work that sleep for long."""
    return [child for child in psutil.Process().children() if "sleep(60)" in " ".join(child.cmdline())]


class Scripts(dict[Path, str]):
    """Python code by run folder, run in the place of a training; by default it leaves a record."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[Path] = []


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Scripts:
    scripts = Scripts()
    popen = subprocess.Popen

    def start(command: list[str], **kwargs: Any) -> Any:
        folder = Path(command[-1])
        scripts.started.append(folder)
        # Renamed, as a real run does it: the runner looks at any moment.
        part = str(folder / "part")
        write_json(Path(part), DONE)
        default = f"import os; os.rename({part!r}, {str(folder / 'record.json')!r})"
        return popen([sys.executable, "-c", scripts.get(folder, default)], **kwargs)

    monkeypatch.setattr(local.subprocess, "Popen", start)
    monkeypatch.setattr(runner, "LOOK_EVERY", 0.01)
    return scripts


def test_finished_runs_are_not_run_again(plan: Plan, scripts: Scripts) -> None:
    write_json(plan.runs[1].folder / "record.json", DONE)
    run_all(plan, ["the command"])
    folders = [run.folder for run in plan.runs]
    assert scripts.started == [folders[0], *folders[2:]]
    run_all(plan, ["the command"])
    assert len(scripts.started) == 3
    description = read_json(folders[2] / "run.json")
    assert description["seed"] == description["config"]["seed"] == 1
    assert description["config"] == plan.runs[2].variant.config


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os; os.kill(os.getpid(), 9)", "the process was ended by SIGKILL, as the system does when memory"),
        ("import sys; sys.exit(3)", "the process ended with 3; its log is"),
    ],
)
def test_a_run_that_dies_takes_no_other_with_it(plan: Plan, scripts: Scripts, code: str, message: str) -> None:
    scripts[plan.runs[0].folder] = code
    run_all(plan, [])
    states = [state_of(run) for run in plan.runs]
    assert [state["state"] for state in states] == ["failed", "done", "done", "done"]
    assert states[0]["error"].startswith(message)
    # The same command tries it again.
    del scripts[plan.runs[0].folder]
    run_all(plan, [])
    assert state_of(plan.runs[0])["state"] == "done" and len(scripts.started) == 5


def test_broken_off_between_and_in_runs(
    plan: Plan, scripts: Scripts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scripts[plan.runs[1].folder] = "import time; time.sleep(60)"

    def impatient(seconds: float) -> None:
        if len(scripts.started) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runner, "sleep", impatient)
        run_all(plan, [])
    assert caplog.messages[-1] == "broken off; the same command goes on from here"
    assert [state_of(run)["state"] for run in plan.runs] == ["done", "waiting", "waiting", "waiting"]
    assert not sleepers()
    scripts.clear()
    run_all(plan, [])
    assert scripts.started == [run.folder for run in (plan.runs[0], plan.runs[1], *plan.runs[1:])]


def test_several_at_a_time_share_the_threads(plan: Plan, scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "free_threads", lambda: 7)
    both = [run.folder.resolve() for run in plan.runs[:2]]
    # Each of the first two ends well only when it has seen the other.
    code = """if True:
        import os, pathlib, time
        mine, other = {folders}
        (mine / "seen").write_text(os.environ["OMP_NUM_THREADS"])
        until = time.time() + 20
        while not (other / "seen").exists() and time.time() < until:
            time.sleep(0.01)
        os.rename(mine / ("part" if (other / "seen").exists() else "none"), mine / "record.json")
    """
    for run, folders in zip(plan.runs, (both, both[::-1]), strict=False):
        paths = ", ".join(f"pathlib.Path({str(folder)!r})" for folder in folders)
        scripts[run.folder] = code.format(folders=paths)
    run_all(plan._replace(jobs=2), [])
    assert [state_of(run)["state"] for run in plan.runs] == ["done"] * 4
    assert {(folder / "seen").read_text() for folder in both} == {"3"}
    assert read_json(plan.runs[0].folder / "run.json")["jobs"] == 2


def test_all_at_work_end_when_it_is_broken_off(plan: Plan, scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    for run in plan.runs:
        scripts[run.folder] = "import time; time.sleep(60)"

    def impatient(seconds: float) -> None:
        # Told by what was started: the system may not name a process of this moment yet.
        assert len(scripts.started) == 3
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "sleep", impatient)
    with pytest.raises(KeyboardInterrupt):
        run_all(plan._replace(jobs=3), [])
    assert not sleepers()


def test_a_run_that_does_not_end_when_told_is_killed(
    plan: Plan, scripts: Scripts, monkeypatch: pytest.MonkeyPatch
) -> None:
    up = plan.folder.resolve() / "up"
    deaf = "import signal, pathlib, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    scripts[plan.runs[0].folder] = f"{deaf}; pathlib.Path({str(up)!r}).touch(); time.sleep(60)"

    def impatient(seconds: float) -> None:
        if up.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(runner, "sleep", impatient)
    monkeypatch.setattr(local, "SECONDS_TO_END", 0.1)
    with pytest.raises(KeyboardInterrupt):
        run_all(plan, [])
    assert not sleepers()


def test_a_run_is_a_process_of_its_own() -> None:
    plan = small_plan(model_list="Pop", seeds="1")
    run_all(plan, [])
    state = state_of(plan.runs[0])
    assert state["state"] == "done", (plan.runs[0].folder / "log.txt").read_text()
    assert state["peak_memory"] > 100e6 and state["seconds"] > 0
    assert "rows for training" in (plan.runs[0].folder / "log.txt").read_text()


def test_a_folder_in_use_is_refused(plan: Plan) -> None:
    run = plan.runs[0]
    code = "import sys, time; print('up', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", code, "recbole_diffusion.compare.one"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        write_json(run.folder / "progress.json", {"pid": process.pid})
        with pytest.raises(UserError, match=f"process {process.pid} trains Pop, seed 1 in it; it ends by itself"):
            run_all(plan, [])
        process.kill()


def test_two_commands_in_one_folder(plan: Plan, scripts: Scripts, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []

    def meanwhile(seconds: float) -> None:
        # A command that names other rows of the folder.
        with pytest.raises(UserError) as caught:
            run_all(plan._replace(runs=plan.runs[2:]), [])
        refused.append(str(caught.value))

    monkeypatch.setattr(runner, "sleep", meanwhile)
    run_all(plan, [])
    assert set(refused) == {"output=compare/ml-100k: another command is at work in it; --output names another"}
    assert len(scripts.started) == 4
    # It is free again.
    run_all(plan, [])


def test_a_folder_that_cannot_be_written_to(plan: Plan) -> None:
    Path("compare").mkdir()
    Path("compare/ml-100k").touch()
    with pytest.raises(UserError, match=r"output=compare/ml-100k: cannot be written to \("):
        run_all(plan, [])


def until(plan: Plan, seconds: float) -> Plan:
    """The plan with so many seconds left before its runs have to end."""
    return plan._replace(deadline=Deadline(time.time() + runner.SECONDS_TO_CLOSE + seconds))


def test_after_the_deadline_no_run_begins(plan: Plan, scripts: Scripts) -> None:
    with pytest.raises(OutOfTime, match="deadline: 4 of 4 runs are left; the same command goes on with them"):
        run_all(until(plan, -1), [])
    assert scripts.started == []
    run_all(plan, [])
    # What is done needs no time.
    run_all(until(plan, -1), [])


def test_what_is_at_work_at_the_deadline_is_ended_in_time_and_has_not_failed(plan: Plan, scripts: Scripts) -> None:
    scripts[plan.runs[1].folder] = "import time; time.sleep(60)"
    timed = until(plan, 3)
    with pytest.raises(OutOfTime, match="deadline: 3 of 4 runs are left"):
        run_all(timed, [])
    assert timed.deadline.left() > 0 and not sleepers()
    assert len(scripts.started) == 2 and state_of(plan.runs[1])["state"] == "waiting"
    del scripts[plan.runs[1].folder]
    run_all(plan, [])
    assert len(scripts.started) == 5


def test_a_run_that_stops_before_the_deadline_lets_no_other_begin(plan: Plan, scripts: Scripts) -> None:
    scripts[plan.runs[0].folder] = "import sys; sys.exit(75)"
    timed = until(plan, 60)
    with pytest.raises(OutOfTime, match="deadline: 4 of 4 runs are left"):
        run_all(timed, [])
    assert len(scripts.started) == 1 and not (plan.runs[0].folder / "failed.json").exists()
    # The run has to end before its command does.
    given = Deadline.read(read_json(plan.runs[0].folder / "run.json")["deadline"])
    assert timed.deadline.at is not None and given.at == pytest.approx(timed.deadline.at - runner.SECONDS_TO_CLOSE)


def test_lines_where_there_is_no_terminal(plan: Plan, scripts: Scripts, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        run_all(plan, [])
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    lines = [record.message for record in caplog.records if record.levelname == "INFO"]
    # What is the same for several rows is said once.
    assert "Pop does not read the setting hidden_size" in warnings and len(set(warnings)) == len(warnings)
    assert caplog.messages[: len(warnings)] == warnings
    assert lines[0] == "1 of 4: Pop, seed 1: begins"
    assert lines[1].startswith("1 of 4: Pop, seed 1: done, best valid")
    assert lines[-1].endswith("time left: 0 s")


def test_live_table(plan: Plan) -> None:
    states: dict[Run, dict[str, Any]] = {run: state_of(run) for run in plan.runs}
    seconds = {"train_seconds": 2.0, "valid_seconds": 1.0}
    epochs = [{"epoch": epoch, "valid_score": float(epoch == 1), **seconds} for epoch in range(3)]
    states[plan.runs[0]] = {"state": "training", "epochs": epochs, "seconds": 120.0}
    # rich takes such brackets for the end of a style.
    states[plan.runs[3]] = {"state": "failed", "epochs": [], "seconds": 0.0, "error": "no [/luck] in [red]"}
    console = Console(width=120, file=StringIO())
    console.print(live_table(plan, states))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "ml-100k: 1 of 4 runs ended, time left:" in text
    assert "best valid NDCG@10" in text and "1.0000 (epoch 1)" in text and "2 min" in text
    assert "failed: no [/luck] in [red]" in text and " seed " in text
    trial = replace(plan.runs[0], number_is="trial")
    console.print(live_table(plan._replace(runs=[trial]), {trial: state_of(trial)}))
    assert " trial " in console.file.getvalue().removeprefix(text)  # type: ignore[attr-defined]
