"""RFMRec in plain code."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain.adrec import mean_of_rows
from benchmarks.plain.parts import PlainForm, places_before
from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.model.base import at_last
from recbole_diffusion.model.rfmrec import RFMRec


class PlainRFMRec(PlainForm, RFMRec):
    """RFMRec: as in its author's code the encoder runs once, and the steps are of the newest place alone.

    The cross-entropy reads the real places alone, as there. The velocity is that of the closed form, where the author
    differentiates the path.
    """

    given: ClassVar = {"similarity": ("cosine",)}

    def encoded(self, items: Tensor) -> Tensor:
        """h [B, L, d]."""
        embedded = self.hidden_size**0.5 * self.item_embedding(items)
        z = self.embedding_norm(self.dropped(embedded, self.embedding_dropout.probability))
        return self.through(self.encoder, z, places_before(items.shape[1], items.device))[-1]

    def velocity(self, x_t: Tensor, timestep: Tensor) -> Tensor:
        return self.flow(torch.cat([x_t, self.step_mlp(timestep.flatten()).view_as(x_t)], dim=-1))

    def scored(self, x: Tensor) -> Tensor:
        similarity = F.normalize(x, dim=-1) @ F.normalize(self.item_embedding.weight, dim=-1).T
        return similarity / self.similarity_temperature

    def loss(self, items: Tensor, length: Tensor, target: Tensor, noise: Noise) -> Tensor:
        targets, real = self.targets_of(items, length, target), items > 0
        timestep, _ = self.step_sampler.sample(tuple(targets.shape), noise)
        h, x_0 = self.encoded(items), self.item_embedding(targets)
        velocity = self.process.velocity(x_0, timestep, h).detach()
        predicted = self.velocity(self.process.sample(x_0, timestep, x_0, h), timestep)
        ce = self.cross_entropy(h[real], targets[real]).mean()
        return ce + self.velocity_weight * mean_of_rows((predicted - velocity).square().mean(dim=-1), real)

    def x_0_of(self, items: Tensor, length: Tensor, noise: Noise) -> Tensor:
        def network(x_t: Tensor, timestep: Tensor, noise: Noise) -> Tensor:
            return x_t - timestep[:, None] * self.velocity(x_t, timestep)

        return self.reverse(network, len(items), noise, at_last(self.encoded(items), length))
