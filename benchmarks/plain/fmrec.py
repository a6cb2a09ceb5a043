"""FMRec in plain code."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from benchmarks.plain.diffurec import PlainDiffuRec
from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.model.base import at_last
from recbole_diffusion.model.fmrec import FMRec

# In the authors' code.
STEPS = 30


class PlainFMRec(PlainDiffuRec, FMRec):
    """FMRec: a step is one of DiffuRec's; in training the history decoder rebuilds the whole table of rows and items.

    Of the table the items of the histories and the drawn zeros count. The decoder is left out at inference.
    """

    @classmethod
    def authors_steps(cls, config: Any) -> int:
        return STEPS

    def loss(self, items: Tensor, length: Tensor, target: Tensor, noise: Noise) -> Tensor:
        x_0, timestep, weight, x_t = self.noised(target, noise)
        hidden = self.hidden(x_t, timestep, self.embedded(items), items, noise)
        x0_hat = self.read(hidden, length)
        squared = (x0_hat - x_0).square().mean(dim=-1)
        rows = self.weights["mse"] * squared + self.weights["ce"] * self.cross_entropy(x0_hat, target)
        loss = self.mean_loss(rows, timestep, weight)
        if not self.weights["decoder"]:
            return loss
        encoded = at_last(hidden[self.tapped_block - 1], length)
        return loss + self.weights["decoder"] * self.rebuilt_loss(encoded, items, noise)

    def rebuilt_loss(self, encoded: Tensor, items: Tensor, noise: Noise) -> Tensor:
        """Squared error of the table [B, V] rebuilt from `encoded` [B, d], on its ones and as many drawn zeros."""
        held = torch.zeros(len(items), self.n_items, device=items.device).scatter(1, items, 1.0)
        held[:, 0] = 0.0
        zeros = (held.flatten() == 0).nonzero()[:, 0]
        uniform = noise.uniform("history_zeros", (math.ceil(max(1.0, self.zeros_ratio)) * items.numel(),))
        number = min(int(self.zeros_ratio * float(held.sum())), len(zeros))
        drawn = zeros[(uniform[:number].double() * len(zeros)).long()]
        counts = held.flatten().index_fill(0, drawn, 1.0).view_as(held)
        return ((self.history_decoder(encoded) - held).square() * counts).sum() / held.numel()
