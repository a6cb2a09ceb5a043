"""The finished runs of a comparison, tested again in another way from the models that they kept."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..common.files import read_json, write_json
from ..common.log import on_screen, run_logging
from ..errors import SettingError, UserError
from ..evaluation.environment import commit_of, machine, versions
from ..host.registry import find_model
from ..inference.restoring import class_of
from ..inference.testing import changeable_in_test, changed_config, metrics_of, reopen, write_ranks
from ..training import checkpoint
from ..training.process import process_as_found
from .one import accuracy_by_steps, timed
from .plan import Plan, Run, Variant, check_same, description_of, plain_config

logger = logging.getLogger(__name__)

ENDING = "-evaluated"


def plan_of(folder: Path, names: Sequence[str] = ()) -> Plan:
    """The finished runs of a folder as the plan of a comparison.

    Parameters
    ----------
    folder : Path
    names : sequence of str
        Rows that come first, in order; by default those of the folder's report.

    Raises
    ------
    UserError
        Where there is none.
    """
    found = [file.parent for file in sorted(folder.glob("runs/*/*/record.json"))]
    descriptions = {run: description_of(run) for run in found}
    if not found:
        raise UserError(f"{folder}: no finished run is in this folder")
    names = names or [row["name"] for row in read_json(folder / "results.json").get("rows", [])]
    runs = []
    for name in dict.fromkeys([*names, *(run["name"] for run in descriptions.values())]):
        of_it = sorted(
            (run for run in found if descriptions[run]["name"] == name), key=lambda run: descriptions[run]["seed"]
        )
        if of_it:
            first = descriptions[of_it[0]]
            seeds = [descriptions[run]["seed"] for run in of_it]
            variant = Variant(name, first["model"], first["settings"], first["config"], seeds, [])
            runs += [Run(variant, descriptions[run]["seed"], run) for run in of_it]
    latex = (folder / "valid.tex", folder / "test.tex")
    return Plan(descriptions[found[0]]["dataset"], folder, runs, *latex, against=None, jobs=1, archive=None)


def reevaluate(
    folder: Path,
    output: str | None,
    changes: Mapping[str, Any],
    model: str | None = None,
    command: Sequence[str] = (),
) -> Plan:
    """Test every finished run of a comparison again; what is done already stays as it is.

    Parameters
    ----------
    folder : Path
        Of the comparison; it is not changed.
    output : str or None
        Folder of the new one; by default the old one's name and `ENDING`.
    changes : mapping
        Settings that are to be others than in training; one of a kind of model holds for the runs that have it.
    model : str, optional
        `FILE.py:CLASS` of runs whose model is neither ours nor RecBole's.
    command : sequence of str
        What the user typed, for the records.

    Returns
    -------
    Plan
        The runs of the new one.

    Raises
    ------
    UserError
        For a setting that no run can be given, a run that kept no model, and where the output holds other runs.
    """
    plan = plan_of(folder)
    # The folder may be ".", which has no name of its own.
    whole = Path(os.path.abspath(folder))
    target = whole.with_name(whole.name + ENDING) if output is None else Path(output)
    if target.resolve() == folder.resolve():
        raise SettingError("output", str(target), must="be another folder than that of the comparison")
    for run in plan.runs:
        if not (run.folder / "model.pth").is_file():
            way_out = "archives leave models out; a comparison in another folder without --archive trains it again"
            raise UserError(f"{run.folder}: no model.pth is kept of {run.title}; {way_out}")
    known = {key for variant in plan.variants for key in changeable_in_test(_class_of(variant, model))}
    for key, value in changes.items():
        if key not in known:
            raise SettingError(key, value, must=f"be one that may change after training: {', '.join(sorted(known))}")
    with on_screen(logger):
        for place, run in enumerate(plan.runs, start=1):
            new = target / run.folder.relative_to(folder)
            tested, seconds = timed(_test, run, new, changes, model, command)
            outcome = f"{seconds:.0f} s" if tested else "done before"
            logger.info("%d of %d: %s: %s", place, len(plan.runs), run.title, outcome)
    return plan_of(target, [variant.name for variant in plan.variants])


def _class_of(variant: Variant, model: str | None) -> type:
    """The class of a row. A folder may come from anybody, so that no file that it names is run: `model` names it."""
    name = variant.config["model"]
    given = model if model is not None and find_model(model).__name__ == name else None
    return class_of(variant.name, name, given)


@process_as_found()
def _test(run: Run, new: Path, changes: Mapping[str, Any], model: str | None, command: Sequence[str]) -> bool:
    """Test a run and write its files into the folder `new`; False where that was done before."""
    path = run.folder / "model.pth"
    state = checkpoint.load_model(path)
    model_class = _class_of(run.variant, model)
    own = {key: value for key, value in changes.items() if key in changeable_in_test(model_class)}
    config = changed_config(path, state, model_class, own)
    modes = config["eval_args"]["mode"]
    if set(modes.values()) != {"full"}:
        raise SettingError("eval_args.mode", modes, must="be full: a comparison ranks all items")
    settings = {**run.variant.settings, **{key: config[key] for key in own if key != "seed"}}
    # Training followed the metric that it had.
    shown = {**plain_config(config), "valid_metric": state["config"]["valid_metric"]}
    variant = Variant(run.variant.name, run.variant.model, settings, shown, run.variant.seeds, [])
    before = description_of(new)
    otherwise = "choose another folder by --output"
    check_same(Run(variant, run.seed, new), before, f"output={new}", otherwise)
    if before and before["config"]["seed"] != config["seed"]:
        was, now = before["config"]["seed"], config["seed"]
        raise UserError(f"output={new}: it was tested with seed={was} there, not {now}; set it so, or {otherwise}")
    if (new / "record.json").is_file():
        return False
    with run_logging(config):
        opened = reopen(path, state, config)
        for warning in config.warnings:
            logger.warning(warning)
        metrics, seconds = timed(metrics_of, opened)
        write_ranks(new / "ranks.npz", opened)
        by_steps = accuracy_by_steps(opened.model, opened.trainer, opened.test_data)
    description = read_json(run.folder / "run.json")
    write_json(new / "run.json", {**description, "settings": settings, "config": variant.config})
    record = {
        **read_json(run.folder / "record.json"),
        "config": variant.config,
        "valid_result": metrics["best_valid_result"],
        "test_result": metrics["test_result"],
        "by_steps": by_steps,
        # The rest is of the training.
        "evaluated": {
            "command": shlex.join(command),
            "checkpoint": str(path),
            "seconds": seconds,
            "versions": versions(),
            "commit": commit_of(Path(__file__)),
            "machine": machine(config["device"]),
        },
    }
    write_json(new / "record.json", record)
    return True
