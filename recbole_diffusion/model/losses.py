"""Losses over a catalogue of any size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..common.blocks import LARGEST_BLOCK
from .sharing import Processes

# Scores of a piece on a CPU: 1 MB in float32, which a core's own cache holds.
CACHED_BLOCK = 2**18


def catalogue_cross_entropy(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    first_item: int = 0,
    largest_block: int = LARGEST_BLOCK,
    processes: Processes | None = None,
) -> Tensor:
    """Cross-entropy [B] of softmax(x weightᵀ + bias) against `target`, without holding all of [B, V] where V is large.

    On a CPU and beyond `largest_block` scores the catalogue is taken in pieces, in full precision under autocast too,
    and the gradient of the weight is filled piece by piece. Up to `largest_block` what the gradient needs of a
    piece is kept, beyond it the scores are computed again.

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
    processes : Processes, optional
        Which have the same x and targets, and rows of their own of one weight. A target that is not among this
        process's rows, and may be negative, is among those of another.
    """
    fits, piece = _pieces(x, weight, largest_block)
    if fits and x.device.type != "cpu" and processes is None:
        scores = F.linear(x, weight[first_item:], None if bias is None else bias[first_item:])
        return F.cross_entropy(scores, target - first_item, reduction="none")
    return _PiecewiseCrossEntropy.apply(x.to(weight.dtype), weight, bias, target, first_item, piece, fits, processes)


def place_cross_entropy(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    target: Tensor,
    first_item: int = 0,
    cross_entropy: Callable[..., Tensor] = catalogue_cross_entropy,
) -> Tensor:
    """Cross-entropy [B, L] of a target at every place; what stands where `target` is 0, behind a history, is no loss.

    Parameters
    ----------
    x : Tensor [B, L, d]
    weight, bias, first_item
        Those of `catalogue_cross_entropy`.
    target : int64 Tensor [B, L]
        Items, and 0 behind a history.
    cross_entropy : callable
        Computes the losses [n] of rows [n, d].
    """
    if target.device.type != "cpu":
        # Looking where the histories end would make a GPU wait.
        rows, items = x.flatten(0, -2), target.clamp(min=first_item).flatten()
        return cross_entropy(rows, weight, bias, items, first_item).view_as(target)
    real = target > 0
    loss = cross_entropy(x[real], weight, bias, target[real], first_item)
    return torch.zeros_like(real, dtype=loss.dtype).masked_scatter(real, loss)


def _pieces(x: Tensor, weight: Tensor, largest_block: int) -> tuple[bool, int]:
    """Whether all scores may be held at once, and the number of items of a piece."""
    block = min(CACHED_BLOCK, largest_block) if x.device.type == "cpu" else largest_block
    return x.shape[0] * weight.shape[0] <= largest_block, max(1, block // x.shape[0])


def _parts(weight: Tensor, first_item: int, piece: int) -> list[slice]:
    """The rows of `weight` [V, d] from `first_item` on, `piece` at a time."""
    return [slice(begin, min(begin + piece, len(weight))) for begin in range(first_item, len(weight), piece)]


class _PiecewiseCrossEntropy(torch.autograd.Function):
    """Scores stand as [V, B], the products of which are the quicker ones on a CPU."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        target: Tensor,
        first_item: int,
        piece: int,
        keeps: bool,
        processes: Processes | None,
    ) -> Tensor:
        ctx.processes = processes
        ctx.pieces = _parts(weight, first_item, piece)
        # Of each piece: log of its sum of exp(score), and where it is kept exp(score - largest) with the largest [B].
        log_sums, ctx.kept = [], []
        with torch.autocast(x.device.type, enabled=False):
            for part in ctx.pieces:
                scores = _scores(x, weight, bias, part)
                largest = scores.amax(dim=0)
                scores.sub_(largest).exp_()
                log_sums.append(scores.sum(dim=0).log_().add_(largest))
                if keeps:
                    ctx.kept.append((scores, largest))
            row = target if processes is None else target.clamp(0, len(weight) - 1)
            target_logit = (x * weight[row]).sum(dim=1)
        if bias is not None:
            target_logit = target_logit + bias[row]
        log_normaliser = torch.stack(log_sums).logsumexp(dim=0)
        if processes is not None:
            both = processes.each(torch.stack([log_normaliser, target_logit * (row == target)]))
            log_normaliser, target_logit = both[:, 0].logsumexp(dim=0), both[:, 1].sum(dim=0)
        ctx.save_for_backward(x, weight, bias, target, log_normaliser)
        return log_normaliser - target_logit

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, target, log_normaliser = ctx.saved_tensors
        upstream = grad_outputs[0]
        if ctx.processes is not None:
            # Each process uses the losses of its own rows.
            upstream = ctx.processes.each(upstream).sum(dim=0)
        grad_x, grad_weight = torch.zeros_like(x), torch.zeros_like(weight)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        every_row = torch.arange(len(target), device=target.device)
        # This pass uses them up; another one would compute the scores again.
        kept, ctx.kept = ctx.kept, []
        for number, part in enumerate(ctx.pieces):
            if kept:
                grad, largest = kept[number]
                grad.mul_((largest - log_normaliser).exp_().mul_(upstream))
            else:
                grad = _scores(x, weight, bias, part).sub_(log_normaliser).exp_().mul_(upstream)
            # The gradient of the scores: (softmax - one-hot) times what comes from above.
            inside = (target >= part.start) & (target < part.stop)
            # Where the target is not of this piece nothing is taken off; picking rows out would make a GPU wait.
            grad[(target - part.start).clamp(0, len(grad) - 1), every_row] -= upstream * inside
            grad_x += grad.T @ weight[part]
            torch.mm(grad, x, out=grad_weight[part])
            if grad_bias is not None:
                grad_bias[part] = grad.sum(dim=1)
        return grad_x, grad_weight, grad_bias, None, None, None, None, None


def catalogue_exp_sum(
    x: Tensor, weight: Tensor, bias: Tensor | None, without: Tensor, first_item: int, largest_block: int = LARGEST_BLOCK
) -> Tensor:
    """Sum [B] of exp(x weightᵀ + bias) over all items but `without`, int64 [B], in pieces as the cross-entropy.

    The other parameters are those of `catalogue_cross_entropy`.
    """
    fits, piece = _pieces(x, weight, largest_block)
    if fits and x.device.type != "cpu":
        scores = F.linear(x, weight, bias).scatter(1, without[:, None], -torch.inf)
        return scores[:, first_item:].exp().sum(dim=1)
    return _PiecewiseExpSum.apply(x.to(weight.dtype), weight, bias, without, first_item, piece, fits)


class _PiecewiseExpSum(torch.autograd.Function):
    """Summands stand as [V, B], as the scores of `_PiecewiseCrossEntropy`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        without: Tensor,
        first_item: int,
        piece: int,
        keeps: bool,
    ) -> Tensor:
        ctx.pieces = _parts(weight, first_item, piece)
        ctx.kept = []
        total = x.new_zeros(len(x))
        for part in ctx.pieces:
            summands = _summands(x, weight, bias, without, part)
            total += summands.sum(dim=0)
            if keeps:
                ctx.kept.append(summands)
        ctx.save_for_backward(x, weight, bias, without)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, without = ctx.saved_tensors
        upstream = grad_outputs[0]
        scaled = upstream[:, None] * x
        grad_x, grad_weight = torch.zeros_like(x), torch.zeros_like(weight)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        for number, part in enumerate(ctx.pieces):
            summands = ctx.kept[number] if ctx.kept else _summands(x, weight, bias, without, part)
            grad_x += summands.T @ weight[part]
            torch.mm(summands, scaled, out=grad_weight[part])
            if grad_bias is not None:
                grad_bias[part] = summands @ upstream
        return grad_x * upstream[:, None], grad_weight, grad_bias, None, None, None, None


def _summands(x: Tensor, weight: Tensor, bias: Tensor | None, without: Tensor, part: slice) -> Tensor:
    """exp(score), [items of the piece, B], 0 for what is left out."""
    with torch.autocast(x.device.type, enabled=False):
        summands = _scores(x, weight, bias, part).exp_()
    inside = (without >= part.start) & (without < part.stop)
    place = (without - part.start).clamp(0, len(summands) - 1)
    every_row = torch.arange(len(without), device=without.device)
    # Picking the rows out would make a GPU wait.
    summands[place, every_row] = summands[place, every_row].masked_fill(inside, 0.0)
    return summands


def _scores(x: Tensor, weight: Tensor, bias: Tensor | None, part: slice) -> Tensor:
    scores = weight[part] @ x.T
    return scores if bias is None else scores.add_(bias[part, None])


DISTANCES = ("l2", "l1", "huber", "cosine")


def distances(x: Tensor, y: Tensor, distance: str) -> Tensor:
    """Distance [...] of x and y [..., d] by one of `DISTANCES`.

    The mean over d of squared, absolute or Huber's differences (squared up to 1), or (1 - cosine)².
    """
    if distance == "cosine":
        return (1 - F.cosine_similarity(x, y, dim=-1)).square()
    loss = {"l2": F.mse_loss, "l1": F.l1_loss, "huber": F.smooth_l1_loss}[distance]
    return loss(x, y, reduction="none").mean(dim=-1)
