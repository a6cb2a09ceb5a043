"""Draws of x_0 from a model's reverse process, several to a history, and the best items by them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.blocks import row_pieces
from ..diffusion.noise import HashedNoise, NoiseSource
from ..diffusion.samplers import sub_chain
from ..model.base import History

# The draws that stand for x itself; what spreads the condition has settings of its own.
SCALED = ("x_T", "reverse")


@contextmanager
def asked_for(model: Any, steps: int | None, seed: int | None) -> Iterator[None]:
    """Give a diffusion model another number of reverse steps and another seed, for as long as the context lasts."""
    before = model.timesteps, model.evaluation_noise
    if steps is not None:
        model.timesteps = sub_chain(model.process.diffusion_steps, steps)
    if seed is not None and seed != model.evaluation_noise.seed:
        model.evaluation_noise = HashedNoise(seed).to(model.item_embedding.weight.device)
    try:
        yield
    finally:
        model.timesteps, model.evaluation_noise = before


def batch(model: Any, histories: list[Tensor], width: int | None = None) -> dict[str, Tensor]:
    """An interaction of histories, int64 [L] each: the newest items that the model reads, padded on the right."""
    newest = [history[-model.max_seq_length :] for history in histories]
    items = torch.nn.utils.rnn.pad_sequence(newest, batch_first=True)
    items = F.pad(items, (0, (width or items.shape[1]) - items.shape[1]))
    device = next(model.parameters()).device
    length = torch.tensor([len(history) for history in newest])
    return {model.ITEM_SEQ: items.to(device), model.ITEM_SEQ_LEN: length.to(device)}


def draw_noise(model: Any, history: History, draws: range, scale: float = 1.0) -> NoiseSource:
    """Noise for a batch that holds the history once for each draw, draw by draw; x_T and the chain's noise are scaled.

    A row's noise is that of its draw alone, whatever else is in the batch.
    """
    sources = [model.inference_noise(history, draw) for draw in draws]

    def read(kind: str, timestep: int, shape: tuple[int, ...]) -> Tensor:
        rows = (shape[0] // len(sources), *shape[1:])
        noise = torch.cat([source(kind, timestep, rows) for source in sources])
        return noise * scale if kind in SCALED and scale != 1.0 else noise

    return read


def draw_points(model: Any, histories: list[Tensor], samples: int, noise_scale: float, rows: int) -> Tensor:
    """Restored x_0 [S, B, d] of each history from `samples` noises, in batches of about `rows` rows."""
    history = model.history(batch(model, histories))
    together = max(1, rows // len(histories))
    points = []
    for first in range(0, samples, together):
        draws = range(first, min(first + together, samples))
        repeated = History(*(None if part is None else _repeat(part, len(draws)) for part in history))  # type: ignore[arg-type]
        noise = draw_noise(model, history, draws, noise_scale)
        x_0 = model.reverse(repeated, noise)[-1].x
        points.append(x_0.view(len(draws), len(histories), -1))
    return torch.cat(points)


def _repeat(part: Tensor, times: int) -> Tensor:
    return part.repeat(times, *[1] * (part.dim() - 1))


def scores_of(model: Any, x_0: Tensor, items: Tensor) -> Tensor:
    """Scores [B, k] of `items` int64 [B, k] by draws x_0 [S, B, d], averaged as the model averages."""
    pieces = row_pieces(len(items), model.n_items)
    return torch.cat([model.score(x_0[:, piece]).gather(1, items[piece]) for piece in pieces])
