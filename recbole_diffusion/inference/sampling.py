"""Draws of x_0 from a model's reverse process, several to a history, and the best items by them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.blocks import row_pieces
from ..diffusion.noise import HashedNoise, Noise
from ..model.base import History

# The draws that stand for x itself; what spreads the condition has settings of its own.
SCALED = ("x_T", "reverse")
# Why there may be NaN or infinity in what a model gives.
TOO_LARGE = "the weights are damaged, or a setting such as temperature or noise_scale is too large"


@contextmanager
def overridden(model: Any, steps: int | None, seed: int | None) -> Iterator[None]:
    """Give a diffusion model another number of reverse steps and another seed, for as long as the context lasts."""
    before = model.timesteps, model.evaluation_noise
    # A chain of the model's own, such as PreferDiff's `ddim_stride`, is not the even one of as many steps.
    if steps is not None and steps != len(model.timesteps):
        model.timesteps = model.process.chain(steps)
    if seed is not None and seed != model.evaluation_noise.seed:
        model.evaluation_noise = HashedNoise(seed).to(model.item_embedding.weight.device)
    try:
        yield
    finally:
        model.timesteps, model.evaluation_noise = before


@contextmanager
def with_settings(model: Any, settings: Mapping[str, float]) -> Iterator[None]:
    """Give a model other values of settings that it reads anew each time, such as `guidance_scale`, in a context."""
    before = {key: getattr(model, key) for key in settings}
    try:
        for key, value in settings.items():
            setattr(model, key, value)
        yield
    finally:
        for key, value in before.items():
            setattr(model, key, value)


def batch(model: Any, histories: list[Tensor], width: int | None = None) -> dict[str, Tensor]:
    """An interaction of histories, int64 [L] each: the newest items that the model reads, padded on the right."""
    newest = [history[-model.max_seq_length :] for history in histories]
    items = torch.nn.utils.rnn.pad_sequence(newest, batch_first=True)
    items = F.pad(items, (0, (width or items.shape[1]) - items.shape[1]))
    device = next(model.parameters()).device
    length = torch.tensor([len(history) for history in newest])
    return {model.ITEM_SEQ: items.to(device), model.ITEM_SEQ_LEN: length.to(device)}


class StackedNoise(Noise):
    """Noise for a batch that holds each history once for each source, source by source.

    A row's numbers are those of its own source, whatever else is in the batch.

    Parameters
    ----------
    sources : list of Noise
    temperature : float
        The start x_T and the noise of the reverse steps are multiplied by it.
    """

    def __init__(self, sources: list[Noise], temperature: float = 1.0) -> None:
        self.sources, self.temperature = sources, temperature

    def at(self, step: int) -> Noise:
        return StackedNoise([source.at(step) for source in self.sources], self.temperature)

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        rows = (shape[0] // len(self.sources), *shape[1:])
        numbers = torch.cat([source.normal(name, rows) for source in self.sources])
        return numbers * self.temperature if name in SCALED and self.temperature != 1.0 else numbers

    def uniform(self, name: str, shape: tuple[int, ...]) -> Tensor:
        rows = (shape[0] // len(self.sources), *shape[1:])
        return torch.cat([source.uniform(name, rows) for source in self.sources])


def stacked_noise(model: Any, history: History, draws: range, temperature: float = 1.0) -> Noise:
    """The noises of these draws, for a batch that holds each history once a draw."""
    return StackedNoise([model.inference_noise(history, draw) for draw in draws], temperature)


def draw_points(model: Any, histories: list[Tensor], samples: int, temperature: float, rows: int) -> Tensor:
    """Restored x_0 [S, B, ...] of each history from `samples` noises, in batches of about `rows` rows."""
    history = model.history(batch(model, histories))
    together = max(1, rows // len(histories))
    points = []
    for first in range(0, samples, together):
        draws = range(first, min(first + together, samples))
        mask = None if history.mask is None else history.mask.repeat(len(draws), 1)
        items, length = history.items.repeat(len(draws), 1), history.length.repeat(len(draws))
        repeated = history._replace(items=items, length=length, mask=mask)
        x_0 = model.restored(repeated, stacked_noise(model, history, draws, temperature))[0]
        points.append(x_0.view(len(draws), len(histories), *x_0.shape[1:]))
    return torch.cat(points)


def item_scores(model: Any, x_0: Tensor, items: Tensor) -> Tensor:
    """Scores [B, k] of `items` int64 [B, k] by draws x_0 [S, B, d], averaged as the model averages."""
    pieces = row_pieces(len(items), model.n_items)
    return torch.cat([model.score(x_0[:, piece]).gather(1, items[piece]) for piece in pieces])
