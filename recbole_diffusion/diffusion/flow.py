"""A flow on straight lines from noise (t = 0) to data (t = 1), in continuous time."""

from __future__ import annotations

from torch import Tensor

from .noise import Noise
from .process import MOST_EULER_STEPS, Process, require_steps


class FlowProcess(Process):
    """x_t = t x_0 + (1 - t) z with z ~ N(0, I): Lipman et al. (2023), Liu et al. (2023), "rectified flow".

    The end point of a path is its z. At inference that is the start of the chain, which the sampler hands to each step.

    A step is x + (x0_hat - z) / N, as in the code of FMRec. Every velocity is measured from the same z, so the sum
    telescopes: after N steps x is the mean of the N predictions, whatever z was.

    Parameters
    ----------
    eps : float
        The earliest time, 0 <= eps < 1. The times of a chain are eps + (1 - eps) i / N.
    """

    longest_chain = MOST_EULER_STEPS

    def __init__(self, eps: float = 0.0) -> None:
        if not 0 <= eps < 1:
            raise ValueError(f"eps must be from 0 to below 1, got {eps}")
        self.eps = eps

    def sample(self, x_0: Tensor, timestep: Tensor, noise: Tensor, end: Tensor | None = None) -> Tensor:
        """x_t for float timesteps [B]."""
        t = timestep.view(*timestep.shape, *[1] * (x_0.dim() - timestep.dim()))
        return t * x_0 + (1 - t) * noise

    def step(
        self,
        x0_hat: Tensor,
        x_t: Tensor,
        timestep: float,
        next_timestep: float | None,
        noise: Noise,
        end: Tensor | None = None,
    ) -> Tensor:
        if end is None:
            raise ValueError("a step of a flow needs the z from which the chain started, as 'end'")
        # 1 / N, by the spacing of the times.
        share = ((1.0 if next_timestep is None else next_timestep) - timestep) / (1 - self.eps)
        return x_t + share * (x0_hat - end)

    def chain(self, steps: int) -> list[int] | list[float]:
        require_steps(steps, self.longest_chain)
        return [self.eps + (1 - self.eps) * i / steps for i in range(steps)]
