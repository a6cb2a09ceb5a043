"""The command `train`, and the script, which compares or tunes several models too."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import UserError
from ..host.registry import find_model, require_recbole
from . import parsers
from .arguments import Parser
from .exit_codes import run_command
from .parsers import DEFAULTS


def layers(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Command line and files, the strongest first."""
    from ..host.parsing import read_yaml

    return [args.settings, *reversed([read_yaml(file) for file in args.config_files])]


def names_several(args: argparse.Namespace) -> bool:
    """Whether command line or files name the rows of a comparison."""
    return any(key in layer for layer in layers(args) for key in ("model_list", "variants"))


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
    files: Sequence[Path]
    if of_comparison:
        files = [parsers.COMPARE_FILE]
        print(f"Settings of a comparison; {parsers.PROGRAM} train --keys --model=NAME prints those of a model.")
    else:
        from ..host.settings import default_files

        model, dataset = _chosen(args, "model"), _chosen(args, "dataset")
        files = default_files(find_model(model), dataset)
        print(f"Settings of {model} on {dataset}; of a key that stands in several files the last one holds.")
    for file in files:
        print(f"\n--- {file}\n\n{file.read_text(encoding='utf-8').strip()}")


def _chosen(args: argparse.Namespace, key: str) -> str:
    """Model or dataset: by the command line, else by the last file that names it, else the default."""
    return next((layer[key] for layer in layers(args) if key in layer), DEFAULTS[key])


def train(args: argparse.Namespace) -> None:
    """Train and test one model, and print the table of its metrics.

    Raises
    ------
    UserError
        For any mistake in settings or data.
    """
    model, dataset = _chosen(args, "model"), _chosen(args, "dataset")
    from ..training.launch import is_first
    from ..training.memory import keep_freed_memory
    from ..training.run import train_and_test

    keep_freed_memory()
    result = train_and_test(model, dataset, args.config_files, args.settings)
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
        from .compare import run_settings

        run_settings(args.settings, args.config_files, DEFAULTS["dataset"], argv)
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
