"""The reverse process of one history: where x goes, and what it is near to, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.extras import require_extra
from ..common.files import atomic_write
from ..errors import SettingError, UserError
from ..evaluation.ranking import top_items
from ..model.base import DiffusionRecommender
from . import sampling

# Reverse steps of a trajectory where none are asked for: a single one would show nothing.
STEPS = 8
LABELLED = 5


class Trajectory(NamedTuple):
    """States of a reverse chain, x_T first and x_0 last; K steps have K + 1 states.

    timestep : list of int or float
        The step that comes next; None for x_0.
    x : float [K + 1, d]
        The states as points among the item embeddings.
    items : int64 [K + 1, k]
        Best items by each state, as the model scores.
    distance : float [K + 1, k]
        Distance of the state's direction to those of their embeddings; see `directions`.
    """

    timestep: list[float | None]
    x: np.ndarray
    items: np.ndarray
    distance: np.ndarray


@torch.inference_mode()
def trace(
    model: Any,
    history: Tensor,
    k: int = 3,
    steps: int | None = None,
    seed: int | None = None,
    temperature: float = 1.0,
    hidden: Tensor | None = None,
) -> Trajectory:
    """Follow the reverse process.

    Parameters
    ----------
    model : nn.Module
        A diffusion model that diffuses.
    history : int64 Tensor [L]
        Internal ids, oldest first.
    k : int
        Items noted of each state, or all that are left where these are fewer.
    steps : int, optional
        Reverse steps; by default at most `STEPS`.
    seed, temperature
        As in `recommender.Options`.
    hidden : int64 Tensor [1, H], optional
        Items that are not to be noted.

    Raises
    ------
    UserError
        For a model without a reverse process, for steps that it does not have, and where no item is left.
    """
    if not isinstance(model, DiffusionRecommender) or not model.use_diffusion:
        raise UserError(f"{type(model).__name__} has no reverse process to explain")
    longest = model.process.longest_chain
    steps = min(STEPS, longest) if steps is None else steps
    if not 1 <= steps <= longest:
        raise SettingError("inference_steps", steps, must=f"be from 1 to {longest}, the model's longest chain")
    k = min(k, model.n_items - 1 - (0 if hidden is None else len(hidden.unique())))
    if not k:
        raise UserError("no item is left: the history holds all of them")
    with sampling.overridden(model, steps, seed):
        read = model.history(sampling.batch(model, [history]))
        noise = sampling.stacked_noise(model, read, range(1), temperature)
        chain = model.sample(read, noise)
        states = [model.readout(x, read) for x in (chain.start, *(step.x for step in chain.steps))]
    hidden = None if hidden is None else hidden.to(states[0].device)
    best = [top_items(partial(_scores, model, x), 1, model.n_items, k, hidden).items for x in states]
    items, x = torch.cat(best), torch.cat([model.points(state) for state in states])
    distance = (directions(embeddings(model)[items]) - directions(x)[:, None]).norm(dim=-1)
    if not bool(x.isfinite().all() and distance.isfinite().all()):
        raise UserError(f"the reverse process ends in NaN or infinity: {sampling.TOO_LARGE}")
    timesteps = [step.timestep for step in chain.steps]
    return Trajectory([*timesteps, None], *(part.cpu().numpy() for part in (x, items, distance)))


def _scores(model: Any, state: Tensor, rows: slice) -> Tensor:
    return model.score(state[None])


def embeddings(model: Any) -> Tensor:
    """The points [V, d] that x is scored against."""
    return model.output_embeddings()[0].detach()


def directions(points: Tensor) -> Tensor:
    """Points [..., d] at length 1, 0 to 2 apart.

    Items are ranked by dot product, where the length of x changes nothing; and x is often many times longer than any
    embedding, so that its plain distances to all of them are much the same.
    """
    return F.normalize(points, dim=-1)


def plane(points: Tensor, seen: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Project onto the two principal axes of `points` [V, d] together with `seen` [n, d]: [V, 2] and [n, 2].

    The axes come from both, each with half of the weight: those of the items alone may be blind to where x goes.
    """
    centre = points.double().mean(dim=0)
    parts = [part.double() - centre for part in (points, seen)]
    axes = principal_axes(parts).axes
    first, second = ((part @ axes).cpu().numpy() for part in parts)
    return first, second


class PrincipalAxes(NamedTuple):
    """The two directions [d, 2] in which points vary most, and the share [2] of the variance along each."""

    axes: Tensor
    share: Tensor


def principal_axes(parts: Sequence[Tensor]) -> PrincipalAxes:
    """The axes of points [n, d] about their common centre, 0; each of the parts has the same weight."""
    weighed = torch.cat([part / part.square().sum().clamp(min=1e-30).sqrt() for part in parts])
    values, vectors = torch.linalg.eigh(weighed.t() @ weighed)
    axes = vectors[:, -2:].flip(1)
    # Eigenvectors have no sign of their own: the largest entry is to be positive on every machine.
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    return PrincipalAxes(axes, values[-2:].flip(0) / values.sum().clamp(min=1e-30))


class Distances(NamedTuple):
    """How far the direction of each state is from that of some items, [K + 1, n], and the median of all, [K + 1]."""

    to_items: np.ndarray
    median: np.ndarray


def distances(trajectory: Trajectory, points: Tensor, items: np.ndarray) -> Distances:
    """Distances of the states to items int64 [n], and to all; `points` [V, d] are the items' directions."""
    x = directions(torch.from_numpy(trajectory.x))
    to_items = (points[torch.from_numpy(items)][None] - x[:, None]).norm(dim=-1)
    return Distances(to_items.numpy(), torch.cdist(x, points[1:]).median(dim=1).values.numpy())


def plot(path: str | Path, trajectory: Trajectory, model: Any, history: np.ndarray, names: np.ndarray) -> None:
    """Write the picture: distances by step, and a map of the items with history, trajectory and recommendations.

    Both show directions, see `directions`.

    Parameters
    ----------
    path : str or Path
        Its ending says which format, `.png` say, which it is without one.
    names : array of str [V]
        What each item is called.

    Raises
    ------
    UserError
        Where the file cannot be written, or matplotlib is missing.
    """
    require_extra("compare", "the picture of a reverse process")
    # Only here, as importing it takes a second.
    from matplotlib.figure import Figure

    points = directions(embeddings(model)).cpu()
    figure = Figure(figsize=(13, 6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    _plot_distances(left, trajectory, points, names)
    _plot_map(right, trajectory, points, history[-model.max_seq_length :])
    try:
        with atomic_write(Path(path)) as part:
            figure.savefig(part, format=Path(path).suffix[1:] or "png", dpi=130)
    except ValueError as error:
        raise UserError(f"{path}: the picture cannot be written ({' '.join(str(error).split())})") from error


def _plot_distances(axes: Any, trajectory: Trajectory, points: Tensor, names: np.ndarray) -> None:
    """How far each state is from the recommended items; `points` [V, d] are the items' directions."""
    best, steps = trajectory.items[-1][:LABELLED], np.arange(len(trajectory.timestep))
    measured = distances(trajectory, points, best)
    for column, item in enumerate(best):
        label = f"{column + 1}  {_short(names[item])}"
        axes.plot(steps, measured.to_items[:, column], marker="o", markersize=3, label=label)
    axes.plot(steps, measured.median, color="0.6", linestyle="--", label="median of all items")
    axes.set(xlabel="timestep t", ylabel="distance of x_t's direction to the item's")
    axes.set_xticks(steps, ["x_0" if t is None else f"{t:.3g}" for t in trajectory.timestep])
    axes.legend(title="recommended, best first", fontsize=8)


def _plot_map(axes: Any, trajectory: Trajectory, points: Tensor, history: np.ndarray) -> None:
    """Items, history, states and recommended items, where their directions [V, d] lie."""
    best = trajectory.items[-1][:LABELLED]
    spots, way = plane(points[1:], directions(torch.from_numpy(trajectory.x)))
    spots = np.concatenate([np.full((1, 2), np.nan), spots])
    axes.scatter(*spots.T, s=4, color="0.8", label="items", rasterized=True)
    blues = {"c": np.arange(len(history)), "cmap": "Blues", "vmin": -len(history), "edgecolors": "0.3"}
    axes.scatter(*spots[history].T, s=30, label="history", **blues)
    axes.plot(*way.T, color="tab:orange", marker=".", linewidth=1, label="x_T to x_0")
    axes.scatter(*way[-1:].T, s=40, color="tab:orange", marker="s", zorder=3, label="x_0")
    axes.scatter(*spots[best].T, s=70, color="tab:red", marker="*", zorder=3, label="recommended")
    for rank, item in enumerate(best, start=1):
        axes.annotate(str(rank), spots[item], fontsize=9, xytext=(5, 4), textcoords="offset points")
    axes.annotate("x_T", way[0], fontsize=9, xytext=(5, 4), textcoords="offset points")
    axes.set(
        xlabel="first axis", ylabel="second axis", title="directions on the principal axes of items and trajectory"
    )
    axes.legend(fontsize=8)


def _short(name: str) -> str:
    # A dollar sign would begin a formula.
    name = name.replace("$", r"\$")
    return name if len(name) <= 28 else f"{name[:27]}…"
