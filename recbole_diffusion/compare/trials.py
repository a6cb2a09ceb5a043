"""The trials of the tuning that a comparison's settings come from."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import UserError
from .archive import read_archive
from .plan import Plan, file_name

PARAMETER = "params_"
# Where an archive keeps what a tuning wrote.
TUNED = "tuned"


def tuning_of(plan: Plan) -> dict[str, list[dict[str, Any]]]:
    """The trials of each row or model of a plan that was tuned, from the folder `tuned` or else from the archive.

    Returns
    -------
    dict
        Name -> trials, each with `number`, `state`, `value` (validation score, None where there is none), `seconds`,
        `epochs` (how many it has had, None where that was not noted) and `settings`. Empty where nothing is known of a
        tuning.

    Raises
    ------
    UserError
        For a table that cannot be read.
    """
    names = dict.fromkeys(name for variant in plan.variants for name in (variant.name, variant.model))
    if plan.tuned is not None:
        files = {name: plan.tuned / file_name(name) / "trials.csv" for name in names}
        tables = {name: file.read_bytes() for name, file in files.items() if file.is_file()}
    else:
        members = {} if plan.archive is None else read_archive(plan.archive)
        paths = {name: Path(TUNED, file_name(name), "trials.csv").as_posix() for name in names}
        tables = {name: members[path] for name, path in paths.items() if path in members}
    return {name: _trials(name, table) for name, table in tables.items()}


def _trials(name: str, table: bytes) -> list[dict[str, Any]]:
    try:
        rows = pd.read_csv(io.BytesIO(table)).to_dict("records")
        return [_trial(row) for row in rows]
    except (ValueError, KeyError) as error:
        raise UserError(f"tuned: the trials of {name} must be a table as tune writes it ({error})") from error


def _trial(row: dict[Any, Any]) -> dict[str, Any]:
    known = {str(key): value for key, value in row.items() if pd.notna(value)}
    return {
        "number": int(known["number"]),
        "state": str(known["state"]).lower(),
        "value": known.get("value"),
        "seconds": known.get("user_attrs_seconds"),
        "epochs": int(known["user_attrs_epochs"]) if "user_attrs_epochs" in known else None,
        "settings": {key.removeprefix(PARAMETER): known[key] for key in known if key.startswith(PARAMETER)},
    }


def budget_lines(tuning: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What each model's tuning took, as lines of a list."""
    lines = []
    for name, trials in tuning.items():
        pruned = sum(trial["state"] == "pruned" for trial in trials)
        # Those of earlier versions did not note them.
        epochs = [trial["epochs"] for trial in trials if trial.get("epochs") is not None]
        budget = f", {sum(epochs)} epochs" if epochs else ""
        lines.append(f"- {name}: {len(trials)} trials, {pruned} of them pruned{budget}")
    return lines
