"""The command `recommend`: from a saved model to lists of items, on the screen or in a file."""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from ..common.log import shows_progress
from ..errors import UserError
from ..inference import lines
from ..inference.histories import UserHistories
from ..inference.recommender import Options, Recommender
from ..inference.results import Recommendations
from ..inference.writing import FileOutput, ScreenOutput, output_format
from .arguments import Parser, add_model, load, tokens, told

logger = logging.getLogger(__name__)

EXAMPLES = """\
examples:
  recbole-diffusion recommend --checkpoint saved/M.pth --history 50,172,1
  recbole-diffusion recommend --checkpoint saved/M.pth --users 196,186 --samples 16
  recbole-diffusion recommend --checkpoint saved/M.pth --users all --output recs.parquet
  recbole-diffusion recommend --checkpoint saved/M.pth --input histories.jsonl --output recs.csv --resume

An input of jsonl holds {"user": "7", "history": ["50", "172"]} in each line, or the list alone; one of csv has a column
history, its items separated by spaces, and perhaps a column user. A line that cannot be answered is told by its number,
the others are answered, and the exit code is 2.
"""
# Inputs that are answered between two looks at the disk.
LOT = 2048


class Ask(NamedTuple):
    """One input: whose, and the history by internal ids, or why there is none."""

    user: str
    history: np.ndarray | None
    problem: str | None = None


def parser() -> Parser:
    """The flags."""
    made = Parser("recommend", "Recommend the next items with a saved model.", EXAMPLES)
    add_model(made)
    whose = made.add_argument_group("for whom, one of").add_mutually_exclusive_group(required=True)
    whose.add_argument("--history", metavar="ITEMS", help="tokens of items, oldest first, separated by commas")
    whose.add_argument("--users", metavar="USERS", help="users of the dataset, separated by commas, or `all`")
    whose.add_argument("--input", metavar="FILE", help="a file with a history in each line; - for stdin")
    made.add_argument("--input_format", choices=lines.INPUT_FORMATS, help="by default the input's ending; stdin: jsonl")
    made.add_argument(
        "--data_path", metavar="DIR", help="the dataset's folder, for --users; by default that of training"
    )
    what = made.add_argument_group("what")
    what.add_argument("--topk", type=int, default=10, metavar="K", help="items of a list (default 10)")
    what.add_argument("--include_seen", action="store_true", help="items of the history may be recommended again")
    what.add_argument(
        "--samples", type=int, metavar="S", help="draws for each history; two or more tell how sure it is"
    )
    what.add_argument("--diversify", action="store_true", help="a list that covers the draws instead of their mean")
    what.add_argument("--batch_size", type=int, default=512, help="rows at once; bounds the memory (default 512)")
    where = made.add_argument_group("where to")
    where.add_argument(
        "--output", metavar="FILE", help="a file of csv, jsonl or parquet; - for stdout (default: a table)"
    )
    where.add_argument("--output_format", choices=("csv", "jsonl", "parquet"), help="by default the output's ending")
    where.add_argument("--resume", action="store_true", help="go on with an output that was broken off")
    return made


def run(argv: Sequence[str]) -> None:
    """Do what the command line says.

    Raises
    ------
    UserError
        For a mistake, and at the end where some inputs could not be answered.
    """
    args = parser().read(argv)
    with told():
        recommender = load(args, args.data_path)
        options = Options(
            args.topk,
            exclude_seen=not args.include_seen,
            steps=args.steps,
            samples=args.samples,
            seed=args.seed,
            noise_scale=args.noise_scale,
            diversify=args.diversify,
            skip_unknown=args.skip_unknown,
            batch_size=args.batch_size,
        )
        options.check(recommender.model, len(recommender.vocabulary))
        several = args.input is not None or args.users == "all"
        if args.output is None and not several:
            _print_tables(args, recommender, options)
        else:
            _write(args, recommender, options)


def _print_tables(args: argparse.Namespace, recommender: Recommender, options: Options) -> None:
    answered, failed = _answer(list(_asks(args, recommender)), recommender, options)
    for row, record in enumerate(answered.records()):
        if args.users is not None:
            print(f"{chr(10) if row else ''}user {record['user']}")
        columns: dict[str, Any] = {"item": record["items"], "score": record["scores"]}
        columns |= {name: record[f"{name}s"] for name in ("title",) if f"{name}s" in record}
        columns |= {name: record[name] for name in ("share", "mean", "spread") if name in record}
        print(tabulate(columns, headers="keys", floatfmt=".4g", disable_numparse=[0]))
        if "distance" in record:
            print(f"distance of the draws {record['distance']:.4g}, entropy of their best item {record['entropy']:.4g}")
    _tell_failed(failed, failed + len(answered))


def _write(args: argparse.Namespace, recommender: Recommender, options: Options) -> None:
    to_screen = args.output in (None, "-")
    kind = output_format(args.output or "-", args.output_format)
    if args.input is not None:
        # A file that is not there is told before anything is written.
        lines.input_format(args.input, args.input_format)
        if not lines.comes_once(args.input):
            with lines.opened(args.input):
                pass
    output: ScreenOutput | FileOutput
    if to_screen:
        if args.resume:
            raise UserError("--resume: only an --output file can be gone on with")
        output = ScreenOutput(kind)
    else:
        output = FileOutput(args.output, kind, _fingerprint(args, recommender), args.resume)
    if output.complete:
        logger.warning("%s is there, and no part of a run that was broken off: nothing to go on with", args.output)
        return
    done, failed, _ = output.progress
    asks = _asks(args, recommender)
    for _ in islice(asks, done):
        pass
    total = _total(args, recommender)
    try:
        with tqdm(total=total, initial=done, unit=" users", disable=not shows_progress()) as bar:
            while lot := list(islice(asks, LOT)):
                answered, without = _answer(lot, recommender, options)
                done, failed = done + len(lot), failed + without
                output.write(answered, done, failed)
                bar.update(len(lot))
    except KeyboardInterrupt:
        if not to_screen:
            logger.warning("broken off; to go on, run the same with --resume")
        raise
    output.finish()
    _tell_failed(failed, done)


def _asks(args: argparse.Namespace, recommender: Recommender) -> Iterator[Ask]:
    """What is asked for, in its order."""
    vocabulary = recommender.vocabulary
    if args.history is not None:
        yield Ask("1", vocabulary.ids(tokens(args.history), args.skip_unknown))
    elif args.users == "all":
        known = recommender.users
        for row, token in enumerate(known.tokens):
            yield Ask(token, known.row(row))
    elif args.users is not None:
        users = tokens(args.users)
        if not users:
            raise UserError(f"--users={args.users}: users of the dataset are wanted, separated by commas, or all")
        for token in users:
            yield _of_user(recommender.users, token)
    else:
        name = "stdin" if args.input == "-" else args.input
        with lines.opened(args.input) as file:
            for line in lines.read_lines(file, name, lines.input_format(args.input, args.input_format)):
                where = f"{name}, line {line.number}"
                if line.problem is not None:
                    yield Ask(line.user, None, f"{where}: {line.problem}")
                    continue
                try:
                    yield Ask(line.user, vocabulary.ids(line.history, args.skip_unknown))
                except UserError as error:
                    yield Ask(line.user, None, f"{where}: {error}")


def _of_user(users: UserHistories, token: str) -> Ask:
    try:
        return Ask(token, users.of(token))
    except UserError as error:
        return Ask(token, None, str(error))


def _total(args: argparse.Namespace, recommender: Recommender) -> int | None:
    if args.input is not None:
        count = lines.count_lines(args.input) if shows_progress() else None
        header = lines.input_format(args.input, args.input_format) == "csv"
        return None if count is None else count - header
    return len(recommender.users) if args.users == "all" else None


def _answer(lot: list[Ask], recommender: Recommender, options: Options) -> tuple[Recommendations, int]:
    """Answer those that can be; tell why the others cannot, and how many they are."""
    good = [(ask.user, ask.history) for ask in lot if ask.history is not None]
    for ask in lot:
        if ask.problem is not None:
            logger.warning(ask.problem)
    answered = recommender.recommend_ids([user for user, _ in good], [history for _, history in good], options)
    return answered, len(lot) - len(good)


def _tell_failed(failed: int, asked: int) -> None:
    if failed:
        raise UserError(f"{failed} of {asked} inputs could not be answered, for the reasons above")


def _fingerprint(args: argparse.Namespace, recommender: Recommender) -> str:
    """What decides the content of the output, so that a part is gone on with by the same command only."""
    content = {
        key: value for key, value in vars(args).items() if key not in ("resume", "debug", "device", "batch_size")
    }
    # Not the checkpoint as it was given, which may be a folder; and what comes once is not to be used up here.
    files = [recommender.path, *([args.input] if args.input and not lines.comes_once(args.input) else [])]
    content["files"] = [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
