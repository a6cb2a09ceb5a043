"""What the commands that read a saved model have in common on the command line."""

from __future__ import annotations

import argparse
import io
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from ..common.log import ScreenHandler
from ..errors import UserError
from ..host.titles import read_titles
from ..inference.recommender import Recommender


class Parser(argparse.ArgumentParser):
    """Reads flags with dashes or underscores, whole names only; a mistake is a `UserError`."""

    def __init__(self, command: str, description: str, examples: str) -> None:
        super().__init__(
            prog=f"recbole-diffusion {command}",
            description=description,
            epilog=examples,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument("--debug", action="store_true", help="show the stack of an error")

    def error(self, message: str) -> NoReturn:
        """Raise a `UserError`."""
        raise UserError(f"{message}; --help shows what can be asked for")

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse the arguments."""
        return self.parse_args([re.sub(r"^--[\w-]+", _underscored, word) for word in argv])


def _underscored(flag: re.Match[str]) -> str:
    return "--" + flag[0][2:].replace("-", "_")


def add_model(parser: Parser) -> None:
    """Flags that say which model, and how it draws."""
    group = parser.add_argument_group("model")
    group.add_argument("--checkpoint", required=True, metavar="PATH", help="the saved model; of a folder, the newest")
    group.add_argument("--model", metavar="FILE.py:CLASS", help="its class, where it is neither ours nor RecBole's")
    group.add_argument("--device", help="cpu, cuda or cuda:1; by default a GPU where there is one")
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of inference other than in training, such as lambda_uncertainty=0.1; may be given again",
    )
    group.add_argument("--titles", metavar="FILE:COLUMN", help="titles of the items, where the checkpoint holds none")
    group.add_argument("--steps", type=int, metavar="K", help="reverse steps")
    group.add_argument("--seed", type=int, help="seed of the noise; by default that of the training")
    group.add_argument("--noise_scale", type=float, default=1.0, help="multiplies x_T and the chain's noise (1)")
    group.add_argument("--skip_unknown", action="store_true", help="leave out items that the model does not know")


def tokens(text: str) -> list[str]:
    """The tokens of a list separated by commas."""
    return [token.strip() for token in text.split(",") if token.strip()]


def load(args: argparse.Namespace, data_path: str | None = None) -> Recommender:
    """The recommender that the flags of `add_model` describe, with titles.

    Raises
    ------
    UserError
    """
    settings: dict[str, Any] = {}
    for pair in args.set:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--set={pair}: KEY=VALUE is wanted, as in --set=lambda_uncertainty=0.1")
        settings[key] = value
    recommender = Recommender.load(args.checkpoint, args.device, args.model, settings, data_path)
    if args.titles is not None:
        path, colon, column = args.titles.rpartition(":")
        if not colon:
            raise UserError(f"--titles={args.titles}: FILE:COLUMN is wanted, as in --titles=ml-1m.item:movie_title")
        recommender.vocabulary.entitle(read_titles(path, column))
    return recommender


@contextmanager
def told() -> Iterator[None]:
    """Show warnings on stderr, around the progress bar; letters that stdout does not know become question marks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    handler = ScreenHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
