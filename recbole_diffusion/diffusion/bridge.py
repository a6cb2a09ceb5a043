"""A Brownian bridge: from x_0 to an end point that is known at inference too."""

from __future__ import annotations

import torch
from torch import Tensor

from .noise import Noise, Shape
from .process import Process, Tables, sub_chain

# b runs from here to 1 less it: at 0 and 1 a bridge has no variance, and its steps would divide by 0.
_MARGIN = 1e-4


class BridgeProcess(Process):
    """x_t = (1 - b_t) x_0 + b_t end + sqrt(δ_t) noise, with δ_t = μ b_t (1 - b_t) and t = 0 ... T - 1.

    The process is that of Li et al. (2023), "BBDM". Its reverse process starts at the end point itself.

    Parameters
    ----------
    diffusion_steps : int
        T, at least 2.
    variance : float
        μ; 0 leaves a straight line.

    Attributes
    ----------
    b : Tensor
        float64 [T], from 0.0001 to 0.9999.

    Raises
    ------
    ValueError
        T is below 2: the only step would be x_0 itself.
    """

    has_end = True

    def __init__(self, diffusion_steps: int, variance: float = 1.0) -> None:
        if diffusion_steps < 2:
            raise ValueError(f"diffusion_steps must be at least 2, got {diffusion_steps}")
        self.b = torch.linspace(_MARGIN, 1 - _MARGIN, diffusion_steps, dtype=torch.float64)
        self.variance = variance
        self.longest_chain = diffusion_steps
        # b and sqrt(δ), [2, T].
        self._marginal = Tables(torch.stack([self.b, (variance * self.b * (1 - self.b)).sqrt()]))

    def sample(self, x_0: Tensor, timestep: Tensor, noise: Tensor, end: Tensor | None = None) -> Tensor:
        """Draw from q(x_t | x_0, end).

        Parameters
        ----------
        x_0, noise, end : Tensor [B, ...]
        timestep : int64 Tensor [B] or [B, L]
        """
        b, spread = self._marginal.at(timestep, x_0)
        return (1 - b) * x_0 + b * self._given(end) + spread * noise

    def start(self, shape: Shape, noise: Noise, end: Tensor | None = None) -> Tensor:
        return self._given(end)

    def step(
        self,
        x0_hat: Tensor,
        x_t: Tensor,
        timestep: float,
        next_timestep: float | None,
        noise: Noise,
        end: Tensor | None = None,
    ) -> Tensor:
        """Draw from q(x_s | x_t, x_0 = x0_hat, end) for an earlier step s.

        It is the bridge between x_0 and x_t: the path before t does not depend on the end point.
        """
        if next_timestep is None:
            return x0_hat
        b, b_s = float(self.b[int(timestep)]), float(self.b[int(next_timestep)])
        kept = b_s / b
        spread = (self.variance * (b - b_s) * kept) ** 0.5
        return (1 - kept) * x0_hat + kept * x_t + spread * noise.normal("reverse", tuple(x_t.shape))

    def chain(self, steps: int) -> list[int] | list[float]:
        return sub_chain(self.longest_chain, steps)

    @staticmethod
    def _given(end: Tensor | None) -> Tensor:
        if end is None:
            raise ValueError("a bridge needs its end point: the model needs a method 'end_point(condition, history)'")
        return end
