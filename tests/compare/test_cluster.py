"""Jobs as submitit's own executor on this machine does them; `python -m tests.cluster` tries a real SLURM."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_plans import small_plan

from recbole_diffusion.common.files import read_json, write_json
from recbole_diffusion.compare import cluster, one, runner
from recbole_diffusion.compare.cluster import Cluster, Task
from recbole_diffusion.compare.plan import Plan, Run
from recbole_diffusion.compare.runner import run_all
from recbole_diffusion.compare.states import state_of
from recbole_diffusion.errors import SettingError, UserError

submitit = pytest.importorskip("submitit")
DONE = {"seconds": 10.0, "epochs": [], "best_valid_score": 0.5, "best_epoch": 0}


class Jobs(dict[str, Any]):
    """The jobs that were sent, by their numbers, and what the cluster is to say of them in place of the truth."""

    def __init__(self) -> None:
        super().__init__()
        self.said: dict[str, str] = {}

    def states(self, numbers: list[str]) -> dict[str, str]:
        over = {number: self[number]._process.poll() is not None if number in self else True for number in numbers}
        truth = {number: "COMPLETED" if is_over else "RUNNING" for number, is_over in over.items()}
        return {number: self.said.get(number, truth[number]) for number in numbers}


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs]:
    """A cluster that is submitit on this machine; tasks are what the test says, without torch, which takes seconds."""
    sent = Jobs()

    class Executor(submitit.LocalExecutor):  # type: ignore[misc]
        def submit(self, task: Task) -> Any:
            # Functions of a test are sent whole; the class, by its name, would import torch.
            main, folder = task.main, task.folder
            job = super().submit(lambda: main(folder))
            sent[job.job_id] = job
            return job

    monkeypatch.setattr(cluster.shutil, "which", lambda name: name)
    monkeypatch.setattr(Cluster, "executor", lambda self, run: Executor(run.folder / cluster.JOBS))
    monkeypatch.setattr(cluster, "states_of", sent.states)
    monkeypatch.setattr(submitit, "SlurmJob", lambda folder, number: sent[number])
    monkeypatch.setattr(cluster, "ASK_EVERY", 0.0)
    monkeypatch.setattr(cluster, "SECONDS_TO_SEE", 0.0)
    yield sent
    for job in sent.values():
        job._process.kill()
        job._process.wait()


@pytest.fixture
def plan() -> Plan:
    return small_plan(model_list="Pop", seeds="1,2,3", jobs="2", cluster="slurm")


def does(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Let jobs run Python code, with the folder of the run; `done()` leaves its record."""

    def main(folder: Path) -> int:
        # At once, as a run does it: the command may read the record at any time.
        names: dict[str, Any] = {"folder": folder, "done": lambda: write_json(folder / "record.json", DONE)}
        exec(code, names)
        return names.get("result", 0)

    monkeypatch.setattr(one, "main", main)


def sent_for(run: Run) -> int:
    return len(list((run.folder / cluster.JOBS).glob("*_submitted.pkl")))


def test_every_run_is_a_job(plan: Plan, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    does(monkeypatch, "done()")
    run_all(plan, ["the command"])
    assert [state_of(run)["state"] for run in plan.runs] == ["done"] * 3 and len(jobs) == 3
    assert read_json(plan.runs[1].folder / "run.json")["command"] == "'the command'"
    # What is done is not sent again.
    run_all(plan, ["the command"])
    assert len(jobs) == 3


def test_the_next_command_follows_the_jobs_of_one_that_died(
    plan: Plan, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    does(monkeypatch, "import time\nwhile not (folder / 'go').exists(): time.sleep(0.02)\ndone()")
    calls = 0

    def impatient(seconds: float) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runner, "sleep", impatient)
        run_all(plan, [])
    numbers = list(jobs)
    said = f"jobs {numbers[0]}, {numbers[1]} go on; `scancel {numbers[0]} {numbers[1]}` ends them"
    assert said in caplog.messages and len(numbers) == 2
    for run in plan.runs:
        (run.folder).mkdir(exist_ok=True)
        (run.folder / "go").touch()
    run_all(plan, [])
    assert [state_of(run)["state"] for run in plan.runs] == ["done"] * 3
    assert [sent_for(run) for run in plan.runs] == [1, 1, 1]


def test_what_the_cluster_took_away_is_sent_again(
    plan: Plan, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The first attempt does not come to its end.
    code = "import time\nfirst = not (folder / 'seen').exists(); (folder / 'seen').touch()\n"
    does(monkeypatch, f"{code}time.sleep(60) if first else done()")
    seen = plan.runs[0].folder / "seen"

    def preempt(seconds: float) -> None:
        if seen.exists() and not jobs.said:
            jobs.said[next(iter(jobs))] = "PREEMPTED"

    monkeypatch.setattr(runner, "sleep", preempt)
    with caplog.at_level(logging.INFO):
        run_all(plan._replace(runs=plan.runs[:1]), [])
    first, second = jobs
    assert state_of(plan.runs[0])["state"] == "done" and sent_for(plan.runs[0]) == 2
    assert f"Pop, seed 1: job {first} ended as PREEMPTED; sent again as job {second}" in caplog.messages


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import os; os._exit(9)", r"job \d+ ended as OUT_OF_MEMORY, with no word of its own; its log is .*_0_log.err"),
        ("raise OSError('disk')", r"job \d+ ended by OSError: disk; its log is .*_0_log.err"),
    ],
)
def test_a_job_that_dies_takes_no_other_with_it(
    plan: Plan, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, code: str, error: str
) -> None:
    does(monkeypatch, f"if folder.name == '1':\n    {code}\ndone()")
    states = jobs.states

    def out_of_memory(numbers: list[str]) -> dict[str, str]:
        return {n: "OUT_OF_MEMORY" if s == "COMPLETED" else s for n, s in states(numbers).items()}

    monkeypatch.setattr(cluster, "states_of", out_of_memory)
    run_all(plan._replace(runs=plan.runs[:2]), [])
    assert [state_of(run)["state"] for run in plan.runs[:2]] == ["failed", "done"]
    assert re.match(error, state_of(plan.runs[0])["error"])


def test_a_job_goes_on_only_where_its_time_is_enough_for_an_epoch(tmp_path: Path) -> None:
    def main(folder: Path) -> int:
        return 0

    task = Task(main, tmp_path)
    write_json(tmp_path / "progress.json", {"epochs": [{}]})
    assert task() == 0 and task.checkpoint() is None
    write_json(tmp_path / "progress.json", {"epochs": [{}, {}]})
    again = task.checkpoint()
    assert again is not None and again.function.folder == tmp_path


def test_a_machine_without_slurm(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="cluster=slurm: there is no sbatch and srun"):
        run_all(plan, [])


def test_options_are_sbatchs_own(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, says in (("srun", ""), ("sbatch", "echo 'sbatch: error: invalid partition specified: x' >&2; exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    workers = Cluster({"partition": "x", "gpus-per-node": 1, "time": "2:00:00"})
    executor = workers.executor(plan.runs[0])
    text = executor._make_submission_file_text("the command", "uid")
    for line in ("--partition=x", "--gpus-per-node=1", "--time=2:00:00", "--job-name=Pop-seed-1"):
        assert f"#SBATCH {line}\n" in text
    assert "--time" not in Cluster({}).executor(plan.runs[0])._make_submission_file_text("the command", "uid")
    with pytest.raises(SettingError, match=r"must be options that SLURM takes \(invalid partition specified: x\)"):
        workers.send(plan.runs[0], one.main)
