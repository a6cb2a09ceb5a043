"""The jobs of runs, as SLURM and the runs' folders know them."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from ..errors import UserError
from .plan import Run

# In a run's folder, where submitit keeps what it sends, what came of it, and the logs.
JOBS = "jobs"
# What is said of a job that SLURM does not know any more.
FORGOTTEN = "forgotten"
# Of one that the cluster took away from its run.
TAKEN = {"PREEMPTED", "NODE_FAIL", "BOOT_FAIL"}
# Of one that is over; every other state is of a job that waits or runs.
OVER = {"CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "OUT_OF_MEMORY", "TIMEOUT", FORGOTTEN, *TAKEN}


def job_of(run: Run) -> str | None:
    """The number of the last job that was sent for a run; None where none was."""
    numbers = [file.name.partition("_")[0] for file in (run.folder / JOBS).glob("*_submitted.pkl")]
    return max(numbers, key=int, default=None)


def states_of(jobs: Sequence[str]) -> dict[str, str]:
    """What SLURM says of jobs, by their numbers; `FORGOTTEN` of those that it does not know any more.

    Returns
    -------
    dict
        Empty where SLURM does not answer.
    """
    command = ["squeue", "--noheader", "--states=all", "--format=%A %T", f"--jobs={','.join(jobs)}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    if answer.returncode and "Invalid job id" not in answer.stderr:
        return {}
    return dict.fromkeys(jobs, FORGOTTEN) | dict(line.split() for line in answer.stdout.splitlines())


def require_no_jobs(runs: Sequence[Run]) -> None:
    """Refuse runs that jobs are at work on, where a command does them without the cluster.

    Raises
    ------
    UserError
    """
    jobs = {job: run for run in runs if (job := job_of(run)) is not None}
    for job, state in states_of(list(jobs)).items() if jobs else ():
        if state not in OVER:
            way_out = f"--cluster=slurm follows it, and `scancel {job}` ends it"
            raise UserError(f"{jobs[job].folder}: job {job} trains {jobs[job].title} in it; {way_out}")
