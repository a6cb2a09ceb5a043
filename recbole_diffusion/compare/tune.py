"""Each model's own small, stated space searched by validation alone, with the same number of trials for all."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from optuna.trial import TrialState
from tabulate import tabulate

from ..common.deadline import Deadline
from ..common.files import write_json
from ..common.log import on_screen
from ..errors import OutOfTime, UserError
from . import trial
from .plan import Plan, Request, Run, Variant, file_name, make_variants
from .runner import SECONDS_TO_CLOSE, alone, do_all, workers_of
from .states import state_of
from .study import counted, epochs_of, own_point, write_trials
from .trial import Search

logger = logging.getLogger(__name__)


def _search(search: Search) -> None:
    """Do the trials of a model in this process, until the study has all of them."""
    trials, metric = search.own["trials"], search.variant.config["valid_metric"]
    while (number := search.do_next()) is not None:
        write_trials(search.study, search.folder, metric, trials)
        ended = search.study.get_trials(deepcopy=False)[number]
        outcome = ended.user_attrs.get("error") or (f"{ended.value:.4f}" if ended.value is not None else "")
        state = f"{ended.state.name.lower()} after {ended.user_attrs.get('epochs', 0)} epochs"
        place = f"{search.variant.name}, trial {counted(search.study)} of {trials}"
        logger.info("%s: %s %s %s", place, state, outcome, ended.params)


def _row(search: Search) -> dict[str, str]:
    """What was found, as a row of the table; it is written to the model's folder as well."""
    study, metric = search.study, search.variant.config["valid_metric"]
    write_trials(study, search.folder, metric, search.own["trials"])
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    best = study.best_params if done else {}
    return {
        "model": search.variant.name,
        "trials": str(counted(study)),
        "pruned": str(len(pruned)),
        "epochs": str(epochs_of(study)),
        f"best valid {metric}": f"{study.best_value:.4f}" if done else "none",
        "best settings": ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in best.items()),
    }


def _plan(request: Request, variants: list[Variant], root: Path) -> Plan:
    """The trials of all models as runs, each in a folder of its own."""
    numbers = range(1, request.own["trials"] + 1)
    runs = [
        Run(variant, number, root / file_name(variant.name) / "trials" / str(number), "trial")
        for variant in variants
        for number in numbers
    ]
    own, latex = request.own, (root / "valid.tex", root / "test.tex")
    until = Deadline.read(own["deadline"])
    options = own["cluster_options"]
    return Plan(request.dataset, root, runs, *latex, None, own["jobs"], None, None, until, own["cluster"], options)


def _search_by_jobs(request: Request, plan: Plan) -> None:
    """Do the trials of all models, each in a process of its own, `jobs` at a time.

    Raises
    ------
    UserError
        Where processes have failed.
    OutOfTime
    """
    workers, until = workers_of(plan), plan.deadline.sooner(SECONDS_TO_CLOSE).text()

    def describe(run: Run) -> None:
        variant = asdict(run.variant)
        variant["settings"] |= workers.settings(run)
        own = {**request.own, "deadline": until}
        wanted = {"dataset": request.dataset, "own": own, "variant": variant, "root": str(plan.folder)}
        write_json(run.folder / "trial.json", wanted)

    with alone(plan):
        workers.require_free(plan.runs)
        do_all(plan, workers, trial.main, describe)
    states = {run: state_of(run) for run in plan.runs}
    failed = [run for run, state in states.items() if state["state"] == "failed"]
    if failed:
        first = f"{failed[0].title}: {states[failed[0]]['error']}"
        raise UserError(f"{len(failed)} of {len(states)} trials failed; the first is {first}")
    left = sum(state["state"] != "done" for state in states.values())
    if left:
        raise OutOfTime(f"deadline: {left} of {len(states)} trials are left")


def tune_all(request: Request) -> str:
    """Tune each model that the user names; gives the table of what was best.

    The folder is `output`, by default `tune/<dataset>`; in it a folder a model has `study.journal`, which several
    processes may share, `trials.csv` and `best.yaml`, which a comparison takes by `--tuned`.

    Raises
    ------
    UserError
    OutOfTime
        Where trials are left when the deadline comes. The one at work goes on later.
    """
    root = Path(request.own["output"] or Path("tune", file_name(request.dataset)))
    # All of them before the first is tuned, so that a mistake in the last shows now.
    variants = make_variants(request._replace(own={**request.own, "off_switch": False}))
    for variant in variants:
        own_point(variant, request.own["space"])
    searches = [Search.open(variant, request, root) for variant in variants]
    for search in searches:
        write_trials(search.study, search.folder, search.variant.config["valid_metric"], request.own["trials"])
    try:
        if request.own["jobs"] > 1 or request.own["cluster"] is not None:
            _search_by_jobs(request, _plan(request, variants, root))
        else:
            with on_screen(logger):
                for search in searches:
                    _search(search)
    except OutOfTime as ended:
        raise OutOfTime(f"{ended}; the same command goes on with the trials that are left") from None
    table = tabulate([_row(search) for search in searches], headers="keys", disable_numparse=True)
    return f"{table}\nto compare them so: --tuned={root}"
