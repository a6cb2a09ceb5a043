"""The command `recbole-diffusion`, also `python -m recbole_diffusion`, and the table of what it can do."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

from ..common.version import __version__
from ..errors import UserError, suggestion
from .arguments import Parser
from .exit_codes import run_command
from .parsers import PROGRAM
from .train import run_script

EXAMPLES = f"""\
examples:
  {PROGRAM} train --model=DiffuRec --dataset=ml-100k
  {PROGRAM} compare --model_list=DiffuRec,SASRec --dataset=ml-100k
  {PROGRAM} tune --model_list=DiffuRec,SASRec --trials=8
  {PROGRAM} report compare/ml-100k compare/ml-1m
  {PROGRAM} evaluate --checkpoint saved/DiffuRec-ml-100k-....pth --history_in_ranking=both
  {PROGRAM} recommend --checkpoint saved/DiffuRec-ml-100k-....pth --history 50,172,1
  {PROGRAM} explain --checkpoint saved/DiffuRec-ml-100k-....pth --history 50,172,1
  {PROGRAM} explore --checkpoint saved/DiffuRec-ml-100k-....pth --checkpoint saved/SASRec-ml-100k-....pth
  {PROGRAM} COMMAND --help
"""


class Command(NamedTuple):
    """What a command does, and the function of this folder that does it."""

    about: str
    module: str
    function: str = "run"


COMMANDS = {
    "train": Command("train and test a model", "train"),
    "compare": Command("train and test several models side by side", "compare"),
    "tune": Command("search the settings of each model by validation", "compare", "run_tune"),
    "report": Command("several comparisons in one html file", "report"),
    "evaluate": Command("test a saved model again, without training", "evaluate"),
    "recommend": Command("the next items for histories or users, from a saved model", "recommend"),
    "explore": Command("a page in the browser that asks one saved model, or two side by side", "explore"),
    "explain": Command("the reverse process of a saved model on one history, step by step", "explain"),
}


def overview() -> Parser:
    """What there is before a command is named."""
    parser = Parser(PROGRAM, "Diffusion models for sequential recommendation, on RecBole.", EXAMPLES)
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name, command in COMMANDS.items():
        # For the overview alone: the flags of a command are read by its own parser.
        commands.add_parser(name, help=command.about)
    return parser


def run(argv: Sequence[str]) -> None:
    """Do what the command line says; flags without a command are the script's.

    Raises
    ------
    UserError
    """
    if argv and argv[0] in COMMANDS:
        command = COMMANDS[argv[0]]
        getattr(importlib.import_module(f".{command.module}", __package__), command.function)(argv[1:])
    elif not argv or list(argv) in (["help"], ["-h"], ["--help"]):
        overview().print_help()
    elif list(argv) == ["--version"]:
        print(f"{PROGRAM} {__version__}")
    elif argv[0].startswith("-"):
        run_script(argv)
    else:
        hint = suggestion(argv[0], COMMANDS)
        raise UserError(f"{argv[0]}: there is no such command; there are {', '.join(COMMANDS)}{hint}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; give the exit code, see `exit_codes.run_command`.

    Parameters
    ----------
    argv : sequence of str, optional
        By default that of the process.
    """
    argv = sys.argv[1:] if argv is None else argv
    return run_command(lambda: run(argv), debug="--debug" in argv)


if __name__ == "__main__":
    sys.exit(main())
