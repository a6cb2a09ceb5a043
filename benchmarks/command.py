"""The command line of a benchmark that measures by settings alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recbole_diffusion.cli.parsers import settings_parser
from recbole_diffusion.errors import SettingError


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


def whole_numbers(key: str, text: str | None, default: Sequence[int]) -> list[int]:
    """Different positive numbers, ascending, of a flag such as `1,2,4`; the default where it is not given.

    Raises
    ------
    SettingError
    """
    if text is None:
        return list(default)
    parts = [part.strip() for part in text.strip("[]").split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise SettingError(key, text, must="be positive whole numbers, such as 1,2,4")
    return sorted(set(map(int, parts)))
