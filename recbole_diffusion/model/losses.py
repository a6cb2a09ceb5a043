"""Cross-entropy over a catalogue of any size."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..ranking import LARGEST_BLOCK

# Scores of a piece: 4 MB in float32, which a CPU's cache holds; larger pieces take up to twice the time.
CACHED_BLOCK = 2**20


def catalogue_cross_entropy(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    first_item: int = 0,
    largest_block: int = LARGEST_BLOCK,
) -> Tensor:
    """Cross-entropy [B] of softmax(x weightᵀ + bias) against `target`, without holding all of [B, V] where V is large.

    Beyond `largest_block` scores the catalogue is taken in pieces, whose scores are computed again for the gradient, in
    full precision under autocast too; the gradient of the weight is filled piece by piece.

    Parameters
    ----------
    x : Tensor [B, d]
    weight : Tensor [V, d]
    bias : Tensor [V] or None
    target : int64 Tensor [B]
        Rows of `weight`, from `first_item` on.
    first_item : int
        The rows of `weight` before this one are no candidates.
    largest_block : int
        Number of scores that may be held at once.
    """
    if x.shape[0] * weight.shape[0] > largest_block:
        piece = max(1, min(CACHED_BLOCK, largest_block) // x.shape[0])
        return _PiecewiseCrossEntropy.apply(x.to(weight.dtype), weight, bias, target, first_item, piece)
    scores = F.linear(x, weight[first_item:], None if bias is None else bias[first_item:])
    return F.cross_entropy(scores, target - first_item, reduction="none")


class _PiecewiseCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, first_item: int, piece: int
    ) -> Tensor:
        ctx.pieces = [slice(begin, min(begin + piece, len(weight))) for begin in range(first_item, len(weight), piece)]
        log_normaliser = torch.full_like(x[:, 0], -torch.inf)
        with torch.autocast(x.device.type, enabled=False):
            for part in ctx.pieces:
                log_normaliser = log_normaliser.logaddexp(_scores(x, weight, bias, part).logsumexp(dim=1))
            wanted = (x * weight[target]).sum(dim=1)
        if bias is not None:
            wanted = wanted + bias[target]
        ctx.save_for_backward(x, weight, bias, target, log_normaliser)
        return log_normaliser - wanted

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, target, log_normaliser = ctx.saved_tensors
        upstream = grad_outputs[0]
        grad_x, grad_weight = torch.zeros_like(x), torch.zeros_like(weight)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        for part in ctx.pieces:
            # The gradient of the scores: (softmax - one-hot) times what comes from above.
            grad = _scores(x, weight, bias, part).sub_(log_normaliser[:, None]).exp_().mul_(upstream[:, None])
            rows = ((target >= part.start) & (target < part.stop)).nonzero()[:, 0]
            grad[rows, target[rows] - part.start] -= upstream[rows]
            grad_x.addmm_(grad, weight[part])
            torch.mm(grad.T, x, out=grad_weight[part])
            if grad_bias is not None:
                grad_bias[part] = grad.sum(dim=0)
        return grad_x, grad_weight, grad_bias, None, None, None


def _scores(x: Tensor, weight: Tensor, bias: Tensor | None, part: slice) -> Tensor:
    return F.linear(x, weight[part], None if bias is None else bias[part])
