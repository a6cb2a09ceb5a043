"""Cross-entropy over a catalogue of any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..ranking import LARGEST_BLOCK


def catalogue_cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, largest_block: int = LARGEST_BLOCK
) -> Tensor:
    """Cross-entropy [B] of softmax(x weightᵀ + bias) against `target`, without holding all of [B, V] where V is large.

    Beyond `largest_block` scores the catalogue is taken in pieces, whose scores are computed again for the gradient.

    Parameters
    ----------
    x : Tensor [B, d]
    weight : Tensor [V, d]
    bias : Tensor [V] or None
    target : int64 Tensor [B]
        Rows of `weight`.
    largest_block : int
        Number of scores that may be held at once.
    """
    if x.shape[0] * weight.shape[0] <= largest_block:
        return F.cross_entropy(F.linear(x, weight, bias), target, reduction="none")
    piece = max(1, largest_block // x.shape[0])
    weights = weight.split(piece)
    biases: tuple[Tensor | None, ...] = (None,) * len(weights) if bias is None else bias.split(piece)
    normalisers = [
        checkpoint(_log_normaliser, x, part, offset, use_reentrant=False)
        for part, offset in zip(weights, biases, strict=True)
    ]
    wanted = (x * F.embedding(target, weight)).sum(dim=-1)
    if bias is not None:
        wanted = wanted + bias[target]
    return torch.stack(normalisers).logsumexp(dim=0) - wanted


def _log_normaliser(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x, weight, bias).logsumexp(dim=-1)
