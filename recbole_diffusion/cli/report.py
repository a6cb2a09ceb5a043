"""The command `report`: several comparisons in one file to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..common.extras import require_extra
from . import parsers


def run(argv: Sequence[str]) -> None:
    """`recbole-diffusion report`.

    Raises
    ------
    UserError
    """
    args = parsers.report_parser().parse_args(argv)
    require_extra("compare", "a report")
    from ..compare.page import write_page
    from ..compare.report import read_results

    by_label = {}
    for folder in map(Path, args.folders):
        results = read_results(folder)
        label = results["dataset"]
        # Of a dataset, the second comparison is told from the first by its folder.
        by_label[f"{label} ({folder})" if label in by_label else label] = results
    write_page(Path(args.output), by_label)
    print(f"report: {args.output}")
