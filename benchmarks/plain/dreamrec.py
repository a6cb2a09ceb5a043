"""DreamRec in plain code."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.plain.parts import PlainForm
from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.model.dreamrec import DreamRec
from recbole_diffusion.model.losses import distances


class PlainDreamRec(PlainForm, DreamRec):
    """DreamRec: as in its authors' code the history is encoded once, at every place, and a step has two passes.

    One pass is under the history and one under the trained vector, each with an encoding of the step for every row.
    """

    def history_vector(self, items: Tensor, length: Tensor) -> Tensor:
        embedded = self.item_embedding(items) + self.position_embedding.weight[: items.shape[1]]
        z = self.dropped(embedded, self.embedding_dropout.probability)
        return self.read_newest(self.encoder, z, items, length)

    def restore(self, x_t: Tensor, timestep: Tensor, h: Tensor) -> Tensor:
        """x0_hat [B, d]."""
        return self.output(self.mix(torch.cat([self.noise_scale * x_t, h, self.step_mlp(timestep)], dim=-1)))

    def loss(self, items: Tensor, length: Tensor, target: Tensor, noise: Noise) -> Tensor:
        x_0, timestep, weight, x_t = self.noised(target, noise)
        h = self.some_without(self.history_vector(items, length), self.no_history, noise)
        x0_hat = self.restore(x_t, timestep, h)
        distance = distances(x_0, x0_hat, self.distance)
        losses = self.compared(distance, x_0, timestep, h, noise)
        if self.ce_weight:
            losses = losses + self.ce_weight * self.cross_entropy(x0_hat, target)
        return self.mean_loss(losses, timestep, weight, learns_from=distance)

    def compared(self, distance: Tensor, x_0: Tensor, timestep: Tensor, h: Tensor, noise: Noise) -> Tensor:
        """The loss [B] by the distance [B] of the target from its prediction."""
        return distance

    def x_0_of(self, items: Tensor, length: Tensor, noise: Noise) -> Tensor:
        h = self.history_vector(items, length)
        nothing, w = self.no_history.expand_as(h), self.guidance_scale

        def network(x_t: Tensor, timestep: Tensor, noise: Noise) -> Tensor:
            return (1 + w) * self.restore(x_t, timestep, h) - w * self.restore(x_t, timestep, nothing)

        return self.reverse(network, len(items), noise)
