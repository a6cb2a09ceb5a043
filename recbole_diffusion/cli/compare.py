"""The command of the side-by-side mode, behind `--model_list`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from ..compare.plan import make_plan, read_wanted
from ..compare.report import final_table, write_report
from ..compare.results import collect
from ..compare.runner import run_all
from ..errors import SettingError, UserError

COMMAND = ("python", "-m", "recbole_diffusion")


def run(settings: Mapping[str, Any], config_files: Sequence[str], dataset: str, argv: Sequence[str]) -> None:
    """Compare models, or tune each of them where `trials` is set, and print what came out.

    Parameters
    ----------
    settings : mapping
        The command line, key -> text.
    config_files : sequence of str
    dataset : str
        Where nothing names one.
    argv : sequence of str
        The command line as it was typed, for the records.

    Raises
    ------
    UserError
        For any mistake in settings or data.
    """
    wanted = read_wanted(settings, config_files, dataset)
    if wanted.own["trials"] is not None:
        if find_spec("optuna") is None:
            raise SettingError("trials", wanted.own["trials"], "this needs optuna: pip install optuna")
        from ..compare.tune import tune_all

        print(tune_all(wanted))
        return
    plan, command = make_plan(wanted), [*COMMAND, *argv]
    run_all(plan, command)
    results = collect(plan, command)
    report = write_report(plan, results)
    print(final_table(results))
    print(f"report: {report}")
    if not results["users"]:
        raise UserError(f"no run could be done; {results['runs'][0]['error']}")
