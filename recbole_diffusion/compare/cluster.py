"""Runs as jobs of SLURM, which submitit sends: a job a run. They go on when the command that sent them has ended."""

from __future__ import annotations

import logging
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common.files import read_json
from ..errors import SettingError, UserError
from ..training.memory import keep_freed_memory
from .jobs import JOBS, OVER, TAKEN, job_of, states_of
from .local import search_path
from .plan import Run

# Seconds between two questions to SLURM, and seconds until a file that a job has written can be seen here.
ASK_EVERY = 5
SECONDS_TO_SEE = 30

# Whose lines stand on the screen among the runner's.
logger = logging.getLogger(f"{__package__}.runner.cluster")


class Task:
    """What a job does: `main(folder)`. A job that is broken off and queued again does the same, and goes on by itself.

    Parameters
    ----------
    main : callable
        Does the run of a folder, from where it was broken off; gives its exit code.
    folder : Path
    """

    def __init__(self, main: Callable[[Path], int], folder: Path) -> None:
        self.main, self.folder = main, folder
        self.epochs = 0

    def __call__(self) -> int:
        """Do it, in a process that is the job's own."""
        # SLURM may queue a job again that came to its end after all.
        if (self.folder / "record.json").exists():
            return 0
        keep_freed_memory()
        self.epochs = self._epochs()
        return self.main(self.folder)

    def _epochs(self) -> int:
        return len(read_json(self.folder / "progress.json").get("epochs", []))

    def checkpoint(self) -> Any:
        """What submitit queues when the job's time is nearly over; None where the time is too short for an epoch."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(Task(self.main, self.folder)) if self._epochs() > self.epochs else None


class Job:
    """A run at work on the cluster.

    Parameters
    ----------
    cluster : Cluster
    run : Run
    number : str
    task : callable
    """

    def __init__(self, cluster: Cluster, run: Run, number: str, task: Callable[[Path], int]) -> None:
        self.cluster, self.run, self.number, self.task = cluster, run, number, task
        self.over, self.how = False, ""
        self._over_since: float | None = None

    def poll(self) -> int | None:
        """The exit code; None as long as the job waits or runs. One that the cluster has taken away is sent again."""
        code = self._code()
        self.over = code is not None
        return code

    def _code(self) -> int | None:
        state = self.cluster.state(self.number)
        if (self.run.folder / JOBS / f"{self.number}_0_result.pkl").exists():
            return self._result()
        if state is None or state not in OVER:
            return None
        if state in TAKEN:
            before, self.number = self.number, self.cluster.send(self.run, self.task)
            logger.info("%s: job %s ended as %s; sent again as job %s", self.run.title, before, state, self.number)
            return None
        self._over_since = self._over_since or time.monotonic()
        if time.monotonic() - self._over_since < SECONDS_TO_SEE:
            return None
        self.how = f"job {self.number} ended as {state}, with no word of its own; its log is {self._log()}"
        return 1

    def _result(self) -> int:
        """The exit code that the job has left."""
        import submitit

        try:
            return submitit.SlurmJob(self.run.folder / JOBS, self.number).result()
        except submitit.core.utils.FailedJobError as error:
            # The last line of a trace between two lines of dashes.
            said = str(error).split("-" * 22)[1].strip().splitlines()[-1]
            self.how = f"job {self.number} ended by {said}; its log is {self._log()}"
            return 1

    def _log(self) -> Path:
        return self.run.folder / JOBS / f"{self.number}_0_log.err"


class Cluster:
    """Sends runs as jobs, and finds those that an earlier command has sent.

    Parameters
    ----------
    options : mapping
        Options of sbatch for each job, by their long names, such as `partition` or `gpus-per-node`.

    Raises
    ------
    UserError
        Where this machine cannot send jobs.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        if shutil.which("sbatch") is None or shutil.which("srun") is None:
            raise UserError(
                "cluster=slurm: there is no sbatch and srun; start the command on a machine that sends jobs"
            )
        self.options = {str(key).replace("-", "_"): value for key, value in options.items()}
        self._jobs: dict[Run, Job] = {}
        self._states: dict[str, str] = {}
        self._asked = 0.0

    def require_free(self, runs: Sequence[Run]) -> None:
        """Nothing is in the way: jobs at work are followed."""

    def found(self, runs: Sequence[Run], task: Callable[[Path], int]) -> dict[Run, Job]:
        """Runs whose jobs wait or run."""
        for run in runs:
            number = job_of(run)
            if number is not None:
                self._jobs[run] = Job(self, run, number, task)
        for run, job in list(self._jobs.items()):
            if self.state(job.number) in OVER:
                del self._jobs[run]
        return dict(self._jobs)

    def settings(self, run: Run) -> dict[str, Any]:
        """SLURM shows a job its own GPUs alone, so that all settings stay."""
        return {}

    def start(self, run: Run, task: Callable[[Path], int]) -> Job:
        """Send a run.

        Raises
        ------
        SettingError
            Where SLURM refuses the job.
        """
        self._jobs[run] = Job(self, run, self.send(run, task), task)
        return self._jobs[run]

    def send(self, run: Run, task: Callable[[Path], int]) -> str:
        """Send a job; gives its number.

        Raises
        ------
        SettingError
            Where SLURM refuses it.
        """
        from submitit.core.utils import FailedJobError

        try:
            return self.executor(run).submit(Task(task, run.folder.absolute())).job_id
        except FailedJobError as error:
            lines = [line.strip() for line in str(error).splitlines() if "error:" in line] or [str(error)]
            said = re.sub(r"^sbatch: error: ", "", lines[0])
            raise SettingError("cluster_options", self.options, must=f"be options that SLURM takes ({said})") from error

    def executor(self, run: Run) -> Any:
        """What sends the job of a run."""
        import submitit

        class Executor(submitit.SlurmExecutor):  # type: ignore[misc]
            """Leaves the time of a job to its partition, where the user does: submitit itself needs a number."""

            leaves_time = "time" not in self.options

            def _make_submission_file_text(self, command: str, uid: str) -> str:
                text = super()._make_submission_file_text(command, uid)
                return re.sub(r"#SBATCH --time=.*\n", "", text) if self.leaves_time else text

        # As often as a job's time is over after another epoch: see Task.checkpoint.
        executor = Executor(run.folder / JOBS, max_num_timeout=sys.maxsize)
        executor.update_parameters(
            job_name=re.sub(r"[^\w.+-]+", "-", run.title),
            setup=[
                f"export PYTHONPATH={shlex.quote(search_path())}",
                "export OMP_NUM_THREADS=${SLURM_CPUS_PER_TASK:-1}",
            ],
            additional_parameters=self.options,
        )
        return executor

    def state(self, number: str) -> str | None:
        """What SLURM says of a job that was found or sent here; None where it has not answered."""
        if time.monotonic() - self._asked > ASK_EVERY:
            self._asked = time.monotonic()
            self._states |= states_of([job.number for job in self._jobs.values() if not job.over])
        return self._states.get(number)

    def ended_by(self, run: Run, code: int) -> str:
        """How a job ended that has left no word."""
        return self._jobs[run].how

    def close(self) -> None:
        """Say what goes on without this command."""
        left = [job.number for job in self._jobs.values() if not job.over]
        if left:
            logger.warning("jobs %s go on; `scancel %s` ends them", ", ".join(left), " ".join(left))
