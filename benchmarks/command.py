"""The command line of a benchmark that measures by settings alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recbole_diffusion.cli.parsers import settings_parser


def print_measured(
    program: str,
    help_text: str,
    measure: Callable[[Sequence[str], Mapping[str, Any]], Any],
    argv: Sequence[str],
) -> None:
    """Print what `measure` gives for the property files and settings of a command line, as json, or the help.

    Raises
    ------
    UserError
        For any mistake in arguments, settings or data.
    """
    arguments = settings_parser(program).read(argv)
    if arguments.help or arguments.keys:
        print(help_text, end="")
        return
    print(json.dumps(measure(arguments.config_files, arguments.settings), indent=2))
