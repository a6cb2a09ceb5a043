"""Plots of a comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from ..common.files import atomic_write
from ..evaluation.protocols import results_by_protocol
from ..evaluation.ranks import K
from ..evaluation.statistics import LEVEL, MARGIN
from .results import has_controls
from .states import best_epoch

DPI = 150
COLOURS = [colormaps["tab10"](number) for number in range(10)]
# Not as many as colours, so that the pairs of them repeat late.
MARKERS = "osD^vP*Xh"
# About what a line of a legend holds.
LETTERS_AN_INCH = 10
LETTERS_A_HANDLE = 7
# Inches.
LEGEND_LINE = 0.22
INTERVAL = f"{LEVEL:.0%} interval"
ENDS = ("difference", "low", "high")


class Look:
    """A colour and a marker for each model, the same in all plots."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = list(names)

    def __call__(self, name: str) -> dict[str, Any]:
        number = self.names.index(name)
        return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def _figure(width: float, height: float, columns: int = 1, **kwargs: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, **kwargs)
    for one in np.atleast_1d(axes):
        one.grid(axis="both", color="0.9")
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(figure: Figure, axes: Axes) -> None:
    """A legend below the plot, where it hides nothing, with room of its own; each name once."""
    handles, labels = axes.get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    room = int(figure.get_figwidth() * LETTERS_AN_INCH // (max(map(len, by_label)) + LETTERS_A_HANDLE))
    columns = min(max(room, 1), len(by_label))
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * math.ceil(len(by_label) / columns))
    figure.legend(
        by_label.values(),
        by_label.keys(),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
    )


def learning_curves(results: dict[str, Any], look: Look) -> Figure | None:
    """Validation score by epoch, a line a seed; the best epoch is marked."""
    figure, axes = _figure(7, 4)
    for run in results["runs"]:
        epochs = [epoch for epoch in run.get("epochs", []) if "valid_score" in epoch]
        if not epochs:
            continue
        scores = [epoch["valid_score"] for epoch in epochs]
        style = {**look(run["name"]), "markersize": 6, "label": run["name"], "linewidth": 1.2}
        best = best_epoch(epochs, results["valid_metric_bigger"])
        marked = [epochs.index(best)] if best else []
        axes.plot([epoch["epoch"] for epoch in epochs], scores, markevery=marked, **style)
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"validation {results['valid_metric']}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("Learning curves, a line a seed; marked: the best epoch", fontsize=10)
    if not axes.lines:
        return None
    _legend(figure, axes)
    return figure


def metric_bars(results: dict[str, Any], look: Look) -> Figure | None:
    """Test metrics with their intervals."""
    estimates = results["estimates"]
    if not estimates:
        return None
    names = list(next(iter(estimates.values())))
    width = 7 + max(map(len, names)) / LETTERS_AN_INCH
    figure, both = _figure(width, 1.3 + 0.38 * len(names), len(estimates), sharey=True)
    places = np.arange(len(names))
    for axes, (metric, models) in zip(np.atleast_1d(both), estimates.items(), strict=True):
        means = np.array([models[name]["mean"] for name in names])
        errors = np.abs([[models[name][end] for name in names] for end in ("low", "high")] - means)
        axes.barh(places, means, xerr=errors, color=[look(name)["color"] for name in names], capsize=3, alpha=0.85)
        axes.set_xlabel(f"test {_title(metric)}, {INTERVAL}")
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y", visible=False)
    first = np.atleast_1d(both)[0]
    first.set_yticks(places, names)
    first.invert_yaxis()
    return figure


def _title(metric: str) -> str:
    return metric.replace("ndcg", "NDCG").replace("hit", "Hit").replace("mrr", "MRR")


def _grouped(groups: list[dict[str, Any]], look: Look, label: str) -> Figure | None:
    """NDCG by group of the test interactions: a point and its interval a model, side by side."""
    if not groups:
        return None
    names = list(groups[0]["models"])
    figure, axes = _figure(7.5, 4)
    for number, name in enumerate(names):
        estimates = [group["models"][name] for group in groups]
        means = np.array([estimate["mean"] for estimate in estimates])
        errors = np.abs([[estimate[end] for estimate in estimates] for end in ("low", "high")] - means)
        places = np.arange(len(groups)) + 0.7 * ((number + 0.5) / len(names) - 0.5)
        axes.errorbar(
            places, means, errors, **look(name), linestyle="", capsize=3, markersize=6, label=name, clip_on=False
        )
    axes.set_xticks(range(len(groups)), [f"{group['group']}\n{group['users']} users" for group in groups])
    axes.grid(axis="x", visible=False)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(label)
    axes.set_ylabel(f"test NDCG@{K}, {INTERVAL}")
    _legend(figure, axes)
    return figure


def noise_forest(rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Figure:
    """What noise adds to NDCG, in per cent of the same network without it, with intervals.

    Parameters
    ----------
    rows : mapping
        Label -> ranking -> a test of a model against a row without noise, as in the `noise` of a comparison's results.
    """
    rankings = list(dict.fromkeys(ranking for tests in rows.values() for ranking in tests))
    figure, axes = _figure(7 + max(map(len, rows)) / LETTERS_AN_INCH, 1.2 + 0.4 * len(rows))
    axes.axvspan(-100 * MARGIN, 100 * MARGIN, color="0.93", label=f"within {MARGIN:.0%}")
    axes.axvline(0, color="0.4", linewidth=1)
    for number, ranking in enumerate(rankings):
        there = [(place, tests[ranking]) for place, tests in enumerate(rows.values()) if ranking in tests]
        places = np.array([place for place, _ in there]) + 0.35 * ((number + 0.5) / len(rankings) - 0.5)
        change = 100 * np.array([[test[end] / test["off_mean"] for end in ENDS] for _, test in there])
        errors = np.abs(change[:, 1:] - change[:, :1]).T
        style = {"color": COLOURS[number], "marker": MARKERS[number], "label": ranking}
        axes.errorbar(change[:, 0], places, xerr=errors, linestyle="", capsize=3, markersize=6, **style)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(f"NDCG@{K} with noise against that without, in per cent, {INTERVAL}")
    _legend(figure, axes)
    return figure


def noise_worth(results: dict[str, Any], look: Look) -> Figure | None:
    """What the noise of each model is worth, under each ranking of the comparison; with controls a line a pair."""
    rows: dict[str, dict[str, Any]] = {}
    named = has_controls(results)
    for ranking, test in noise_tests(results):
        label = f"{test['first']} against {test['second']}" if named else test["first"]
        rows.setdefault(label, {})[ranking] = test
    return noise_forest(rows) if rows else None


def noise_tests(results: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The tests of models against rows without noise, each with the name of its ranking."""
    for protocol, of_ranking in results_by_protocol(results).items():
        for test in of_ranking["noise"]:
            yield f"history {protocol}", test


def by_length(results: dict[str, Any], look: Look) -> Figure | None:
    """Accuracy by history length."""
    return _grouped(results["by_length"], look, "length of the history (interactions)")


def by_popularity(results: dict[str, Any], look: Look) -> Figure | None:
    """Accuracy on popular and on other items."""
    return _grouped(results["by_popularity"], look, "popularity of the test item in training")


def by_steps(results: dict[str, Any], look: Look) -> Figure | None:
    """Accuracy and time against the number of denoising steps."""
    table, metric = results["by_steps"], f"ndcg@{K}"
    if not table or metric not in table[0]["metrics"]:
        return None
    figure, (left, right) = _figure(8.5, 4, 2)
    names = list(dict.fromkeys(row["name"] for row in table))
    for number, name in enumerate(names):
        rows = [row for row in table if row["name"] == name]
        # Side by side, so that no interval hides another.
        steps = [row["steps"] * 2 ** (0.3 * ((number + 0.5) / len(names) - 0.5)) for row in rows]
        scores = [row["metrics"][metric] for row in rows]
        style = {**look(name), "markersize": 6, "label": name}
        deviations = [score["std"] or 0 for score in scores]
        left.errorbar(steps, [score["mean"] for score in scores], deviations, capsize=3, **style)
        right.plot(steps, [row["seconds"]["mean"] for row in rows], **style)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("denoising steps at inference")
    several = len(results["seeds"]) > 1
    left.set_ylabel(f"test NDCG@{K}" + ("\n(± standard deviation over seeds)" if several else ""))
    right.set_yscale("log")
    right.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    right.yaxis.set_major_formatter("{x:g}")
    right.yaxis.set_minor_locator(NullLocator())
    right.set_ylabel("time of an evaluation (s)")
    _legend(figure, left)
    return figure


PLOTS: dict[str, tuple[str, Callable[[dict[str, Any], Look], Figure | None]]] = {
    "metrics": ("Test metrics", metric_bars),
    "learning_curves": ("Learning curves", learning_curves),
    "noise": ("What the noise is worth", noise_worth),
    "by_length": ("Accuracy by history length", by_length),
    "by_popularity": ("Accuracy by item popularity", by_popularity),
    "by_steps": ("Accuracy against denoising steps", by_steps),
}


def plot_all(results: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Write every plot that has something to show, as PNG: title -> file."""
    look = Look([row["name"] for row in results["rows"]])
    files = {}
    for name, (title, plot) in PLOTS.items():
        figure, path = plot(results, look), folder / f"{name}.png"
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        with atomic_write(path) as part:
            figure.savefig(part, format="png", dpi=DPI)
        files[title] = path
    return files
