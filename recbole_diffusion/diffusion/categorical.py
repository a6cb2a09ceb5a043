"""A discrete process: the state is an id, kept or drawn anew (Austin et al., 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from .noise import Noise, Shape, pick
from .process import Process, Tables, running_product, sub_chain


class CategoricalProcess(Process):
    """x_t is x_0 with probability abar_t, and else drawn from a prior: D3PM with rank-one transitions.

    Parameters
    ----------
    betas : Tensor
        [T]: the chance of each step that the state is drawn anew.
    prior : Tensor or None
        [K] probabilities of the states, of sum 1. All of it on one state makes that state a mask. Without it the
        prior is the end point, which every method is given: one that training changes.
    """

    draws = "uniform"

    def __init__(self, betas: Tensor, prior: Tensor | None) -> None:
        self.abar = running_product(betas)
        self._abar = Tables(self.abar)
        self.prior = None if prior is None else prior.double()
        self.has_end = prior is None
        self.longest_chain = len(self.abar)

    def prior_of(self, end: Tensor | None) -> Tensor:
        """The prior [K]: the process's own, or the end point."""
        prior = self.prior if end is None else end
        if prior is None:
            raise ValueError("a process without a prior of its own needs one, as 'end'")
        return prior

    def noise_like(self, x_0: Tensor, noise: Noise) -> Tensor:
        """Uniform numbers [..., 2] for ids x_0 [...]: whether it is kept, and what is drawn."""
        return noise.uniform("x_t", (*x_0.shape, 2))

    def sample(self, x_0: Tensor, timestep: Tensor, noise: Tensor, end: Tensor | None = None) -> Tensor:
        """x_t int64 for ids x_0 int64 [B] or [B, L], at timestep of the same shape."""
        kept = noise[..., 0] < self._abar.like(noise)[timestep]
        return torch.where(kept, x_0, pick(self.prior_of(end).to(noise.device), noise[..., 1].contiguous()))

    def start(self, shape: Shape, noise: Noise, end: Tensor | None = None) -> Tensor:
        """Ids int64 from the prior."""
        uniform = noise.uniform("x_T", (*shape, 1))[..., 0]
        return pick(self.prior_of(end).to(uniform.device), uniform)

    def posterior(self, x_0: Tensor, x_t: Tensor, timestep: int, next_timestep: int) -> Tensor:
        """Probabilities [B, K] of the state at an earlier step s, given x_t [B] and probabilities x_0 [B, K] of x_0.

        The sum over x_0 of p(x_0) q(x_s | x_t, x_0): Austin et al. (2021), equations 3 and 4. Transitions keep the
        state or draw it from the prior, so each sum has a closed form.
        """
        abar_t, abar_s = float(self.abar[timestep]), float(self.abar[next_timestep])
        prior = self.prior_of(None).to(x_0.device, x_0.dtype)
        here = torch.nn.functional.one_hot(x_t, len(prior)).to(x_0.dtype)
        # q(x_t | x_0) for every x_0, by which each is divided; 0 for an x_0 from which x_t cannot come.
        likelihood = abar_t * here + (1 - abar_t) * prior[x_t][:, None]
        weight = torch.where(likelihood > 0, x_0 / likelihood, 0.0)
        stays = abar_t / abar_s
        reaches = stays * here + (1 - stays) * prior[x_t][:, None]
        from_x_0 = abar_s * weight + (1 - abar_s) * prior * weight.sum(dim=-1, keepdim=True)
        return reaches * from_x_0

    def step(
        self,
        x0_hat: Tensor,
        x_t: Tensor,
        timestep: float,
        next_timestep: float | None,
        noise: Noise,
        end: Tensor | None = None,
    ) -> Tensor:
        """Ids int64 [B] by `earlier`; the last step keeps x0_hat, the log-probabilities [B, K]."""
        if next_timestep is None:
            return x0_hat
        probabilities = self.posterior(x0_hat.exp(), x_t, int(timestep), int(next_timestep))
        return self.earlier(probabilities, x_t, self.prior_of(end), noise)

    @staticmethod
    def earlier(probabilities: Tensor, x_t: Tensor, prior: Tensor, noise: Noise) -> Tensor:
        """Ids int64 [B] before x_t [B], by probabilities [B, K] of any sum.

        One to which the prior gives nothing was never drawn anew, and was there before. A network may find it so
        unlikely that its probability is 0.
        """
        chosen = noise.choice("reverse", probabilities, tuple(x_t.shape))
        return torch.where(prior.to(x_t.device)[x_t] > 0, chosen, x_t)

    def chain(self, steps: int) -> list[int] | list[float]:
        return sub_chain(self.longest_chain, steps)
