"""Classifier-free guidance: a wrapper round a network that has a condition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .noise import Noise

# (x_t, timestep, noise) -> output
Network = Callable[[Tensor, Tensor, Noise], Tensor]


def guided(conditional: Network, unconditional: Network, scale: float) -> Network:
    """The output (1 + w) f(x_t, t, c) - w f(x_t, t, none): Ho & Salimans (2022), equation 6.

    Both networks are given the same x_t and the same noise.

    Parameters
    ----------
    conditional, unconditional : callable
    scale : float
        w; 0 leaves the conditional network as it is.
    """
    if scale == 0:
        return conditional

    def network(x_t: Tensor, timestep: Tensor, noise: Noise) -> Tensor:
        with_condition = conditional(x_t, timestep, noise)
        return (1 + scale) * with_condition - scale * unconditional(x_t, timestep, noise)

    return network


def choose_rows(kept: Tensor, condition: Any, replacement: Any) -> Any:
    """Row by row the condition where `kept` bool [B], else the replacement.

    Parameters
    ----------
    kept : Tensor
    condition, replacement : Tensor [B, ...], or tuples of such and None
        Of one structure; a replacement may be broadcast over the rows.
    """
    if isinstance(condition, Tensor):
        rows = kept.view(-1, *[1] * (condition.dim() - 1))
        return torch.where(rows, condition, replacement)
    if isinstance(condition, tuple):
        parts = [choose_rows(kept, *pair) for pair in zip(condition, replacement, strict=True)]
        return type(condition)(*parts) if hasattr(condition, "_fields") else tuple(parts)
    return condition
