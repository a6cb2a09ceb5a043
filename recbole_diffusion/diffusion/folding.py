"""A reverse chain as one affine map, where the network is affine in x_t and the condition."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .samplers import ChainCoefficients


class FoldedChain(NamedTuple):
    """x_0 = start x_T + shift g + offset + Σ_k noise[k] ε_k, for column vectors.

    start, shift : [d, d]
    offset : [d]
    noise : [d, d] for each step that adds noise, None for the others, in the order of the chain
    """

    start: Tensor
    shift: Tensor
    offset: Tensor
    noise: list[Tensor | None]

    def __call__(self, x_T: Tensor, g: Tensor) -> Tensor:
        """x_0 [B, d] of a chain without noise, from x_T [B, d] and g [B, d]."""
        return torch.cat([x_T, g], dim=-1) @ torch.cat([self.start, self.shift], dim=1).T + self.offset


def fold(weight: Tensor, offsets: Tensor, coefficients: ChainCoefficients) -> FoldedChain:
    """Fold the chain x ← a x0_hat + b x + s ε, where x0_hat = weight x + g + offset_k at its k-th step.

    Costs a product of two d × d matrices a step, in double, so it pays where d is not thousands.

    Parameters
    ----------
    weight : Tensor
        [d, d].
    offsets : Tensor
        [K, d], what the network adds at each step, in the order of the chain.
    coefficients : ChainCoefficients
        Those of the chain, see `chain_coefficients`.
    """
    like = weight
    # In double: the product of hundreds of steps would gather rounding.
    weight, offsets = weight.double(), offsets.double()
    behind = torch.eye(len(weight), dtype=weight.dtype, device=weight.device)
    shift, offset = torch.zeros_like(weight), torch.zeros_like(offsets[0])
    noise: list[Tensor | None] = []
    # From the last step to the first: `behind` is the product of the maps of the steps behind this one.
    for a, b, s, added in reversed(list(zip(*(c.tolist() for c in coefficients), offsets, strict=True))):
        noise.append((s * behind).to(like) if s > 0 else None)
        shift = shift + a * behind
        offset = offset + a * (behind @ added)
        behind = b * behind + a * (behind @ weight)
    return FoldedChain(behind.to(like), shift.to(like), offset.to(like), noise[::-1])
