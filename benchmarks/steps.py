"""`python -m benchmarks.steps`: what reverse steps are worth, the weights being the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.command import whole_numbers
from recbole_diffusion.cli.exit_codes import run_command
from recbole_diffusion.cli.parsers import settings_parser
from recbole_diffusion.common.files import atomic_write, write_json
from recbole_diffusion.common.log import shows_progress
from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation.ranking import user_ranks
from recbole_diffusion.evaluation.ranks import K, by_user, hit, ndcg
from recbole_diffusion.evaluation.statistics import interval, resampled_means
from recbole_diffusion.inference.sampling import overridden
from recbole_diffusion.inference.testing import Reopened, changed_config, reopen
from recbole_diffusion.model.base import DiffusionRecommender
from recbole_diffusion.training import checkpoint

STEPS = (1, 2, 4, 8, 16, 32)
NOISE_SEEDS = (1, 2, 3)
# A default may cost at most this share of the whole chain's NDCG.
TOLERATED = 0.02

HELP = """\
Rank the test users of trained models with 1, 2, 4, ... reverse steps, several noise seeds each.

usage: python -m benchmarks.steps --checkpoint=PATH[,PATH ...] [--KEY=VALUE ...]

  --checkpoint PATHS   models of this package, trained (saved/NAME.pth)
  --steps LIST         numbers of reverse steps (default 1,2,4,8,16,32, as far as the model has so many); against
                       all steps of the model, of a flow against the last of the list
  --noise_seeds LIST   seeds of the evaluation's noise (default 1,2,3)
  --output FOLDER      where steps.json and steps.png go (default the current folder)
  --KEY VALUE          settings that a test may change, such as data_path
"""


class Line(NamedTuple):
    """Accuracy with one number of steps.

    steps : int
    ndcg, hit : float
        NDCG@10 and Hit@10, means over users and noise seeds.
    seeds_apart : float
        Standard deviation of NDCG@10 between the noise seeds.
    loss, low, high : float
        Relative difference of NDCG@10 to the whole chain, with its interval over users and noise seeds.
    seconds : float
        Of one evaluation.
    """

    steps: int
    ndcg: float
    hit: float
    seeds_apart: float
    loss: float
    low: float
    high: float
    seconds: float


def fewest(lines: Sequence[Line], tolerated: float = TOLERATED) -> int:
    """The fewest steps whose loss against the whole chain has a lower bound above -`tolerated`."""
    return min(line.steps for line in lines if line.low > -tolerated)


def lines_of(steps: Sequence[int], ranks: Sequence[np.ndarray], seconds: Sequence[float]) -> list[Line]:
    """A line for each number of steps.

    Parameters
    ----------
    steps : sequence of int
        Ascending; the last is the whole chain.
    ranks : sequence of arrays [S, U]
        Ranks of the users' test items, by noise seed.
    seconds : sequence of float
    """
    scores = [ndcg(rank) for rank in ranks]
    means = resampled_means(scores)
    # A model that hits nothing loses nothing.
    whole = float(scores[-1].mean()) or 1.0
    lines = []
    for number, rank in enumerate(ranks):
        # The whole chain differs from itself in nothing.
        low, high = (interval(means[number], means[-1]) / whole).tolist() if steps[number] < steps[-1] else (0.0, 0.0)
        by_seed = scores[number].mean(axis=1)
        apart = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else 0.0
        mean = float(by_seed.mean())
        lines.append(
            Line(
                steps[number],
                mean,
                hit(rank).mean(),
                apart,
                (mean - scores[-1].mean()) / whole,
                low,
                high,
                seconds[number],
            )
        )
    return lines


def measure(opened: Reopened, steps: Sequence[int], noise_seeds: Sequence[int]) -> list[Line]:
    """Evaluate a trained model with each number of steps and each seed of the noise."""
    ranks, seconds = [], []
    rounds = [(count, seed) for count in steps for seed in noise_seeds]
    for count, seed in tqdm(rounds, "Evaluate", ncols=100, leave=False, disable=not shows_progress()):
        with overridden(opened.model, count, seed):
            begin = perf_counter()
            found = user_ranks(opened.trainer, opened.test_data)
            seconds.append(perf_counter() - begin)
        ranks.append(by_user(found.user, found.rank[None]))
    by_steps = np.concatenate(ranks).reshape(len(steps), len(noise_seeds), -1)
    return lines_of(steps, list(by_steps), np.reshape(seconds, (len(steps), -1)).min(axis=1).tolist())


def read(path: str, changes: dict[str, Any]) -> Reopened:
    """A trained model with its data.

    Raises
    ------
    UserError
        For a file that is no checkpoint, or of a model without reverse steps.
    """
    state = checkpoint.load_model(path)
    config = changed_config(path, state, None, changes)
    if config["diffusion"] is False or not issubclass(config.model_class, DiffusionRecommender):
        raise UserError(f"{path}: {state['model']} has no reverse steps, or was trained with diffusion: False")
    return reopen(path, state, config)


def table(results: Sequence[dict[str, Any]]) -> str:
    """The figures as markdown."""
    parts = []
    for result in results:
        rows = [
            (
                line.steps,
                f"{line.ndcg:.4f} ± {line.seeds_apart:.4f}",
                f"{line.hit:.4f}",
                "" if line is result["lines"][-1] else f"{line.loss:+.2%} ({line.low:+.2%} to {line.high:+.2%})",
                f"{line.seconds:.1f}",
            )
            for line in result["lines"]
        ]
        headers = ("steps", f"NDCG@{K}", f"Hit@{K}", "against the whole chain (95 %)", "seconds")
        title = f"{result['model']} on {result['dataset']}"
        summary = f"Fewest steps with a lower bound above -{TOLERATED:.0%}: {result['fewest']}."
        parts.append(f"### {title}\n\n{tabulate(rows, headers, tablefmt='github', disable_numparse=True)}\n\n{summary}")
    return "\n\n".join(parts)


def draw(axes: Axes, result: dict[str, Any]) -> None:
    """NDCG@10 against steps, with the interval of the difference to the whole chain."""
    lines = result["lines"]
    whole = lines[-1].ndcg
    steps = [line.steps for line in lines]
    middle = np.array([line.ndcg for line in lines])
    bounds = np.array([[whole * (1 + line.low), whole * (1 + line.high)] for line in lines])
    axes.errorbar(steps, middle, np.abs(bounds.T - middle), marker="o", capsize=3)
    axes.axhline(whole * (1 - TOLERATED), color="0.6", linestyle="--", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(count) for count in steps])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylim(0, 1.1 * max(bounds.max(), middle.max()) or None)
    axes.set_xlabel("reverse steps")
    axes.set_ylabel(f"test NDCG@{K}")
    axes.set_title(f"{result['model']} on {result['dataset']}", fontsize=10)
    axes.grid(color="0.9")


def plot(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the picture of all results."""
    figure = Figure(figsize=(1 + 3.6 * len(results), 3.6), layout="constrained")
    for axes, result in zip(figure.subplots(1, len(results), squeeze=False)[0], results, strict=True):
        draw(axes, result)
    figure.supxlabel("dashed: 2 % below the whole chain; bars: 95 % interval of the difference to it", fontsize=8)
    with atomic_write(path) as part:
        figure.savefig(part, dpi=150, format="png")


def run(argv: Sequence[str]) -> None:
    """Do what the command line says.

    Raises
    ------
    UserError
    """
    arguments = settings_parser("python -m benchmarks.steps").read(argv)
    settings = dict(arguments.settings)
    paths = settings.pop("checkpoint", None)
    if arguments.help or not paths:
        print(HELP, end="")
        if not arguments.help:
            raise UserError("--checkpoint must name a trained model, as in --checkpoint=saved/NAME.pth")
        return
    steps = whole_numbers("steps", settings.pop("steps", None), STEPS)
    seeds = whole_numbers("noise_seeds", settings.pop("noise_seeds", None), NOISE_SEEDS)
    output = Path(settings.pop("output", "."))
    results = []
    for path in paths.split(","):
        opened = read(path, settings)
        # In continuous time any number will do: the longest chain here is the longest that was asked for.
        flows = isinstance(opened.model.timesteps[0], float)
        whole = steps[-1] if flows else opened.model.process.longest_chain
        config = opened.config.plain()
        lines = measure(opened, [*(count for count in steps if count < whole), whole], seeds)
        named = {key: config[key] for key in ("model", "dataset", "seed")}
        results.append({**named, "noise_seeds": seeds, "lines": lines, "fewest": fewest(lines), "config": config})
        print(table(results[-1:]), flush=True)
    output.mkdir(parents=True, exist_ok=True)
    plain = [{**result, "lines": [line._asdict() for line in result["lines"]]} for result in results]
    write_json(output / "steps.json", json.loads(json.dumps({"results": plain})))
    plot(results, output / "steps.png")


if __name__ == "__main__":
    sys.exit(run_command(lambda: run(sys.argv[1:]), debug="--debug" in sys.argv))
