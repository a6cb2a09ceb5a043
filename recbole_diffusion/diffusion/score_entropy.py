"""A discrete process that is reversed by ratios of probabilities (Lou, Meng and Ermon, 2024: "SEDD")."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .categorical import CategoricalProcess
from .noise import Noise
from .process import Tables

# Ratios that contradict each other would make some weights negative. None falls below this share of its ratio, so that
# all items of one prior probability have an order: that of their ratios.
_LEAST = 1e-9


class ScoreEntropyProcess(CategoricalProcess):
    """`CategoricalProcess` in terms of s, where exp(s_y) stands for p_t(y) / p_t(x_t); the prior is the end point.

    abar_t = exp(-σ_t), where σ_t is what has been drawn anew until t. T steps stand for the times from 0 to 1.

    Parameters
    ----------
    betas : Tensor [T]
        With T of 2 at least.

    Attributes
    ----------
    sigma, rate : Tensor
        float64 [T]: σ_t and dσ/dt, by the differences of log σ.
    sigmas : Tables
        σ_t on any device.

    Raises
    ------
    ValueError
        T is below 2.
    """

    def __init__(self, betas: Tensor) -> None:
        super().__init__(betas, prior=None)
        if len(betas) < 2:
            raise ValueError(f"diffusion_steps must be at least 2, got {len(betas)}")
        self.sigma = -self.abar.log()
        (slope,) = torch.gradient(self.sigma.log(), spacing=1 / (len(betas) - 1))
        self.rate = self.sigma * slope
        self.sigmas = Tables(self.sigma)
        self._rate = Tables(self.rate)

    def loss(
        self, exp_sum: Tensor, mean: Tensor, s_0: Tensor, x_0: Tensor, x_t: Tensor, timestep: Tensor, prior: Tensor
    ) -> Tensor:
        """Score entropy [B] by what it takes of s: Σ_y exp(s_y), Σ_y p(y) s_y, and s of x_0, each [B].

        dσ/dt p(x_t) Σ_y [exp(s_y) - r_y s_y + r_y (log r_y - 1)] with r_y = q(y) / q(x_t) and q = q(. | x_0) at t: Lou
        et al. (2024), equation 9, for transitions to a prior p. It is 0 where exp(s) = r, and never negative. Its
        integral over t bounds -log p(x_0). s_y must be 0 for y = x_t, and far below 0 for y of no probability; where
        p(x_t) is 0 the sums must be finite.

        Parameters
        ----------
        exp_sum, mean, s_0 : Tensor [B]
        x_0, x_t : int64 Tensor [B]
        timestep : int64 Tensor [B]
        prior : Tensor [K]
        """
        abar, rate = (table.like(s_0)[timestep] for table in (self._abar, self._rate))
        fresh = 1 - abar
        q_0, q_t = (self._marginal(y, x_0, abar, prior) for y in (x_0, x_t))
        # Sums over all y of q_y s_y and of q_y log q_y: q is (1 - abar) p but at x_0.
        by_s = abar * s_0 + fresh * mean
        fresh_0 = fresh * prior[x_0]
        of_fresh = torch.xlogy(fresh, fresh) * prior.sum() + fresh * torch.xlogy(prior, prior).sum()
        negentropy = of_fresh - torch.xlogy(fresh_0, fresh_0) + torch.xlogy(q_0, q_0)
        divergence = exp_sum + (negentropy - by_s - q_t.log() - 1) / q_t
        return rate * prior[x_t] * divergence

    def probability(self, x_t: Tensor, x_0: Tensor, timestep: Tensor, prior: Tensor) -> Tensor:
        """q(x_t | x_0) [B] at timestep [B]."""
        return self._marginal(x_t, x_0, self._abar.like(prior)[timestep], prior)

    @staticmethod
    def _marginal(y: Tensor, x_0: Tensor, abar: Tensor, prior: Tensor) -> Tensor:
        return abar * (y == x_0) + (1 - abar) * prior[y]

    @torch.no_grad()
    def weights(self, s: Tensor, x_t: Tensor, gap: float, prior: Tensor) -> Tensor:
        """Weights [B, K] of the states before x_t [B], by s [B, K], where σ was smaller by `gap`.

        With exact ratios they are Bayes' rule up to a factor: p(y) there times the probability to come from y to x_t.
        """
        shrunk = math.exp(-gap)
        ratio = s.softmax(dim=-1)
        # Ratios of the earlier time: what the prior gave is taken off.
        earlier = ratio - (1 - shrunk) * prior
        torch.maximum(earlier, ratio.mul_(_LEAST), out=earlier)
        here = x_t[:, None]
        return earlier.scatter_(1, here, earlier.gather(1, here) * self._stays(x_t, shrunk, prior))

    @staticmethod
    def _stays(x_t: Tensor, shrunk: float, prior: Tensor) -> Tensor:
        """How many times as likely x_t [B] is to come from itself as from another state, [B, 1].

        From another state it comes by being drawn anew. Where that cannot be, all is its own.
        """
        anew = ((1 - shrunk) * prior[x_t]).clamp(min=4 * torch.finfo(prior.dtype).tiny)
        return (1 + shrunk / anew)[:, None]

    def log_x_0(self, s: Tensor, x_t: Tensor, timestep: float, prior: Tensor) -> Tensor:
        """Log-probabilities [B, K] of x_0, given x_t [B] and s [B, K] there: `weights` down to x_0, in logarithms."""
        shrunk = math.exp(-float(self.sigma[int(timestep)]))
        log_ratio = s.log_softmax(dim=-1)
        earlier = (log_ratio.exp() - (1 - shrunk) * prior).clamp_(min=0).log_()
        earlier = torch.maximum(earlier, log_ratio.add_(math.log(_LEAST)))
        here = x_t[:, None]
        own = earlier.gather(1, here) + self._stays(x_t, shrunk, prior).log()
        # Where all is its own it is the first, however large the s of others.
        first = earlier.amax(dim=1, keepdim=True) + 1
        own = torch.where(prior[here] > 0, own, own.maximum(first))
        return earlier.scatter(1, here, own).log_softmax(dim=-1)

    def step(
        self,
        x0_hat: Tensor,
        x_t: Tensor,
        timestep: float,
        next_timestep: float | None,
        noise: Noise,
        end: Tensor | None = None,
    ) -> Tensor:
        """Ids int64 [B] by `weights`, where s takes the place of x0_hat; the last step gives `log_x_0`."""
        prior = self.prior_of(end).to(x0_hat)
        if next_timestep is None:
            return self.log_x_0(x0_hat, x_t, timestep, prior)
        gap = float(self.sigma[int(timestep)] - self.sigma[int(next_timestep)])
        return self.earlier(self.weights(x0_hat, x_t, gap, prior), x_t, prior, noise)
