"""What the noise is worth in several comparisons, as one picture.

`python -m benchmarks.noise_worth compare/ml-100k compare/amazon-beauty --output=noise.png` reads the `results.json` of
each folder that `recbole-diffusion compare` has written. A line is a model of a comparison against its `-off` row;
controls are left out.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from recbole_diffusion.cli.exit_codes import run_command
from recbole_diffusion.common.files import atomic_write
from recbole_diffusion.compare.plots import DPI, noise_forest, noise_tests
from recbole_diffusion.compare.report import read_results
from recbole_diffusion.compare.results import is_control
from recbole_diffusion.errors import SettingError
from recbole_diffusion.host.temporal import SCHEME

COLOURS = 64


def rows_of(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Label of a model, its data and its number of seeds -> ranking -> the test against its `-off` row."""
    seeds = {row["name"]: len(row["seeds"]) for row in results["rows"]}
    data = f"{results['dataset']} split by time" if SCHEME in results["eval_args"]["split"] else results["dataset"]
    rows: dict[str, dict[str, Any]] = {}
    for ranking, test in noise_tests(results):
        if is_control(test):
            continue
        count = min(seeds[test["first"]], seeds[test["second"]])
        label = f"{test['first']}, {data}, {count} seed{'s' if count > 1 else ''}"
        rows.setdefault(label, {})[ranking] = test
    return rows


def run(argv: Sequence[str]) -> None:
    """Read the comparisons and write the picture.

    Raises
    ------
    UserError
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.noise_worth", description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="+", type=Path, help="folder of a comparison")
    parser.add_argument("--output", type=Path, default=Path("noise.png"), help="the picture (default: %(default)s)")
    args = parser.parse_args(argv)
    rows: dict[str, dict[str, Any]] = {}
    for folder in args.folder:
        for label, tests in rows_of(read_results(folder)).items():
            # The same model and data in two comparisons are two lines.
            rows[label if label not in rows else f"{label} ({folder.name})"] = tests
    if not rows:
        raise SettingError("folder", str(args.folder[0]), must="hold a comparison with a model and its -off row")
    drawn = io.BytesIO()
    noise_forest(rows).savefig(drawn, dpi=DPI)
    with atomic_write(args.output) as part, Image.open(drawn) as picture:
        # A third of the bytes, and lines and letters need no more colours.
        picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(part, "PNG", optimize=True)
    print(f"picture: {args.output}")


if __name__ == "__main__":
    sys.exit(run_command(lambda: run(sys.argv[1:])))
