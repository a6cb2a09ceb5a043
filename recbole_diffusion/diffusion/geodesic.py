"""Gaussian steps on the unit sphere, as an option in the code of ADRec has them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .noise import Noise
from .process import GaussianProcess, Process
from .samplers import chain_coefficients

# Keeps the direction of a vector of length 0 finite.
_EPS = 1e-8


class GeodesicProcess(Process):
    """x_t = cos|v| x_0 + sin|v| v / |v|, where v is the x_t of a Gaussian process for x_0 of length 1.

    A reverse step is the Gaussian one, brought to length 1.

    Parameters
    ----------
    gaussian : GaussianProcess
    reverse_variance : {'posterior', 'beta'}
        As in `samplers.chain_coefficients`.
    """

    def __init__(self, gaussian: GaussianProcess, reverse_variance: str = "posterior") -> None:
        self.gaussian, self.reverse_variance = gaussian, reverse_variance
        self.longest_chain = gaussian.longest_chain

    def sample(self, x_0: Tensor, timestep: Tensor, noise: Tensor, end: Tensor | None = None) -> Tensor:
        v = self.gaussian.sample(x_0, timestep, noise)
        angle = torch.linalg.vector_norm(v, dim=-1, keepdim=True)
        return angle.cos() * x_0 + angle.sin() * v / (angle + _EPS)

    def step(
        self,
        x0_hat: Tensor,
        x_t: Tensor,
        timestep: float,
        next_timestep: float | None,
        noise: Noise,
        end: Tensor | None = None,
    ) -> Tensor:
        if next_timestep is None:
            return F.normalize(x0_hat, dim=-1)
        pair = [int(timestep), int(next_timestep)]
        a, b, s = (float(part[0]) for part in chain_coefficients(self.gaussian, pair, "ddpm", self.reverse_variance))
        return F.normalize(a * x0_hat + b * x_t + s * noise.normal("reverse", tuple(x_t.shape)), dim=-1)

    def chain(self, steps: int) -> list[int] | list[float]:
        return self.gaussian.chain(steps)
