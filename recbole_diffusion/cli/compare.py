"""The commands `compare` and `tune`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..common.extras import require_extra
from ..errors import SettingError, UserError
from ..host.registry import require_recbole
from . import parsers
from .arguments import Parser, names_several
from .help import informed

if TYPE_CHECKING:
    from ..compare.plan import Plan

# What a record says was typed.
COMMAND = ("python", "-m", "recbole_diffusion")


def run(argv: Sequence[str]) -> None:
    """`recbole-diffusion compare`.

    Raises
    ------
    UserError
    """
    _run("compare", parsers.compare_parser(), argv)


def run_tune(argv: Sequence[str]) -> None:
    """`recbole-diffusion tune`.

    Raises
    ------
    UserError
    """
    _run("tune", parsers.tune_parser(), argv)


def _run(command: str, parser: Parser, argv: Sequence[str]) -> None:
    args = parser.read(argv)
    if informed(parser, args):
        return
    if not names_several(args):
        raise UserError(f"{command} needs the models, as in --model_list=DiffuRec,SASRec")
    require_recbole()
    tuning = command == "tune"
    if not tuning and args.settings.get("trials") is not None:
        print("--trials tunes: this is recbole-diffusion tune", file=sys.stderr)
    run_settings(args.settings, args.config_files, [command, *argv], tuning)


def run_settings(
    settings: Mapping[str, Any], config_files: Sequence[str], argv: Sequence[str], tuning: bool = False
) -> None:
    """Compare models, or tune each of them where `trials` is set, and print what came out.

    Parameters
    ----------
    settings : mapping
        The command line, key -> text.
    config_files : sequence of str
    argv : sequence of str
        The command line as it was typed, for the records.
    tuning : bool
        Whether `trials` must be set.

    Raises
    ------
    UserError
        For any mistake in settings or data.
    """
    require_extra("compare", "a comparison")
    from ..compare.plan import make_plan, read_request
    from ..compare.runner import run_all

    request = read_request(settings, config_files, parsers.DEFAULTS["dataset"])
    _require_one_process(request.shared)
    trials = request.own["trials"]
    if tuning and trials is None:
        raise UserError("tune needs the number of trials, as in --trials=8")
    if trials is not None:
        require_extra("tune", "tuning")
        from ..compare.tune import tune_all
        from ..training.memory import keep_freed_memory

        keep_freed_memory()
        print(tune_all(request))
        return
    plan, command = make_plan(request), [*COMMAND, *argv]
    run_all(plan, command)
    results = tell(plan, command)
    failed = [run for run in results["runs"] if run["state"] == "failed"]
    if failed:
        first = f"{failed[0]['name']}, seed {failed[0]['seed']}: {failed[0]['error']}"
        raise UserError(f"{len(failed)} of {len(results['runs'])} runs failed; the first is {first}")


def _require_one_process(settings: Mapping[str, Any]) -> None:
    """Refuse runs of several processes each, and several processes that do the same runs.

    Raises
    ------
    UserError
    """
    from ..training.launch import Place

    for key in ("nproc", "world_size"):
        if str(settings.get(key, 1)) not in ("1", "0", "-1"):
            raise SettingError(
                key, settings[key], must="be left out: each run has one process, and --jobs run at a time"
            )
    if Place.read() is not None:
        raise UserError("compare and tune are started once, without torchrun: they run --jobs processes themselves")


def tell(plan: Plan, command: Sequence[str]) -> dict[str, Any]:
    """Write every form of the report of a plan, print its tables, and give its results."""
    from ..compare.page import write_page
    from ..compare.report import final_table, write_report
    from ..compare.results import collect

    results = collect(plan, command)
    report, page = write_report(plan, results), plan.folder / "report.html"
    write_page(page, {plan.dataset: results})
    print(final_table(results))
    print(f"report: {report}, to look at: {page}")
    return results
