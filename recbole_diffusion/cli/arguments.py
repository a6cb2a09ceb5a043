"""How a command line is read: argparse, and any setting as `--KEY=VALUE` or `--KEY VALUE`."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from ..errors import SettingError, UserError

SHORT_FLAGS = ("-m", "-d", "-h")


class Parser(argparse.ArgumentParser):
    """Reads flags with dashes or underscores, whole names only; a mistake is a `UserError`.

    Parameters
    ----------
    prog : str
        What the user types before the flags.
    description, examples : str
        Shown by --help above and below the flags.
    **options
        As `argparse.ArgumentParser` takes them.
    """

    def __init__(
        self,
        prog: str,
        description: str = "",
        examples: str = "",
        **options: Any,
    ) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=examples,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )
        self.add_argument("--debug", action="store_true", help="show the stack of an error")

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError`."""
        raise UserError(f"{message}; --help lists the flags")

    def print_help(self, file: Any = None) -> None:
        """Print the help; unlike argparse's own it does not hide that nobody reads it."""
        print(self.format_help(), end="", file=file)

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse the arguments.

        Returns
        -------
        Namespace
            With `settings`, key -> text, of the flags that the parser does not know, and `config_files`.

        Raises
        ------
        UserError
            For a stray word, a flag without a value, or one that is given two values.
        """
        words = [_with_underscores(word) for word in argv]
        for word in words:
            if "\0" in word:
                raise UserError(f"{word!r}: a NUL stands in no name and no value")
            if (word == "--" or re.match(r"-[A-Za-z]", word)) and word.partition("=")[0] not in SHORT_FLAGS:
                raise UserError(f"{word}: there is no such flag; settings are written --KEY=VALUE")
        args, others = self.parse_known_args(words, argparse.Namespace(settings={}, config_files=[]))
        _read_settings(others, args.settings)
        return args

    def flags(self) -> set[str]:
        """Names of the flags, without dashes."""
        return {option[2:] for option in self._option_string_actions if option.startswith("--")}


class SettingFlag(argparse.Action):
    """A documented flag that is a setting like all others: kept as text, and given once."""

    def __init__(self, **options: Any) -> None:
        super().__init__(default=argparse.SUPPRESS, **options)

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        _put(namespace.settings, self.dest, values)


class ConfigFiles(argparse.Action):
    """Names of files separated by spaces, or one whose name has spaces; may be given again."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        namespace.config_files.extend([values] if Path(values).is_file() else values.split())


def given_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings of the files and, stronger than these, of the command line.

    Raises
    ------
    UserError
        For a file that cannot be read.
    """
    from ..host.parsing import read_yaml

    given: dict[str, Any] = {}
    for file in args.config_files:
        given |= read_yaml(file)
    return given | args.settings


def names_several(args: argparse.Namespace) -> bool:
    """Whether command line or files name the rows of a comparison."""
    return not given_settings(args).keys().isdisjoint(("model_list", "variants"))


def number(key: str, kind: type[int] | type[float]) -> Callable[[str], Any]:
    """Reads the number that a flag of that name holds; a mistake is a `SettingError`."""

    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise SettingError(key, text, must="be a whole number" if kind is int else "be a number") from None

    return read


def tokens(text: str) -> list[str]:
    """The tokens of a list separated by commas, or of a json list, in which they may hold commas and outer spaces."""
    if text.lstrip().startswith("["):
        with suppress(ValueError):
            listed = json.loads(text)
            if all(type(token) in (str, int) for token in listed):
                return [str(token) for token in listed]
    return [token.strip() for token in text.split(",") if token.strip()]


def _with_underscores(word: str) -> str:
    return re.sub(r"^--[\w-]+", lambda flag: "--" + flag[0][2:].replace("-", "_"), word)


def _read_settings(words: Sequence[str], settings: dict[str, Any]) -> None:
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        name, given, value = word.partition("=")
        if not re.fullmatch(r"--\w[\w.-]*", name):
            problem = "there is no such flag" if word.startswith("-") else "stands alone"
            raise UserError(f"{word}: {problem}; settings are written --KEY=VALUE")
        if not given:
            if not waiting or _is_flag(waiting[0]):
                raise UserError(f"{name} must have a value, as in {name}=VALUE")
            value = waiting.pop(0)
        # A dash behind a dot too, as in --NAME.some-key.
        _put(settings, name[2:].replace("-", "_"), value)


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not re.match(r"-\.?\d", word)


def _put(settings: dict[str, Any], key: str, value: str) -> None:
    if settings.setdefault(key, value) != value:
        raise UserError(f"--{key} must be given once, got {settings[key]} and {value}")
