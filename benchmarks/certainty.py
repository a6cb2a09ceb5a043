"""Do the figures of certainty mean anything, are the probabilities right, and what does diversity cost?

`python -m benchmarks.certainty --checkpoint saved/NAME.pth` asks a diffusion model for the last
interaction of its dataset's users, as a test does, and writes a report with tables and two pictures: accuracy by decile
of uncertainty, and accuracy against diversity as draws and noise scale grow. A model without noise (`diffusion: False`)
gets the parts of the report that need no draws.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import pearsonr, rankdata, sem
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from recbole_diffusion.cli.arguments import Parser, tokens
from recbole_diffusion.cli.exit_codes import run_command
from recbole_diffusion.cli.parsers import add_saved_model
from recbole_diffusion.cli.saved_model import load, warnings_on_stderr
from recbole_diffusion.common.files import atomic_write, write_text
from recbole_diffusion.common.log import shows_progress
from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.ranking import top_items
from recbole_diffusion.inference import certainty, trajectory
from recbole_diffusion.inference import sampling as draws
from recbole_diffusion.inference.recommender import Options, Recommender
from recbole_diffusion.model.discrete import mean_log_probability

K = 10
DECILES = 10
# A user with fewer interactions has no test item under leave-one-out.
FEWEST = 3
RHO = (
    "ρ: Spearman's rank correlation over users; a figure that tells accuracy has a negative one, the margin a positive "
    "one."
)
OF_SCORES = (
    "Score entropy and margin are those of one draw's scores: of their softmax, in nats, and between the best two."
)
EXAMPLES = """\
examples:
  python -m benchmarks.certainty --checkpoint saved/M.pth --noise_scales 1,10,100,1000
"""


class HeldOut(NamedTuple):
    """The last interaction of every user, and all before it, by internal ids."""

    users: list[str]
    histories: list[np.ndarray]
    targets: np.ndarray


class Outcome(NamedTuple):
    """What a way to recommend gave.

    items : int64 [B, K]
    ndcg, hit : float [B]
    """

    items: np.ndarray
    ndcg: np.ndarray
    hit: np.ndarray


class Prediction(NamedTuple):
    """What the items' probabilities said of a user's list, and what came.

    hit_probability, hit : float [B]
        The sum of the probabilities of the K likeliest items, and whether the target is one of them.
    log_loss : float [B]
        Minus the log of the target's probability, in nats.
    """

    hit_probability: np.ndarray
    hit: np.ndarray
    log_loss: np.ndarray


class Drawn(NamedTuple):
    """What the draws at one noise scale gave.

    ways : dict
        The outcome by number of draws and by whether the list covers these instead of following their mean.
    predictions : dict
        By number of draws, the first alone and all: what the mean of their probabilities says.
    distance, entropy : float [B]
        See `certainty.Certainty`; of all draws, and NaN for a single one.
    score_entropy, margin : float [B]
        See `score_certainty`; of the first draw alone, what a model without noise could say as well.
    """

    ways: dict[tuple[int, bool], Outcome]
    predictions: dict[int, Prediction]
    distance: np.ndarray
    entropy: np.ndarray
    score_entropy: np.ndarray
    margin: np.ndarray


def held_out(recommender: Recommender, most: int | None = None, seed: int = 0) -> HeldOut:
    """The test part of leave-one-out, or `most` of its users drawn at random."""
    users = recommender.users
    rows = np.flatnonzero(np.diff(users.start) >= FEWEST)
    if most is not None and most < len(rows):
        rows = np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))
    histories = [users.row(int(row)) for row in rows]
    targets = np.array([history[-1] for history in histories])
    return HeldOut([users.tokens[row] for row in rows], [history[:-1] for history in histories], targets)


@torch.inference_mode()
def ask(recommender: Recommender, part: HeldOut, options: Options, samples: Sequence[int]) -> Drawn:
    """Recommend to all of the part in every way, with the first of the same draws wherever fewer are needed.

    Parameters
    ----------
    recommender : Recommender
    part : HeldOut
    options : Options
        Without `exclude_seen`, as in a test; `samples` and `diversify` are not read.
    samples : sequence of int
        Numbers of draws, ascending.
    """
    model, most = recommender.model, samples[-1]
    ways = [(number, cover) for number in samples for cover in (False, True) if number > 1 or not cover]
    found: dict[tuple[int, bool], list[Tensor]] = {way: [] for way in ways}
    predictions: dict[int, list[tuple[Tensor, ...]]] = {number: [] for number in (1, most)}
    figures = []
    # Batches of like length have little padding.
    order = np.argsort([min(len(history), model.max_seq_length) for history in part.histories], kind="stable")
    size = max(1, options.batch_size // most)
    label = f"noise scale {options.temperature:g}"
    with draws.overridden(model, options.inference_steps, options.seed):
        for begin in tqdm(range(0, len(order), size), label, disable=not shows_progress()):
            rows = [torch.from_numpy(part.histories[row]) for row in order[begin : begin + size]]
            x_0 = draws.draw_points(model, rows, most, options.temperature, options.batch_size)
            tops = certainty.draw_tops(model, x_0, K, None)
            for number, cover in ways:
                items = certainty.cover(tops[:number]) if cover else _best_by_mean(model, x_0[:number])
                found[number, cover].append(items)
            of_draws = [torch.full_like(x_0[0, :, 0], torch.nan)] * 2
            if most > 1:
                of_draws = [certainty.relative_distance(model.points(x_0)), certainty.choice_entropy(tops[:, :, 0])]
            first = model.score(x_0[:1])[:, 1:]
            figures.append((*of_draws, *score_certainty(first)))
            targets = torch.from_numpy(part.targets[order[begin : begin + size]]).to(tops.device)
            for number, told in predictions.items():
                others = (model.score(x_0[draw : draw + 1])[:, 1:] for draw in range(1, number))
                each = (scores.log_softmax(dim=-1) for scores in chain([first], others))
                told.append(predict(mean_log_probability(each), targets - 1))
    back = np.argsort(order)

    def columns(batches: list[tuple[Tensor, ...]]) -> list[np.ndarray]:
        return [torch.cat(parts).cpu().numpy()[back] for parts in zip(*batches, strict=True)]

    outcomes = {way: _outcome(torch.cat(parts).cpu().numpy()[back], part.targets) for way, parts in found.items()}
    by_number = {number: Prediction(*columns(told)) for number, told in predictions.items()}
    return Drawn(outcomes, by_number, *columns(figures))


def score_certainty(scores: Tensor) -> tuple[Tensor, Tensor]:
    """How sure scores [B, V] are by themselves: entropy [B] of their softmax in nats, and the first's lead [B]."""
    log_share = torch.log_softmax(scores, dim=-1)
    best = log_share.topk(2, dim=-1).values
    return -(log_share.exp() * log_share).sum(dim=-1), best[:, 0] - best[:, 1]


def predict(log_share: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The columns of `Prediction` by log-probabilities [B, V] of V items; `targets`, int64 [B], from 0."""
    best = log_share.topk(K, dim=-1)
    hit = (best.indices == targets[:, None]).any(dim=-1)
    return best.values.double().exp().sum(dim=-1), hit.double(), -log_share.double().gather(1, targets[:, None])[:, 0]


def _best_by_mean(model: Any, x_0: Tensor) -> Tensor:
    return top_items(lambda piece: model.score(x_0[:, piece]), x_0.shape[1], model.n_items, K).items


def _outcome(items: np.ndarray, targets: np.ndarray) -> Outcome:
    hits = items == targets[:, None]
    gain = 1.0 / np.log2(np.arange(2, items.shape[1] + 2))
    return Outcome(items, (hits * gain).sum(axis=1), hits.any(axis=1).astype(float))


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


def deciles(columns: Mapping[str, np.ndarray], by: str, error_of: str) -> pd.DataFrame:
    """Means of the columns by decile of one of them, lowest first, and the standard error of another as `error`."""
    # By rank, so that users of equal value do not empty a decile.
    rank = pd.Series(columns[by]).rank(method="first")
    groups = pd.DataFrame(columns).groupby(np.ceil(rank / len(rank) * DECILES).astype(int).rename("decile"))
    means = groups.mean()
    means.insert(0, "users", groups.size())
    means["error"] = groups[error_of].sem()
    return means.reset_index()


def calibration(told: Prediction) -> tuple[dict[str, Any], pd.DataFrame]:
    """Whether the predicted Hit@10 is right: a row of the report, and the deciles of the predicted one."""
    # A hit of probability p has the variance p (1 - p).
    variance = told.hit_probability * (1.0 - told.hit_probability)
    columns = {"predicted": told.hit_probability, "hit": told.hit, "variance": variance}
    table = deciles(columns, by="predicted", error_of="hit")
    share = table["users"] / len(told.hit)
    # The mean distance of a normal variable from its mean is √(2 / π) standard deviations.
    chance = np.sqrt(2.0 / np.pi * table["variance"].clip(lower=0.0) / table["users"])
    excess = told.hit_probability - told.hit
    # Where hardly anybody hits, the spread over users says too little of what chance does.
    error = max(sem(excess), np.sqrt(variance.clip(min=0.0).mean() / len(variance)))
    shown = abs(excess.mean()) > 1.96 * error
    row = {
        "predicted": told.hit_probability.mean(),
        "Hit@10": told.hit.mean(),
        "difference": excess.mean(),
        "its error": sem(excess),
        "confidence": ("overconfident" if excess.mean() > 0 else "underconfident") if shown else "neither shown",
        "ECE": (share * (table["predicted"] - table["hit"]).abs()).sum(),
        "ECE by chance": (share * chance).sum(),
        "log loss": told.log_loss.mean(),
        "error of the log loss": sem(told.log_loss),
    }
    return row, table.drop(columns="variance")


def plain_correlations(drawn: Drawn, outcome: Outcome) -> dict[str, Any]:
    """Accuracy, and whether what the scores say by themselves tells it."""
    return {
        "NDCG@10": outcome.ndcg.mean(),
        "Hit@10": outcome.hit.mean(),
        "ρ(score entropy, NDCG@10)": _correlation(drawn.score_entropy, outcome.ndcg),
        "ρ(margin, NDCG@10)": _correlation(drawn.margin, outcome.ndcg),
    }


def correlations(part: HeldOut, scale: float, drawn: Drawn, outcome: Outcome) -> dict[str, Any]:
    """Whether the figures tell accuracy, by rank correlations over users: a row of the report."""
    lengths = np.array([len(history) for history in part.histories])
    return {
        "noise scale": scale,
        **plain_correlations(drawn, outcome),
        "mean distance": drawn.distance.mean(),
        "mean entropy": drawn.entropy.mean(),
        "ρ(distance, NDCG@10)": _correlation(drawn.distance, outcome.ndcg),
        "ρ(distance, NDCG@10) at equal length": _correlation(drawn.distance, outcome.ndcg, lengths),
        "ρ(entropy, NDCG@10)": _correlation(drawn.entropy, outcome.ndcg),
        "ρ(entropy, NDCG@10) at equal length": _correlation(drawn.entropy, outcome.ndcg, lengths),
        "ρ(distance, NDCG@10) at equal score entropy": _correlation(drawn.distance, outcome.ndcg, drawn.score_entropy),
        "ρ(score entropy, NDCG@10) at equal distance": _correlation(drawn.score_entropy, outcome.ndcg, drawn.distance),
        "ρ(distance, history's length)": _correlation(drawn.distance, lengths),
    }


def _correlation(figure: np.ndarray, other: np.ndarray, given: np.ndarray | None = None) -> str:
    """Spearman's ρ and its p-value, as text; nothing where one of the two does not vary.

    With `given` it is the partial one: of what a straight line over the ranks of `given` leaves of the ranks.
    """
    if np.ptp(figure) == 0 or np.ptp(other) == 0:
        return ""
    ranks = [rankdata(values) for values in (figure, other)]
    if given is not None:
        at = np.stack([np.ones(len(given)), rankdata(given)], axis=1)
        ranks = [rank - at @ np.linalg.lstsq(at, rank)[0] for rank in ranks]
    found = pearsonr(*ranks)
    return f"{found.statistic:.3f} (p {found.pvalue:.2g})"


def trade(recommender: Recommender, drawn: Mapping[float, Drawn]) -> list[dict[str, Any]]:
    """Accuracy, diversity and coverage of every way at every noise scale, with the change from the first of them."""
    embeddings = trajectory.embeddings(recommender.model)
    rows: list[dict[str, Any]] = []
    first: Outcome | None = None
    for scale, at_scale in drawn.items():
        for (number, cover), outcome in at_scale.ways.items():
            first = first or outcome
            # User by user: that some users are easier than others is no error of the change.
            change = outcome.ndcg - first.ndcg
            rows.append(
                {
                    "noise scale": scale,
                    "draws": number,
                    "list": "covers the draws" if cover else "mean of the draws",
                    "NDCG@10": outcome.ndcg.mean(),
                    "change": change.mean(),
                    "error of the change": sem(change),
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
        # Side by side, so that the bars of the errors can be read.
        place = table["decile"] + 0.08 * (number - (len(tables) - 1) / 2)
        axes.errorbar(place, table["ndcg"], table["error"], marker="o", capsize=2, label=f"{scale:g}")
    axes.set(xlabel="decile of the distance between draws (1: surest)", ylabel="test NDCG@10", title=title)
    axes.set(ylim=(0, None), xticks=range(1, DECILES + 1))
    axes.legend(title="noise scale; bars: standard error")
    with atomic_write(path) as part:
        figure.savefig(part, dpi=130)


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
            errors = group["error of the change"]
            colour = f"C{scales.index(scale)}"
            axes.errorbar(group[column], group["NDCG@10"], errors, color=colour, capsize=2, label=label, **style)
            for _, row in group.iterrows():
                place = (row[column], row["NDCG@10"])
                axes.annotate(str(row["draws"]), place, fontsize=7, xytext=(3, 3), textcoords="offset points")
        axes.set(xlabel=column)
    figure.supylabel("test NDCG@10", fontsize="medium")
    title = f"{title}; numbers: draws; bars: standard error of the change from the table's first row"
    figure.suptitle(title, fontsize="medium")
    figure.legend(*axes.get_legend_handles_labels(), title="noise scale, list", loc="outside right upper", fontsize=8)
    with atomic_write(path) as part:
        figure.savefig(part, dpi=130)


def parser() -> Parser:
    """The flags."""
    made = Parser("python -m benchmarks.certainty", (__doc__ or "").partition("\n\n")[0], EXAMPLES)
    add_saved_model(made)
    made.add_argument("--data_path", metavar="DIR", help="the dataset's folder; by default that of training")
    made.add_argument("--noise_scales", default="1,10,100,1000", help="separated by commas (default 1,10,100,1000)")
    made.add_argument(
        "--inference_seeds", default="1,4,16", help="numbers of noises, the largest 2 at least (default 1,4,16)"
    )
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
    flags = parser()
    args = flags.read(argv)
    try:
        scales = [float(scale) for scale in tokens(args.noise_scales)]
        samples = sorted({int(number) for number in tokens(args.inference_seeds)})
    except ValueError as error:
        raise UserError(f"--noise_scales and --inference_seeds take numbers separated by commas ({error})") from error
    if not scales or not samples or samples[0] < 1 or samples[-1] < 2:
        must = "--noise_scales takes at least one number, and --inference_seeds positive ones, one of 2 or more"
        raise UserError(must)
    with warnings_on_stderr():
        recommender = load(flags, args, args.data_path)
        options = Options(
            K,
            exclude_seen=False,
            inference_steps=args.inference_steps,
            inference_seeds=samples[-1],
            seed=args.seed,
            batch_size=args.batch_size,
        )
        numbers = recommender.model.process.draws
        noisy = numbers is not None
        if numbers != "normal":
            # Nothing that a scale could multiply.
            scales = [1.0]
        if not noisy:
            # All draws would be the same.
            samples = [1]
        for scale in scales:
            replace(options, temperature=scale).check(recommender.model, len(recommender.vocabulary))
        folder = Path(args.output)
        # Told before what takes minutes.
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: the report cannot be written there ({error.strerror})") from error
        part = held_out(recommender, args.most_users)
        drawn = {scale: ask(recommender, part, replace(options, temperature=scale), samples) for scale in scales}
        with draws.overridden(recommender.model, args.inference_steps, args.seed):
            steps = len(recommender.model.timesteps)
    model, dataset = type(recommender.model).__name__, recommender.dataset
    title = f"{model} on {dataset}, {len(part.users)} test users"
    by_mean = {scale: at_scale.ways[samples[-1], False] for scale, at_scale in drawn.items()}
    stem = f"{model}-{dataset}-certainty"
    about = "Leave-one-out: the last interaction of each user is asked for, from all before it; all items are ranked. "
    calibrated = calibration_section(drawn, len(recommender.vocabulary), noisy)
    if noisy:
        about += f"Reverse steps: {steps}. The noise scale multiplies x_T and the noise of the reverse steps."
        tables = {scale: _accuracy_deciles(at_scale, by_mean[scale]) for scale, at_scale in drawn.items()}
        figures = [correlations(part, scale, at_scale, by_mean[scale]) for scale, at_scale in drawn.items()]
        rows = trade(recommender, drawn)
        draw_deciles(folder / f"{stem}-deciles.png", tables, f"{title}, {samples[-1]} draws")
        draw_trade(folder / f"{stem}-trade.png", rows, title)
        sections = [uncertainty_section(stem, samples[-1], tables, figures), calibrated, diversity_section(stem, rows)]
    else:
        about += "The model draws no noise: it answers once, and there are no draws to measure."
        plain = _markdown([plain_correlations(drawn[1.0], by_mean[1.0])])
        sections = [f"## Accuracy by uncertainty\n\n{RHO} {OF_SCORES}\n\n{plain}", calibrated]
    command = f"python -m benchmarks.certainty {shlex.join(argv)}"
    text = "\n\n".join([f"# How sure: {title}", f"```sh\n{command}\n```", about, *sections]) + "\n"
    write_text(folder / f"{stem}.md", text)
    print(text, end="")


def _accuracy_deciles(drawn: Drawn, outcome: Outcome) -> pd.DataFrame:
    """Accuracy by decile of the distance between draws, the surest users first."""
    columns = {"distance": drawn.distance, "entropy": drawn.entropy, "ndcg": outcome.ndcg, "hit": outcome.hit}
    return deciles(columns, by="distance", error_of="ndcg")


def uncertainty_section(
    stem: str, samples: int, tables: Mapping[float, pd.DataFrame], figures: list[dict[str, Any]]
) -> str:
    """Whether the figures tell accuracy, as markdown."""
    by_decile = pd.concat([table.assign(scale=scale) for scale, table in tables.items()])
    by_decile = by_decile[["scale", "decile", "users", "distance", "entropy", "ndcg", "error", "hit"]]
    headers = ["noise scale", "decile", "users", "distance", "entropy", "NDCG@10", "standard error", "Hit@10"]
    formats = ("g", "d", "d", ".4g", ".3f", ".4f", ".4f", ".4f")
    return "\n\n".join(
        [
            f"## Accuracy by uncertainty\n\n{samples} draws a user, their mean ranked. Distance: between two draws of "
            f"x_0, as a share of their length. Entropy: of their best item, in nats. {RHO} At equal length: "
            f"the partial one, given the history's length, which alone could make both vary. {OF_SCORES}",
            _markdown(figures),
            f"![NDCG@10 by decile of uncertainty]({stem}-deciles.png)",
            _cells(by_decile, headers, formats),
        ]
    )


def calibration_section(drawn: Mapping[float, Drawn], n_items: int, noisy: bool) -> str:
    """Whether the probabilities are right, as markdown; without noise the tables name neither scale nor draws."""
    rows, tables = [], []
    for scale, at_scale in drawn.items():
        for number, told in at_scale.predictions.items():
            labels = {"noise scale": scale, "draws": number} if noisy else {}
            row, table = calibration(told)
            rows.append({**labels, **row})
            tables.append(table.assign(**labels))
    names = ["noise scale", "draws"] if noisy else []
    by_decile = pd.concat(tables)[[*names, "decile", "users", "predicted", "hit", "error"]]
    headers = [*names, "decile", "users", "predicted", "Hit@10", "standard error"]
    formats = (*("g" for _ in names), "d", "d", ".4f", ".4f", ".4f")
    what = [
        "Are the probabilities right? The softmax of the scores gives every item a probability, those of the history "
        "too. It means little for a model whose loss is no cross-entropy over all items.",
        *(["- Draws: the probabilities of the first, or the mean of all; the list has the ten likeliest."] * noisy),
        "- Predicted: the Hit@10 that the model expects, the sum of the probabilities of the list's ten items.",
        "- Hit@10: the measured one, the share of users whose item is in the list.",
        "- Difference: predicted minus measured, with its standard error over users, who are compared one by one.",
        "- Confidence: overconfident above 0, underconfident below, by more than 1.96 of these errors and of those "
        "that chance gives a perfectly calibrated model.",
        "- ECE: the expected calibration error (Naeini et al., 2015; Guo et al., 2017), the mean over the deciles of "
        "the predicted Hit@10 of its distance from the measured one.",
        "- ECE by chance: about what a perfectly calibrated model would have, as a decile has few users.",
        "- Log loss: mean of minus the log of the target's probability, in nats; equal probabilities would give "
        f"{np.log(n_items):.4g}.",
        "- Standard error: of a decile's measured Hit@10; it is 0, which is too small, where nobody or everybody hits.",
    ]
    return "\n\n".join(
        ["## Calibration", what[0], "\n".join(what[1:]), _markdown(rows), _cells(by_decile, headers, formats)]
    )


def diversity_section(stem: str, rows: list[dict[str, Any]]) -> str:
    """What diversity costs, as markdown."""
    return "\n\n".join(
        [
            "## Accuracy against diversity\n\nList diversity: mean cosine distance between two items of a list, by "
            "their embeddings. Coverage: share of the catalogue that somebody is recommended among the best 10. "
            "Change: of NDCG@10 from the first row, over the same users, with its standard error.",
            _markdown(rows),
            f"![NDCG@10 against diversity]({stem}-trade.png)",
        ]
    )


def _cells(table: pd.DataFrame, headers: Sequence[str], formats: Sequence[str]) -> str:
    cells = [[format(v, f) for v, f in zip(row, formats, strict=True)] for row in table.itertuples(index=False)]
    return tabulate(cells, headers, tablefmt="pipe", disable_numparse=True)


def _markdown(rows: list[dict[str, Any]]) -> str:
    text = [
        {key: f"{value:.4g}" if isinstance(value, float | np.floating) else value for key, value in row.items()}
        for row in rows
    ]
    return tabulate(text, headers="keys", tablefmt="pipe", disable_numparse=True)


if __name__ == "__main__":
    sys.exit(run_command(lambda: run(sys.argv[1:]), debug="--debug" in sys.argv))
