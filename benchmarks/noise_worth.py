"""What the noise is worth in several comparisons, as one picture and one table of counts.

`python -m benchmarks.noise_worth compare/ml-100k compare/amazon-beauty --output=noise.webp` reads the `results.json` of
each folder that `recbole-diffusion compare` has written. A line is a model of a comparison against its `-off` row;
controls are left out. The table counts a model with the same settings on the same data once, by the comparison with
most seeds.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from tabulate import tabulate

from recbole_diffusion.cli.exit_codes import run_command
from recbole_diffusion.common.files import atomic_write
from recbole_diffusion.compare.plots import DPI, noise_forest, noise_tests
from recbole_diffusion.compare.report import read_results
from recbole_diffusion.compare.results import is_control
from recbole_diffusion.errors import SettingError
from recbole_diffusion.evaluation.statistics import LEVEL, MARGIN, holm
from recbole_diffusion.host.temporal import SCHEME

COLOURS = 32
# Settings by which the same training may differ from comparison to comparison.
BESIDE_TRAINING = ("data_path", "history_in_ranking")
COUNTED = ("helps", "costs", f"equal within {MARGIN:.0%}", "undecided")


def tests_of(results: Mapping[str, Any]) -> list[tuple[str, dict[str, Any], int]]:
    """Ranking, test and number of seeds of each model against its own `-off` row."""
    seeds = {row["name"]: len(row["seeds"]) for row in results["rows"]}
    return [
        (ranking, test, min(seeds[test["first"]], seeds[test["second"]]))
        for ranking, test in noise_tests(results)
        if not is_control(test)
    ]


def data_of(results: Mapping[str, Any]) -> str:
    """The dataset, and how it is split where that is by time."""
    return f"{results['dataset']} split by time" if SCHEME in results["eval_args"]["split"] else results["dataset"]


def rows_of(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Label of a model, its data and its number of seeds -> ranking -> the test against its `-off` row."""
    rows: dict[str, dict[str, Any]] = {}
    for ranking, test, count in tests_of(results):
        label = f"{test['first']}, {data_of(results)}, {count} seed{'s' if count > 1 else ''}"
        rows.setdefault(label, {})[ranking] = test
    return rows


def once(comparisons: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Ranking -> label -> the test of each model, data and settings, by the comparison with most seeds.

    Parameters
    ----------
    comparisons : mapping
        Name -> results. The label is that of the row and of the comparison.
    """
    best: dict[tuple[str, str], tuple[int, str, dict[str, Any]]] = {}
    for name, results in comparisons.items():
        rows = {row["name"]: row for row in results["rows"]}
        for ranking, test, count in tests_of(results):
            row = rows[test["first"]]
            settings = {key: value for key, value in row["settings"].items() if key not in BESIDE_TRAINING}
            pair = json.dumps([row["model"], data_of(results), settings], sort_keys=True)
            if (ranking, pair) not in best or count > best[ranking, pair][0]:
                best[ranking, pair] = count, f"{test['first']} of {name}", test
    chosen: dict[str, dict[str, dict[str, Any]]] = {}
    for (ranking, _), (_, label, test) in best.items():
        chosen.setdefault(ranking, {})[label] = test
    return chosen


def worth(test: Mapping[str, Any]) -> str:
    """Which of `COUNTED` a test of a model against its `-off` row says."""
    if test["ndcg_significant"]:
        return "helps" if test["difference"] > 0 else "costs"
    return COUNTED[2] if test["equivalent"] else "undecided"


def counts(chosen: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """How often the noise helps, costs or does neither, a ranking a row, and what remains if all pairs are corrected.

    A finding is corrected for the pairs of its comparison. What remains is significant by Holm's correction for all
    pairs of its ranking too.
    """
    table, remaining = [], []
    for ranking, tests in chosen.items():
        found = [worth(test) for test in tests.values()]
        table.append([ranking, len(found), *map(found.count, COUNTED)])
        corrected = holm([test["wilcoxon"] for test in tests.values()])
        left = [
            f"{label} ({finding})"
            for (label, test), finding, p in zip(tests.items(), found, corrected, strict=True)
            if test["ndcg_significant"] and p < 1 - LEVEL
        ]
        remaining.append(f"{ranking}, corrected for all {len(found)} pairs: {', '.join(left) or 'none'}")
    return "\n\n".join([tabulate(table, ["", "pairs", *COUNTED], tablefmt="pipe"), *remaining])


def run(argv: Sequence[str]) -> None:
    """Read the comparisons, write the picture and print the table.

    Raises
    ------
    UserError
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noise_worth", description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="+", type=Path, help="folder of a comparison")
    parser.add_argument("--output", type=Path, default=Path("noise.webp"), help="the picture (default: %(default)s)")
    args = parser.parse_args(argv)
    comparisons = {folder.name: read_results(folder) for folder in args.folder}
    rows: dict[str, dict[str, Any]] = {}
    for name, results in comparisons.items():
        for label, tests in rows_of(results).items():
            # The same model and data in two comparisons are two lines.
            rows[label if label not in rows else f"{label} ({name})"] = tests
    if not rows:
        raise SettingError("folder", str(args.folder[0]), must="hold a comparison with a model and its -off row")
    drawn = io.BytesIO()
    noise_forest(rows).savefig(drawn, dpi=DPI)
    with atomic_write(args.output) as part, Image.open(drawn) as picture:
        # A fraction of the bytes, and lines and letters need no more colours.
        few = picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).convert("RGB")
        few.save(part, "WEBP", lossless=True, quality=100, method=6)
    print(f"{counts(once(comparisons))}\n\npicture: {args.output}")


if __name__ == "__main__":
    sys.exit(run_command(lambda: run(sys.argv[1:])))
