"""PreferGrow in plain code."""

from __future__ import annotations

import math
from itertools import zip_longest
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain.parts import PlainForm
from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.model.layers import rotated, step_angles
from recbole_diffusion.model.prefergrow import PreferGrow

# As in the model: s of a state that cannot be.
_NEVER = -1e4
# As in the process: below this share no factor of a weight falls.
_LEAST = 1e-9


class PlainPreferGrow(PlainForm, PreferGrow):
    """PreferGrow: as in its authors' code each step encodes the history anew and scores all items twice.

    Once with the history and once without; guidance is of the scores. Score entropy and the weights of a step are
    written out over all states.
    """

    given: ClassVar = {"prior": ("pair", "point", "hybrid")}

    def history_vector(self, items: Tensor, length: Tensor) -> Tensor:
        z = self.dropped(rotated(self.item_embedding(items)), self.embedding_dropout.probability)
        return self.read_newest(self.encoder, z, items, length)

    def plain_ratios(self, x_t: Tensor, timestep: Tensor, h: Tensor) -> Tensor:
        """s [B, V]."""
        angles = step_angles(self.process.sigma.to(h)[timestep], self.sigma_mlp[0].in_features)  # type: ignore[arg-type]
        step = self.sigma_mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(h.dtype))
        s = self.scored(self.mix(torch.cat([self.item_embedding(x_t), h, step], dim=-1)))
        if not self.may_be_disliked:
            s = s.index_fill(1, self.disliked, _NEVER)
        return s.scatter(1, x_t[:, None], 0.0)

    def loss(self, items: Tensor, length: Tensor, target: Tensor, noise: Noise) -> Tensor:
        timestep, weight = self.step_sampler.sample((len(target),), noise)
        prior = self.fixed_prior
        x_t = self.process.sample(target, timestep, noise.uniform("x_t", (len(target), 2)), prior)
        h = self.some_without(self.history_vector(items, length), self.no_history, noise)
        s = self.plain_ratios(x_t, timestep, h)
        return self.mean_loss(self.score_entropy(s, target, x_t, timestep), timestep, weight)

    def score_entropy(self, s: Tensor, x_0: Tensor, x_t: Tensor, timestep: Tensor) -> Tensor:
        """dσ/dt p(x_t) Σ_y [exp(s_y) - r_y s_y + r_y (log r_y - 1)] with r_y = q(y) / q(x_t), [B]."""
        prior = self.fixed_prior
        abar, rate = (table.to(s)[timestep, None] for table in (self.process.abar, self.process.rate))
        q = abar * F.one_hot(x_0, self.n_items) + (1 - abar) * prior
        r = q / q.gather(1, x_t[:, None])
        # A row whose x_t is not of the prior counts for nothing.
        chance = prior[x_t][:, None]
        s = s.masked_fill(chance == 0, 0.0)
        terms = s.exp() - r * s + torch.xlogy(r, r) - r
        return (rate * chance * terms).sum(dim=-1)

    def weights(self, s: Tensor, x_t: Tensor, gap: float) -> Tensor:
        """Weights [B, V] of the states before x_t [B], where σ was smaller by `gap`; in float64, as some are tiny."""
        shrunk, prior = math.exp(-gap), self.fixed_prior.double()
        ratio = s.double().softmax(dim=-1)
        earlier = torch.maximum(ratio - (1 - shrunk) * prior, _LEAST * ratio)
        anew = ((1 - shrunk) * prior[x_t])[:, None].clamp(min=4 * torch.finfo(s.dtype).tiny)
        return earlier * (shrunk * F.one_hot(x_t, self.n_items) + anew)

    def x_0_of(self, items: Tensor, length: Tensor, noise: Noise) -> Tensor:
        """Log-probabilities [B, V]."""
        rows, w = len(items), self.guidance_scale
        timesteps = [int(timestep) for timestep in self.timesteps]
        x = self.process.start((rows,), noise.at(timesteps[0]), self.fixed_prior)
        for timestep, later in zip_longest(timesteps, timesteps[1:]):
            step = torch.full((rows,), timestep, device=x.device)
            h = self.history_vector(items, length)
            s = (1 + w) * self.plain_ratios(x, step, h) - w * self.plain_ratios(x, step, self.no_history.expand_as(h))
            sigma = self.process.sigma
            weights = self.weights(s, x, float(sigma[timestep] - (0.0 if later is None else sigma[later])))
            if later is None:
                x = (weights / weights.sum(dim=-1, keepdim=True)).log().to(h.dtype)
            else:
                x = noise.at(timestep).choice("reverse", weights, (rows,))
        return x.index_fill(1, self.disliked, -torch.inf).log_softmax(dim=-1)

    def ranked(self, x_0: Tensor) -> Tensor:
        return x_0
