from __future__ import annotations

import os
from pathlib import Path

import pytest
from small_plans import small_plan

from recbole_diffusion.compare import jobs
from recbole_diffusion.compare.plan import Plan
from recbole_diffusion.compare.runner import run_all
from recbole_diffusion.errors import UserError


@pytest.fixture
def plan() -> Plan:
    """Two runs, for which jobs 9 and 10 were sent."""
    plan = small_plan(model_list="Pop", seeds="1,2")
    for run, numbers in zip(plan.runs, ((7, 9), (10, 8)), strict=True):
        (run.folder / jobs.JOBS).mkdir(parents=True)
        for number in numbers:
            (run.folder / jobs.JOBS / f"{number}_submitted.pkl").touch()
    return plan


def squeue(says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a squeue in the path that says something."""
    Path("bin").mkdir()
    Path("bin/squeue").write_text(f"#!/bin/sh\n{says}\n")
    Path("bin/squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path('bin').resolve()}{os.pathsep}{os.environ['PATH']}")


def test_the_last_job_of_a_run(plan: Plan) -> None:
    assert [jobs.job_of(run) for run in plan.runs] == ["9", "10"]
    assert jobs.job_of(small_plan(model_list="Pop", seeds="3").runs[0]) is None


@pytest.mark.parametrize(
    ("says", "expected"),
    [
        ("echo '9 RUNNING'", {"9": "RUNNING", "10": jobs.FORGOTTEN}),
        (
            "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1",
            {"9": jobs.FORGOTTEN, "10": jobs.FORGOTTEN},
        ),
        # No answer is no news.
        ("echo 'Unable to contact slurm controller' >&2; exit 1", {}),
    ],
)
def test_states(says: str, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    squeue(says, monkeypatch)
    assert jobs.states_of(["9", "10"]) == expected


def test_a_job_at_work_is_not_disturbed_from_here(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue("printf '9 COMPLETED\\n10 PENDING\\n'", monkeypatch)
    with pytest.raises(
        UserError, match="job 10 trains Pop, seed 2 in it; --cluster=slurm follows it, and `scancel 10`"
    ):
        run_all(plan, [])
