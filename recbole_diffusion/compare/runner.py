"""Runs of a comparison, one or several at a time, here or on a cluster; a live table while they go."""

from __future__ import annotations

import logging
import shlex
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from time import sleep
from typing import Any, Protocol

from filelock import FileLock, Timeout
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from ..common.extras import require_extra
from ..common.files import write_json
from ..common.log import on_screen, shows_progress
from ..errors import OutOfTime, UserError
from . import one
from .archive import check_archive, pack, unpack
from .data import check_data
from .local import SECONDS_TO_END, Local
from .plan import Plan, Run
from .states import best_so_far, duration, seconds_left, state_of

# Seconds between two looks at the runs.
LOOK_EVERY = 0.5
# Seconds before the deadline at which the runs at work are ended: what they may take, and 2 for the command's own end.
SECONDS_TO_CLOSE = SECONDS_TO_END + 2

logger = logging.getLogger(__name__)


class Work(Protocol):
    """A run at work."""

    def poll(self) -> int | None:
        """Its exit code; None as long as it is at work."""


class Workers(Protocol):
    """Where runs are done: on this machine (`Local`) or on a cluster (`Cluster`)."""

    def require_free(self, runs: Sequence[Run]) -> None:
        """Refuse runs that are at work elsewhere."""

    def found(self, runs: Sequence[Run], task: Callable[[Path], int]) -> dict[Run, Any]:
        """Runs that an earlier command has started and that go on, each as `Work`."""

    def settings(self, run: Run) -> dict[str, Any]:
        """Settings for where the run is done."""

    def start(self, run: Run, task: Callable[[Path], int]) -> Work:
        """Start a run."""

    def ended_by(self, run: Run, code: int) -> str:
        """How a run ended that has left no word."""

    def close(self) -> None:
        """Leave what is at work, or end it."""


def live_table(plan: Plan, states: dict[Run, dict[str, Any]]) -> Table:
    """The state of all runs."""
    metric = plan.runs[0].variant.config["valid_metric"]
    done = sum(state["state"] in ("done", "failed") for state in states.values())
    left = duration(seconds_left(states, plan.jobs))
    table = Table(
        title=f"{escape(plan.dataset)}: {done} of {len(states)} runs ended, time left: {left}", title_justify="left"
    )
    for heading in ("model", plan.runs[0].number_is, "state", "epoch", f"best valid {metric}", "time"):
        table.add_column(heading, justify="left" if heading in ("model", "state") else "right")
    for run, state in states.items():
        style = {"done": "green", "failed": "red", "waiting": "dim"}.get(state["state"], "bold")
        outcome = f"failed: {state['error']}" if state["state"] == "failed" else state["state"]
        spent = duration(state["seconds"]) if state["seconds"] else ""
        # A bracket in a name or an error is no markup.
        table.add_row(
            escape(run.variant.name), str(run.seed), escape(outcome), *best_so_far(run, state), spent, style=style
        )
    return table


class Screen:
    """Shows how the runs go: a live table on a terminal, else a line when a run begins and when it ends.

    Parameters
    ----------
    plan : Plan
    live : Live or None
    """

    def __init__(self, plan: Plan, live: Live | None) -> None:
        self.plan = plan
        self.live = live
        self.states = {run: state_of(run) for run in plan.runs}

    def look(self, run: Run) -> dict[str, Any]:
        """Read a run's state, and show it."""
        self.states[run] = state_of(run)
        if self.live is not None:
            self.live.update(live_table(self.plan, self.states))
        return self.states[run]

    def line(self, run: Run, text: str) -> None:
        """Tell of a run where there is no table."""
        if self.live is None:
            place = self.plan.runs.index(run) + 1
            logger.info("%d of %d: %s: %s", place, len(self.plan.runs), run.title, text)


@contextmanager
def _shown(plan: Plan) -> Iterator[Screen]:
    live = Live(console=Console(stderr=True), refresh_per_second=2) if shows_progress() else None
    with on_screen(logger):
        try:
            for warning in dict.fromkeys(warning for variant in plan.variants for warning in variant.warnings):
                logger.warning(warning)
            with live or nullcontext():
                yield Screen(plan, live)
        except KeyboardInterrupt:
            logger.warning("broken off; the same command goes on from here")
            raise


@contextmanager
def alone(plan: Plan) -> Iterator[None]:
    """Keep other commands out of the folder, and refuse it where one is at work."""
    lock = FileLock(plan.folder / "runs" / ".lock")
    try:
        (plan.folder / "runs").mkdir(parents=True, exist_ok=True)
        # The system gives it up when this process ends, however that may be.
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"output={plan.folder}: another command is at work in it; --output names another") from None
    except OSError as error:
        raise UserError(f"output={plan.folder}: cannot be written to ({error.strerror})") from error
    try:
        yield
    finally:
        lock.release()


def _write_wanted(plan: Plan, run: Run, command: Sequence[str], own: Mapping[str, Any]) -> None:
    """Leave in the run's folder what its process is to do; `own` are settings for where it runs."""
    variant = run.variant
    description = {"name": variant.name, "model": variant.model, "dataset": plan.dataset, "seed": run.seed}
    config = {**variant.config, "seed": run.seed}
    settings = {"settings": {**variant.settings, **own}, "command": shlex.join(command), "jobs": plan.jobs}
    until = plan.deadline.sooner(SECONDS_TO_CLOSE).text()
    write_json(run.folder / "run.json", {**description, **settings, "config": config, "deadline": until})


def _tell_end(screen: Screen, run: Run, how: str) -> None:
    """Tell of a run that has ended, and `how`, should it have left no word itself."""
    if not (run.folder / "record.json").exists() and not (run.folder / "failed.json").exists():
        write_json(run.folder / "failed.json", {"error": how})
    state = screen.look(run)
    if state["state"] == "done":
        left = duration(seconds_left(screen.states, screen.plan.jobs))
        screen.line(
            run, f"done, best valid {best_so_far(run, state)[1]}, {duration(state['seconds'])}; time left: {left}"
        )
    else:
        screen.line(run, f"failed: {state['error']}")


def workers_of(plan: Plan) -> Workers:
    """Where the runs of a plan are done."""
    if plan.cluster is None:
        return Local(plan.jobs)
    require_extra("cluster", f"cluster={plan.cluster}")
    from .cluster import Cluster

    return Cluster(plan.cluster_options or {})


def run_all(plan: Plan, command: Sequence[str]) -> None:
    """Do every run of a plan that is not done; one that fails leaves its error, and the others go on.

    Runs that the plan's archive holds are done; those that are done at the end are added to it, if there is time.

    Parameters
    ----------
    plan : Plan
    command : sequence of str
        What the user typed, for the records.

    Raises
    ------
    UserError
        Where the folder cannot be written to or another process uses it, the archive cannot be used, or the data
        cannot be read or differs between the rows.
    OutOfTime
        Where runs are left when the plan's deadline comes.
    """
    workers = workers_of(plan)
    with alone(plan):
        workers.require_free(plan.runs)
        unpack(plan)
        # A report of runs that are done needs no data.
        if any(state_of(run)["state"] != "done" for run in plan.runs):
            check_data(plan)
            check_archive(plan)
        do_all(plan, workers, one.main, lambda run: _write_wanted(plan, run, command, workers.settings(run)))
        pack(plan)
    states = [state_of(run)["state"] for run in plan.runs]
    left = sum(state not in ("done", "failed") for state in states)
    if left:
        raise OutOfTime(f"deadline: {left} of {len(states)} runs are left; the same command goes on with them")


def do_all(plan: Plan, workers: Workers, task: Callable[[Path], int], describe: Callable[[Run], None]) -> None:
    """Do what is not done, `plan.jobs` runs at a time, until the plan's deadline.

    Parameters
    ----------
    plan : Plan
    workers : Workers
    task : callable
        What does the run of a folder, and gives its exit code; the function `main` of a module of this package.
    describe : callable
        Leaves in a run's folder what the task is to do.
    """
    with _shown(plan) as screen, closing(workers):
        at_work = workers.found([run for run in plan.runs if screen.states[run]["state"] != "done"], task)
        for run in at_work:
            screen.line(run, "is at work")
        waiting = deque(run for run in plan.runs if run not in at_work)
        while waiting or at_work:
            if plan.deadline.left() < SECONDS_TO_CLOSE:
                # What is at work here ends with the block; its last epoch is kept. What is elsewhere ends by itself.
                return
            while waiting and len(at_work) < plan.jobs:
                run = waiting.popleft()
                if screen.look(run)["state"] == "done":
                    screen.line(run, "done before")
                    continue
                (run.folder / "failed.json").unlink(missing_ok=True)
                describe(run)
                screen.line(run, "begins" if not screen.states[run]["epochs"] else "goes on")
                at_work[run] = workers.start(run, task)
            for run, work in list(at_work.items()):
                code = work.poll()
                if code is None:
                    screen.look(run)
                    continue
                del at_work[run]
                if code == OutOfTime.exit_code:
                    waiting.clear()
                    screen.look(run)
                    screen.line(run, "stops before the deadline")
                else:
                    _tell_end(screen, run, workers.ended_by(run, code))
            if at_work:
                sleep(LOOK_EVERY)
