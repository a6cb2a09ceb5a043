"""What the commands that read a saved model have in common."""

from __future__ import annotations

import argparse
import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..common.log import ScreenHandler
from ..errors import SettingError, UserError, nearest
from ..host.titles import read_titles
from ..inference.recommender import Recommender
from .arguments import Parser


def load(parser: Parser, args: argparse.Namespace, data_path: str | None = None) -> Recommender:
    """The recommender that the flags of `parsers.add_saved_model` describe, with titles.

    Raises
    ------
    UserError
    """
    try:
        recommender = Recommender.load(args.checkpoint, args.device, args.model, args.settings, data_path)
    except SettingError as error:
        flag = nearest(error.key, parser.flags()) if error.key in args.settings else None
        if flag is None:
            raise
        raise UserError(f"--{error.key}: there is no such flag; did you mean --{flag}?") from error
    if args.titles is not None:
        path, colon, column = args.titles.rpartition(":")
        if not colon:
            raise SettingError("titles", args.titles, must="be FILE:COLUMN, as in ml-1m.item:movie_title")
        titles = read_titles(path, column, item_column=recommender.item_field)
        if not recommender.vocabulary.entitle(titles):
            raise SettingError("titles", args.titles, must="have items of the model in its column of items")
    return recommender


@contextmanager
def warnings_on_stderr() -> Iterator[None]:
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
