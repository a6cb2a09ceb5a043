"""ADRec in plain code."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain.parts import PlainForm, places_before
from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.model.adrec import ADRec
from recbole_diffusion.model.base import at_last


class PlainADRec(PlainForm, ADRec):
    """ADRec: as in its authors' code the encoder runs once, and at each step the decoder at every place.

    A step is encoded for every place. The cross-entropy reads the real places alone: all would be too many scores.
    """

    given: ClassVar = {
        "decoder": ("attention",),
        "causal": (True,),
        "geodesic": (False,),
        "shared_timestep": (False,),
        "pcgrad": (False,),
        "step_sampler": ("uniform",),
        "guidance_drop": (0,),
        "guidance_scale": (0,),
    }

    def encoded(self, items: Tensor) -> Tensor:
        """c [B, L, d]."""
        embedded = self.embedding_norm(self.dropped(self.item_embedding(items), self.embedding_dropout.probability))
        return self.through(self.encoder, embedded, places_before(items.shape[1], items.device))[-1]

    def restore(self, x_t: Tensor, timestep: Tensor, c: Tensor) -> Tensor:
        """x0_hat [B, L, d] by x_t [B, L, d] and timesteps [B, L]."""
        step = self.step_mlp(timestep.flatten()).view_as(x_t)
        z = c + self.noise_scale * (x_t + step)
        return self.through(self.decoder, z, places_before(z.shape[1], z.device))[-1]  # type: ignore[arg-type]

    def loss(self, items: Tensor, length: Tensor, target: Tensor, noise: Noise) -> Tensor:
        targets, real = self.targets_of(items, length, target), items > 0
        timestep, _ = self.step_sampler.sample(tuple(targets.shape), noise)
        c, x_0 = self.encoded(items), self.item_embedding(targets)
        x_t = self.process.sample(x_0, timestep, noise.normal("x_t", tuple(x_0.shape)), c)
        x0_hat = self.restore(x_t, timestep, c)
        ce = self.cross_entropy(x0_hat[real], targets[real]).mean()
        mse = mean_of_rows((x0_hat - x_0).square().mean(dim=-1), real)
        return self.ce_weight * ce + self.mse_weight * mse

    def x_0_of(self, items: Tensor, length: Tensor, noise: Noise) -> Tensor:
        """Before the newest place the items stand clean, with t = 0."""
        c, rows = self.encoded(items), torch.arange(len(items), device=items.device)
        newest = (rows, length - 1)
        clean = self.item_embedding(F.pad(items[:, 1:], (0, 1)))

        def network(x_t: Tensor, timestep: Tensor, noise: Noise) -> Tensor:
            timesteps = torch.zeros_like(items).index_put(newest, timestep)
            return at_last(self.restore(clean.index_put(newest, x_t), timesteps, c), length)

        return self.reverse(network, len(items), noise, at_last(c, length))


def mean_of_rows(losses: Tensor, real: Tensor) -> Tensor:
    """The mean over rows of each row's mean over its real places, of losses [B, L]."""
    return (losses * real / real.sum(dim=1, keepdim=True)).sum(dim=1).mean()
