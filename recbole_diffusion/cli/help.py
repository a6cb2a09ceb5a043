"""What --version, --help and --keys print."""

from __future__ import annotations

import argparse

from ..common.version import __version__
from ..host.registry import find_model, require_recbole
from . import parsers
from .arguments import Parser, given_settings


def informed(parser: Parser, args: argparse.Namespace) -> bool:
    """Print the version, the help or the settings where these are asked for; gives whether that was all."""
    if args.version:
        print(f"{parsers.PROGRAM} {__version__}")
    elif args.help and not args.settings.keys() & {"model", "model_list"}:
        parser.print_help()
    elif args.keys or args.help:
        require_recbole()
        print_keys(args, of_comparison=parser.prog.endswith((" compare", " tune")) or "model_list" in args.settings)
    else:
        return False
    return True


def print_keys(args: argparse.Namespace, of_comparison: bool) -> None:
    """Print the property files that hold for a model on a dataset, or for a comparison, as they stand."""
    if of_comparison:
        files = [parsers.COMPARE_FILE]
        print(f"Settings of a comparison; {parsers.PROGRAM} train --keys --model=NAME prints those of a model.")
    else:
        from ..host.settings import default_files

        given = {**parsers.DEFAULTS, **given_settings(args)}
        model, dataset = given["model"], given["dataset"]
        files = default_files(find_model(model), dataset)
        print(f"Settings of {model} on {dataset}; of a key that stands in several files the last one holds.")
    for file in files:
        print(f"\n--- {file}\n\n{file.read_text(encoding='utf-8').strip()}")
