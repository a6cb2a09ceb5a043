"""The report that people look at: one html file of tables and charts, which needs nothing from elsewhere.

What it shows is put together here; `web/` holds its template, style and code, which build on those of `common/web/`.
The code sees names, errors and settings as text alone.
"""

from __future__ import annotations

import html
import json
import shlex
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from plotly.offline import get_plotlyjs

from ..common import pages
from ..common.files import write_text
from ..errors import UserError
from ..evaluation.protocols import TITLES, results_by_protocol
from ..evaluation.ranks import K
from ..evaluation.statistics import LEVEL
from .plan import IGNORED
from .report import finding, how_measured, how_noise, how_set_up, how_tested, how_timed
from .results import COSTS, has_controls

# In the order in which they build on one another.
CODE = ("state.js", "leaderboard.js", "pairs.js", "charts.js", "main.js")
OF_RANKING = ("users", "pairs", "estimates", "bold", "by_length", "by_popularity", "by_cut", "by_steps")
OF_ROW = ("name", "model", "seeds", "failed", "parameters", "epochs", "best_epoch", *COSTS)


def write_page(path: Path, by_label: Mapping[str, dict[str, Any]]) -> None:
    """Write the report of one comparison or several.

    Parameters
    ----------
    path : Path
    by_label : mapping
        What the report calls each comparison, such as its dataset -> its results, as `results.collect` gives them.

    Raises
    ------
    UserError
        Where the file cannot be written, or results lack what the report shows.
    """
    title = f"{', '.join(by_label)}: models side by side"
    data = {
        "comparisons": [_checked(label, results) for label, results in by_label.items()],
        "protocols": TITLES,
        "level": LEVEL,
        "k": K,
    }
    parts = {
        "title": html.escape(title),
        "style": pages.style(__package__, "report.css"),
        "data": pages.embedded(data),
        "plotly": get_plotlyjs(),
        "code": pages.code(__package__, *CODE),
    }
    write_text(path, pages.filled(pages.web_text(__package__, "report.html"), parts))


def _checked(label: str, results: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return _comparison(label, results)
    except KeyError as error:
        again = "run the command of that comparison again, which trains nothing that is done"
        raise UserError(f"results.json of {label} lacks {error}, as of an earlier version; {again}") from error


def _comparison(label: str, results: Mapping[str, Any]) -> dict[str, Any]:
    rankings, runs = results_by_protocol(results), results["runs"]
    return {
        "label": label,
        "command": results["command"],
        "seeds": results["seeds"],
        "valid_metric": results["valid_metric"],
        "valid_metric_bigger": results["valid_metric_bigger"],
        "validated_by": next(iter(rankings)),
        "rankings": {protocol: _ranking(of_it) for protocol, of_it in rankings.items()},
        "rows": [_row(row, [run for run in runs if run["name"] == row["name"]]) for row in results["rows"]],
        "curves": [_curve(run) for run in runs],
        "tuning": results["tuning"],
        "notes": {
            "setup": how_set_up(results),
            "measured": how_measured(results, "★: significantly"),
            "tested": how_tested(results, "Significant:"),
            "timed": how_timed(results),
            "noise": how_noise(results).replace("*", ""),
        },
    }


def _ranking(results: Mapping[str, Any]) -> dict[str, Any]:
    rows = [{key: row[key] for key in ("name", "test", "valid") if key in row} for row in results["rows"]]
    noise = [{**pair, "finding": finding(pair).replace("*", "")} for pair in results["noise"]]
    return {
        "rows": rows,
        "noise": noise,
        "controls": has_controls(results),
        **{key: results[key] for key in OF_RANKING},
    }


def _row(row: Mapping[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    config = runs[0].get("config", {})
    settings = {key: value for key, value in config.items() if key not in IGNORED}
    return {**{key: row[key] for key in OF_ROW if key in row}, "settings": settings, "command": row_command(runs[0])}


def row_command(run: Mapping[str, Any]) -> str:
    """The command that does a run of a comparison by itself."""
    settings = {"model": run["model"], "dataset": run["dataset"], **run["settings"], "seed": run["seed"]}
    # What is text came from a command line, or is the same in yaml; of all else json is yaml too.
    values = {key: value if isinstance(value, str) else json.dumps(value) for key, value in settings.items()}
    return shlex.join(["recbole-diffusion", "train", *(f"--{key}={value}" for key, value in values.items())])


def _curve(run: Mapping[str, Any]) -> dict[str, Any]:
    epochs = run.get("epochs", [])
    seconds = accumulate(epoch["train_seconds"] for epoch in epochs)
    return {
        "name": run["name"],
        "seed": run["seed"],
        "best_epoch": run.get("best_epoch"),
        "best": run.get("best_valid_score"),
        "epoch": [epoch["epoch"] for epoch in epochs],
        "minutes": [one / 60 for one in seconds],
        "valid": [epoch.get("valid_score") for epoch in epochs],
        "loss": [epoch["loss"] for epoch in epochs],
    }
