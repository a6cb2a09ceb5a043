"""The command `recommend`: from a saved model to lists of items, on the screen or in a file."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..common.log import shows_progress
from ..errors import SettingError, UserError
from ..host.registry import require_recbole
from . import parsers
from .arguments import tokens

if TYPE_CHECKING:  # else --help would wait for torch
    import numpy as np

    from ..inference.recommender import Options, Recommender
    from ..inference.results import Recommendations

logger = logging.getLogger(__name__)

# Inputs that are answered together.
CHUNK = 2048


class Query(NamedTuple):
    """One input: whose, and the history by internal ids, or why there is none."""

    user: str
    history: np.ndarray | None
    problem: str | None = None


def run(argv: Sequence[str]) -> None:
    """`recbole-diffusion recommend`.

    Raises
    ------
    UserError
        For a mistake, and at the end where some inputs could not be answered.
    """
    parser = parsers.recommend_parser()
    args = parser.read(argv)
    require_recbole()

    from ..inference.recommender import Options
    from .saved_model import load, warnings_on_stderr

    with warnings_on_stderr():
        recommender = load(parser, args, args.data_path)
        options = Options(
            args.topk,
            exclude_seen=not args.include_seen,
            inference_steps=args.inference_steps,
            inference_seeds=args.inference_seeds,
            seed=args.seed,
            temperature=args.temperature,
            diversify=args.diversify,
            skip_unknown=args.skip_unknown,
            batch_size=args.batch_size,
        )
        options.check(recommender.model, len(recommender.vocabulary))
        several = args.input is not None or args.users == "all"
        if args.output is None and args.output_format is None and not several:
            _print_tables(args, recommender, options)
        else:
            _write(args, recommender, options)


def _print_tables(args: argparse.Namespace, recommender: Recommender, options: Options) -> None:
    from tabulate import tabulate

    answered, failed = _answer(list(_queries(args, recommender)), recommender, options)
    for row, record in enumerate(answered.records()):
        if args.users is not None:
            print(f"{chr(10) if row else ''}user {record['user']}")
        if not record["items"]:
            print("no item is left: the history holds all of them; --include_seen lists them again")
            continue
        columns: dict[str, Any] = {"item": record["items"], "score": record["scores"]}
        columns |= {"title": record["titles"]} if "titles" in record else {}
        columns |= {name: record[name] for name in ("share", "mean", "spread") if name in record}
        print(tabulate(columns, headers="keys", floatfmt=".4g", disable_numparse=[0]))
        if "distance" in record:
            distance, entropy = (f"{record[name]:.4g}" for name in ("distance", "entropy"))
            print(f"distance between the samples {distance}, entropy of their best item {entropy}")
    _require_all_answered(failed, failed + len(answered))


def _write(args: argparse.Namespace, recommender: Recommender, options: Options) -> None:
    from ..inference import lines
    from ..inference.writing import open_output, output_format

    path = args.output or "-"
    kind = output_format(path, args.output_format)
    if args.input is not None and not lines.comes_once(args.input):
        # A mistake in the input is said before anything is written.
        lines.input_format(args.input, args.input_format)
        with lines.opened(args.input):
            pass
        if path != "-" and Path(path).exists() and Path(path).samefile(args.input):
            raise SettingError("output", path, must="be another file than the input, which it would replace")
    queries, total = _queries(args, recommender), _total(args, recommender)
    done = failed = 0
    with open_output(path, kind) as write, _progress_bar(total) as bar:
        while chunk := list(islice(queries, CHUNK)):
            answered, unanswered = _answer(chunk, recommender, options)
            done, failed = done + len(chunk), failed + unanswered
            write(answered)
            bar.update(len(chunk))
    _require_all_answered(failed, done)


def _progress_bar(total: int | None) -> Any:
    """A bar of users, where somebody sees it."""
    from tqdm import tqdm

    return tqdm(total=total, unit=" users", disable=not shows_progress())


def _queries(args: argparse.Namespace, recommender: Recommender) -> Iterator[Query]:
    """The inputs, in their order."""
    if args.history is not None:
        yield Query("1", recommender.vocabulary.ids(tokens(args.history), args.skip_unknown))
    elif args.users == "all":
        known = recommender.users
        for row, token in enumerate(known.tokens):
            yield _of_user(token, partial(known.row, row, args.skip_unknown))
    elif args.users is not None:
        users = tokens(args.users)
        if not users:
            raise SettingError("users", args.users, must="be users of the dataset, separated by commas, or all")
        known = recommender.users
        for token in users:
            yield _of_user(token, partial(known.of, token, args.skip_unknown))
    else:
        yield from _of_file(args, recommender)


def _of_user(token: str, history: Callable[[], np.ndarray]) -> Query:
    try:
        return Query(token, history())
    except UserError as error:
        problem = str(error)
        return Query(token, None, problem if problem.startswith("user ") else f"user {token!r}: {problem}")


def _of_file(args: argparse.Namespace, recommender: Recommender) -> Iterator[Query]:
    from ..inference import lines

    name = "stdin" if args.input == "-" else args.input
    with lines.opened(args.input) as file:
        for line in lines.read_lines(file, name, lines.input_format(args.input, args.input_format)):
            where = f"{name}, line {line.number}"
            if line.problem is not None:
                yield Query(line.user, None, f"{where}: {line.problem}")
                continue
            try:
                yield Query(line.user, recommender.vocabulary.ids(line.history, args.skip_unknown))
            except UserError as error:
                yield Query(line.user, None, f"{where}: {error}")


def _total(args: argparse.Namespace, recommender: Recommender) -> int | None:
    if args.input is None:
        return len(recommender.users) if args.users == "all" else None
    from ..inference import lines

    count = lines.count_lines(args.input) if shows_progress() else None
    header = lines.input_format(args.input, args.input_format) == "csv"
    return None if count is None else count - header


def _answer(queries: list[Query], recommender: Recommender, options: Options) -> tuple[Recommendations, int]:
    """Answer the queries that have a history; say why the others have none, and how many these are."""
    good = [(query.user, query.history) for query in queries if query.history is not None]
    for query in queries:
        if query.problem is not None:
            logger.warning(query.problem)
    answered = recommender.recommend_ids([user for user, _ in good], [history for _, history in good], options)
    return answered, len(queries) - len(good)


def _require_all_answered(failed: int, total: int) -> None:
    if failed:
        raise UserError(f"{failed} of {total} inputs could not be answered, for the reasons above")
