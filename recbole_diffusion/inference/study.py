"""Do the figures of certainty mean anything, and what does diversity cost?

`python -m recbole_diffusion.inference.study --checkpoint saved/NAME.pth` asks a diffusion model for the last
interaction of its dataset's users, as a test does, and writes a report with tables and two pictures: accuracy by decile
of uncertainty, and accuracy against diversity as draws and noise scale grow.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from tabulate import tabulate
from tqdm import tqdm

from ..errors import UserError
from ..exit_codes import guarded
from ..log import shows_progress
from . import trajectory
from .arguments import Parser, add_model, load, tokens, told
from .recommender import Options, Recommender

K = 10
DECILES = 10
# A user with fewer interactions has no test item under leave-one-out.
FEWEST = 3
EXAMPLES = """\
examples:
  python -m recbole_diffusion.inference.study --checkpoint saved/M.pth --noise_scales 1,10,100,1000
"""


class HeldOut(NamedTuple):
    """The last interaction of every user, and all before it, by internal ids."""

    users: list[str]
    histories: list[np.ndarray]
    targets: np.ndarray


class Outcome(NamedTuple):
    """What a way to recommend gave, a value a user.

    items : int64 [B, K]
    ndcg, hit : float [B]
    distance, entropy : float [B] or None
        See `certainty.Certainty`; None for a single draw.
    """

    items: np.ndarray
    ndcg: np.ndarray
    hit: np.ndarray
    distance: np.ndarray | None
    entropy: np.ndarray | None


def held_out(recommender: Recommender, most: int | None = None, seed: int = 0) -> HeldOut:
    """The test part of leave-one-out, or `most` of its users drawn at random."""
    users = recommender.users
    rows = np.flatnonzero(np.diff(users.start) >= FEWEST)
    if most is not None and most < len(rows):
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    histories = [users.row(int(row)) for row in rows]
    targets = np.array([history[-1] for history in histories])
    return HeldOut([users.tokens[row] for row in rows], [history[:-1] for history in histories], targets)


def ask(recommender: Recommender, part: HeldOut, options: Options) -> Outcome:
    """Recommend to all of the part."""
    given = recommender.recommend_ids(part.users, part.histories, options)
    items = np.stack([recommender.vocabulary.ids(row) for row in given.items])
    hits = items == part.targets[:, None]
    gain = 1.0 / np.log2(np.arange(2, items.shape[1] + 2))
    measured = given.certainty
    return Outcome(
        items,
        (hits * gain).sum(axis=1),
        hits.any(axis=1).astype(float),
        None if measured is None else np.asarray(measured.distance),
        None if measured is None else np.asarray(measured.entropy),
    )


def list_diversity(items: np.ndarray, embeddings: torch.Tensor) -> float:
    """Mean over lists, int64 [B, K], of the cosine distance between two of their items."""
    vectors = trajectory.directions(embeddings.float().cpu())[torch.from_numpy(items)]
    k = items.shape[1]
    # The sum over all pairs is the squared length of the sum.
    similar = (vectors.sum(dim=1).square().sum(dim=-1) - k) / (k * (k - 1))
    return float(1.0 - similar.mean())


def coverage(items: np.ndarray, n_items: int) -> float:
    """Share of the catalogue that somebody is recommended."""
    return len(np.unique(items)) / n_items


def deciles(outcome: Outcome) -> pd.DataFrame:
    """Accuracy by decile of the distance between draws, the surest users first; errors are standard errors."""
    assert outcome.distance is not None and outcome.entropy is not None
    # By rank, so that users of equal distance do not empty a decile.
    rank = pd.Series(outcome.distance).rank(method="first")
    table = pd.DataFrame(
        {
            "decile": np.ceil(rank / len(rank) * DECILES).astype(int),
            "users": 1,
            "distance": outcome.distance,
            "entropy": outcome.entropy,
            "ndcg": outcome.ndcg,
            "hit": outcome.hit,
        }
    )
    groups = table.groupby("decile")
    means = groups.mean()
    means["users"] = groups.size()
    means["error"] = groups["ndcg"].sem()
    return means.reset_index()


def by_uncertainty(
    recommender: Recommender, part: HeldOut, options: Options, scales: Sequence[float]
) -> tuple[dict[float, pd.DataFrame], list[dict[str, Any]]]:
    """Deciles at each noise scale, and a row of rank correlations for each."""
    tables, rows = {}, []
    lengths = np.array([len(history) for history in part.histories])
    for scale in tqdm(scales, "noise scales", disable=not shows_progress()):
        outcome = ask(recommender, part, replace(options, noise_scale=scale))
        tables[scale] = deciles(outcome)
        assert outcome.distance is not None and outcome.entropy is not None
        rows.append(
            {
                "noise scale": scale,
                "NDCG@10": outcome.ndcg.mean(),
                "Hit@10": outcome.hit.mean(),
                "mean distance": outcome.distance.mean(),
                "mean entropy": outcome.entropy.mean(),
                "ρ(distance, NDCG@10)": _correlation(outcome.distance, outcome.ndcg),
                "ρ(entropy, NDCG@10)": _correlation(outcome.entropy, outcome.ndcg),
                "ρ(distance, history's length)": _correlation(outcome.distance, lengths),
            }
        )
    return tables, rows


def _correlation(figure: np.ndarray, other: np.ndarray) -> str:
    """Spearman's ρ and its p-value, as text; nothing where one of the two does not vary."""
    if np.ptp(figure) == 0 or np.ptp(other) == 0:
        return ""
    found = spearmanr(figure, other)
    return f"{found.statistic:.3f} (p {found.pvalue:.2g})"


def by_draws(
    recommender: Recommender, part: HeldOut, options: Options, scales: Sequence[float], samples: Sequence[int]
) -> list[dict[str, Any]]:
    """Accuracy, diversity and coverage for each noise scale and number of draws, plain and diversified."""
    embeddings = trajectory.embeddings(recommender.model)
    ways = [(scale, number, cover) for scale in scales for number in samples for cover in (False, True)]
    rows = []
    for scale, number, cover in tqdm(
        [way for way in ways if way[1] > 1 or not way[2]], "draws", disable=not shows_progress()
    ):
        asked = replace(options, noise_scale=scale, samples=number, diversify=cover)
        outcome = ask(recommender, part, asked)
        rows.append(
            {
                "noise scale": scale,
                "draws": number,
                "list": "covers the draws" if cover else "mean of the draws",
                "NDCG@10": outcome.ndcg.mean(),
                "Hit@10": outcome.hit.mean(),
                "list diversity": list_diversity(outcome.items, embeddings),
                "coverage": coverage(outcome.items, len(recommender.vocabulary)),
            }
        )
    return rows


def draw_deciles(path: Path, tables: dict[float, pd.DataFrame], title: str) -> None:
    """NDCG@10 by decile, a line for each noise scale."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, (scale, table) in enumerate(tables.items()):
        # Side by side, so that the bars of the errors can be told apart.
        place = table["decile"] + 0.08 * (number - (len(tables) - 1) / 2)
        axes.errorbar(place, table["ndcg"], table["error"], marker="o", capsize=2, label=f"{scale:g}")
    axes.set(xlabel="decile of the distance between draws (1: surest)", ylabel="test NDCG@10", title=title)
    axes.set(ylim=(0, None), xticks=range(1, DECILES + 1))
    axes.legend(title="noise scale; bars: standard error")
    figure.savefig(path, dpi=130)


def draw_trade(path: Path, rows: list[dict[str, Any]], title: str) -> None:
    """NDCG@10 against list diversity and against coverage, a line for each noise scale and kind of list."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5), layout="constrained")
    table = pd.DataFrame(rows)
    scales = list(dict.fromkeys(table["noise scale"]))
    for axes, column in zip(figure.subplots(1, 2, sharey=True), ("list diversity", "coverage"), strict=True):
        for (scale, kind), group in table.groupby(["noise scale", "list"], sort=False):
            covers = kind == "covers the draws"
            style = {"linestyle": "--" if covers else "-", "marker": "s" if covers else "o"}
            label = f"{scale:g}, {kind}"
            axes.plot(group[column], group["NDCG@10"], color=f"C{scales.index(scale)}", label=label, **style)
            for _, row in group.iterrows():
                place = (row[column], row["NDCG@10"])
                axes.annotate(str(row["draws"]), place, fontsize=7, xytext=(3, 3), textcoords="offset points")
        axes.set(xlabel=column, ylabel="test NDCG@10", ylim=(0, 1.1 * table["NDCG@10"].max()))
    axes.legend(title="noise scale, list; numbers: draws", fontsize=7)
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def parser() -> Parser:
    """The flags."""
    made = Parser("study", (__doc__ or "").partition("\n\n")[0], EXAMPLES)
    made.prog = "python -m recbole_diffusion.inference.study"
    add_model(made)
    made.add_argument("--data_path", metavar="DIR", help="the dataset's folder; by default that of training")
    made.add_argument("--noise_scales", default="1,10,100,1000", help="separated by commas (default 1,10,100,1000)")
    made.add_argument("--samples", default="1,4,16", help="numbers of draws, the largest 2 at least (default 1,4,16)")
    made.add_argument("--most_users", type=int, metavar="N", help="N of the test users, drawn with seed 0")
    made.add_argument("--batch_size", type=int, default=512, help="rows at once (default 512)")
    made.add_argument("--output", default="results", metavar="DIR", help="folder of the report (default results)")
    return made


def run(argv: Sequence[str]) -> None:
    """Do what the command line says.

    Raises
    ------
    UserError
    """
    args = parser().read(argv)
    try:
        scales = [float(scale) for scale in tokens(args.noise_scales)]
        samples = sorted(int(number) for number in tokens(args.samples))
    except ValueError as error:
        raise UserError(f"--noise_scales and --samples take numbers separated by commas ({error})") from error
    if not scales or not samples or samples[-1] < 2:
        raise UserError("--noise_scales takes at least one number, and --samples one of 2 or more")
    with told():
        recommender = load(args, args.data_path)
        options = Options(
            K, exclude_seen=False, steps=args.steps, samples=samples[-1], seed=args.seed, batch_size=args.batch_size
        )
        for scale in scales:
            replace(options, noise_scale=scale).check(recommender.model, len(recommender.vocabulary))
        part = held_out(recommender, args.most_users)
        tables, correlations = by_uncertainty(recommender, part, options, scales)
        rows = by_draws(recommender, part, options, scales, samples)
    model, dataset = type(recommender.model).__name__, recommender.dataset
    title = f"{model} on {dataset}, {len(part.users)} test users"
    folder = Path(args.output)
    stem = f"{model}-{dataset}-certainty"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        draw_deciles(folder / f"{stem}-deciles.png", tables, f"{title}, {samples[-1]} draws")
        draw_trade(folder / f"{stem}-trade.png", rows, title)
        command = f"python -m recbole_diffusion.inference.study {' '.join(argv)}"
        text = report(title, command, stem, samples[-1], tables, correlations, rows)
        (folder / f"{stem}.md").write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: the report cannot be written ({error.strerror})") from error
    print(text, end="")


def report(
    title: str,
    command: str,
    stem: str,
    samples: int,
    tables: dict[float, pd.DataFrame],
    correlations: list[dict[str, Any]],
    rows: list[dict[str, Any]],
) -> str:
    """The tables as markdown."""
    by_decile = pd.concat([table.assign(scale=scale) for scale, table in tables.items()])
    by_decile = by_decile[["scale", "decile", "users", "distance", "entropy", "ndcg", "error", "hit"]]
    headers = ["noise scale", "decile", "users", "distance", "entropy", "NDCG@10", "standard error", "Hit@10"]
    formats = ("g", "d", "d", ".4g", ".3f", ".4f", ".4f", ".4f")
    cells = [[format(v, f) for v, f in zip(row, formats, strict=True)] for row in by_decile.itertuples(index=False)]
    return "\n\n".join(
        [
            f"# How sure: {title}",
            f"```sh\n{command}\n```",
            "Leave-one-out: the last interaction of each user is asked for, from all before it; all items are ranked.",
            f"## Accuracy by uncertainty\n\n{samples} draws a user, their mean ranked. Distance: between two draws of "
            "x_0. Entropy: of the draws' best item, in nats. ρ: Spearman's rank correlation over users; a figure that "
            "tells accuracy has a negative one.",
            _markdown(correlations),
            f"![NDCG@10 by decile of uncertainty]({stem}-deciles.png)",
            tabulate(cells, headers, tablefmt="pipe", disable_numparse=True),
            "## Accuracy against diversity\n\nList diversity: mean cosine distance between two items of a list, by "
            "their embeddings. Coverage: share of the catalogue that somebody is recommended among the best 10.",
            _markdown(rows),
            f"![NDCG@10 against diversity]({stem}-trade.png)\n",
        ]
    )


def _markdown(rows: list[dict[str, Any]]) -> str:
    text = [
        {key: f"{value:.4g}" if isinstance(value, float | np.floating) else value for key, value in row.items()}
        for row in rows
    ]
    return tabulate(text, headers="keys", tablefmt="pipe", disable_numparse=True)


if __name__ == "__main__":
    sys.exit(guarded(lambda: run(sys.argv[1:]), debug="--debug" in sys.argv))
