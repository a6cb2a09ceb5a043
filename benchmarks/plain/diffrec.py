"""DiffRec in plain code."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain.parts import PlainForm, keys_seen
from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.model.base import at_last
from recbole_diffusion.model.diffrec import DiffRec
from recbole_diffusion.model.layers import step_angles


class PlainDiffRec(PlainForm, DiffRec):
    """DiffRec, whose authors published no code: items are embedded once, and each step reads the whole sequence."""

    given: ClassVar = {"noise_positions": ("last",), "rounding": ("tied",), "rounding_reads": ("prediction",)}

    def continuous(self, items: Tensor, name: str, noise: Noise) -> Tensor:
        embedded = self.item_embedding(items)
        return embedded + self.embedding_spread * noise.normal(name, tuple(embedded.shape))

    def restore(self, x_t: Tensor, timestep: Tensor, embedded: Tensor, length: Tensor) -> Tensor:
        """x0_hat [B, d] by x_t in a slot behind the history's embeddings [B, L, d]."""
        rows, places = torch.arange(len(x_t), device=x_t.device), torch.arange(embedded.shape[1] + 1, device=x_t.device)
        sequence = F.pad(embedded, (0, 0, 0, 1)).index_put((rows, length), self.noise_scale * x_t)
        from_newest = (length[:, None] - places).clamp(min=0)
        angles = step_angles(timestep + 1, self.hidden_size)
        step = self.step_encoding_scale * torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
        sequence = sequence + self.position_embedding(from_newest) + step[:, None]
        z = self.dropped(self.input_norm(sequence), self.input_dropout.probability)
        encoded = self.through(self.encoder, z, keys_seen(places <= length[:, None]))[-1]
        return at_last(self.output(self.output_norm(encoded)), length + 1)

    def loss(self, items: Tensor, length: Tensor, target: Tensor, noise: Noise) -> Tensor:
        timestep, weight = self.step_sampler.sample((len(target),), noise)
        x_0 = self.continuous(target, "target", noise)
        x_t = self.process.sample(x_0, timestep, noise.normal("x_t", tuple(x_0.shape)))
        x0_hat = self.restore(x_t, timestep, self.continuous(items, "history", noise), length)
        truth = torch.where((timestep == 0)[:, None], self.item_embedding(target), x_0)
        bound = (truth - x0_hat).square().sum(dim=-1)
        losses = bound + self.rounding_weight * self.cross_entropy(x0_hat, target)
        return self.mean_loss(losses, timestep, weight, learns_from=bound)

    def x_0_of(self, items: Tensor, length: Tensor, noise: Noise) -> Tensor:
        embedded = self.item_embedding(items)

        def network(x_t: Tensor, timestep: Tensor, noise: Noise) -> Tensor:
            return self.restore(x_t, timestep, embedded, length)

        return self.reverse(network, len(items), noise)

    def ranked(self, x_0: Tensor) -> Tensor:
        scores = self.scored(x_0)
        scores[:, 0] = -torch.inf
        return scores.log_softmax(dim=-1)
