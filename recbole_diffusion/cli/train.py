"""The command `train`, and the script, which compares or tunes several models too."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from ..errors import UserError
from ..host.registry import require_recbole
from . import compare, parsers
from .arguments import given_settings, names_several
from .exit_codes import run_command
from .help import informed
from .parsers import DEFAULTS


def train(args: argparse.Namespace) -> None:
    """Train and test one model, and print the table of its metrics.

    Raises
    ------
    UserError
        For any mistake in settings or data.
    """
    from ..training.launch import is_first
    from ..training.memory import keep_freed_memory
    from ..training.run import train_and_test

    keep_freed_memory()
    given = {**DEFAULTS, **given_settings(args)}
    result = train_and_test(given["model"], given["dataset"], args.config_files, args.settings)
    if is_first():
        print(result.table())


def run(argv: Sequence[str]) -> None:
    """`recbole-diffusion train`.

    Raises
    ------
    UserError
    """
    parser = parsers.train_parser()
    args = parser.read(argv)
    if informed(parser, args):
        return
    require_recbole()
    if names_several(args):
        raise UserError(f"train takes one model; for several there are {parsers.PROGRAM} compare and tune")
    train(args)


def run_script(argv: Sequence[str]) -> None:
    """`run_recbole_diffusion.py`: train, or compare or tune where several models are named.

    Raises
    ------
    UserError
    """
    parser = parsers.script_parser()
    args = parser.read(argv)
    if informed(parser, args):
        return
    require_recbole()
    if names_several(args):
        compare.run_settings(args.settings, args.config_files, argv)
    else:
        train(args)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; give the exit code, see `exit_codes.run_command`.

    Parameters
    ----------
    argv : sequence of str, optional
        By default that of the process.
    """
    argv = sys.argv[1:] if argv is None else argv
    return run_command(lambda: run_script(argv), debug="--debug" in argv)
