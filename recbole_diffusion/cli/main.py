"""The command `recbole-diffusion`: train, compare, recommend, explain."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence

from .. import __version__
from ..errors import UserError, suggestion
from . import train as cli
from .exit_codes import run_command

HELP = """\
usage: recbole-diffusion COMMAND [--FLAG=VALUE ...]

commands:
  train      train and test a model, as run_recbole_diffusion.py does
  compare    the same for several models side by side: --model_list=DiffuRec,SASRec
  recommend  the next items for histories or users, from a saved model
  explain    the reverse process of a saved model on one history, step by step

examples:
  recbole-diffusion train --model=DiffuRec --dataset=ml-100k
  recbole-diffusion recommend --checkpoint saved/DiffuRec-ml-100k-....pth --history 50,172,1
  recbole-diffusion COMMAND --help
"""


def _recommend(argv: Sequence[str]) -> None:
    from .recommend import run

    run(argv)


def _explain(argv: Sequence[str]) -> None:
    from .explain import run

    run(argv)


# Those that read a saved model; training's are the script's own.
INFERENCE: dict[str, Callable[[Sequence[str]], None]] = {"recommend": _recommend, "explain": _explain}
COMMANDS = ("train", "compare", *INFERENCE)


def _overview(argv: Sequence[str]) -> None:
    command = argv[0] if argv else "--help"
    if command in ("--help", "-h", "help"):
        print(HELP, end="")
    elif command == "--version":
        print(f"recbole-diffusion {__version__}")
    else:
        raise UserError(
            f"{command}: no such command; one of {', '.join(COMMANDS)} is wanted{suggestion(command, COMMANDS)}"
        )


def _no_models() -> None:
    raise UserError("compare: the models are wanted, as in --model_list=DiffuRec,SASRec")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; give the exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        By default that of the process.

    Returns
    -------
    int
        See `exit_codes.run_command`.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in COMMANDS:
        return run_command(lambda: _overview(argv))
    command, rest = argv[0], argv[1:]
    if command in INFERENCE:
        return run_command(lambda: INFERENCE[command](rest), debug="--debug" in rest)
    if command == "compare" and not any(re.match(r"--model[_-]list(=|$)|--help$|-h$", word) for word in rest):
        return run_command(_no_models)
    return cli.main(rest)


if __name__ == "__main__":
    sys.exit(main())
