"""A flow on the unit sphere, along the shortest path from the data (t = 0) to an end point (t = 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .noise import Noise, Shape
from .process import MOST_EULER_STEPS, Process, require_steps

# The cosine of an angle is kept this far from -1 and 1, where the angle has no gradient and its sine is 0.
_MARGIN = 1e-6


class SphereFlow(Process):
    """x_t goes from x_0 to the end point at constant speed; both are brought to length 1. Nothing is random.

    With θ the angle between them, x_t = (sin((1 - t)θ) x_0 + sin(tθ) end) / sin θ. This is exp_{x_0}(t log_{x_0} end).
    """

    has_end = True
    draws = None
    longest_chain = MOST_EULER_STEPS

    def noise_like(self, x_0: Tensor, noise: Noise) -> Tensor:
        """x_0 itself: no number is needed."""
        return x_0

    def sample(self, x_0: Tensor, timestep: Tensor, noise: Tensor, end: Tensor | None = None) -> Tensor:
        """x_t [..., d] for float timesteps [...]."""
        start, end, angle = ends_and_angle(x_0, end)
        t = timestep[..., None]
        return (((1 - t) * angle).sin() * start + (t * angle).sin() * end) / angle.sin()

    def velocity(self, x_0: Tensor, timestep: Tensor, end: Tensor | None) -> Tensor:
        """dx_t/dt [..., d] for float timesteps [...]: as long as the angle."""
        start, end, angle = ends_and_angle(x_0, end)
        t = timestep[..., None]
        return angle * ((t * angle).cos() * end - ((1 - t) * angle).cos() * start) / angle.sin()

    def start(self, shape: Shape, noise: Noise, end: Tensor | None = None) -> Tensor:
        """The end point."""
        return F.normalize(given(end), dim=-1)

    def step(
        self,
        x0_hat: Tensor,
        x_t: Tensor,
        timestep: float,
        next_timestep: float | None,
        noise: Noise,
        end: Tensor | None = None,
    ) -> Tensor:
        """Euler's step against the velocity (x_t - x0_hat) / t, brought to length 1."""
        share = (next_timestep or 0.0) / timestep
        return F.normalize(x0_hat + share * (x_t - x0_hat), dim=-1)

    def chain(self, steps: int) -> list[int] | list[float]:
        require_steps(steps, self.longest_chain)
        return [1 - i / steps for i in range(steps)]


def given(end: Tensor | None) -> Tensor:
    if end is None:
        raise ValueError("a flow on the sphere needs the point to which it goes, as 'end'")
    return end


def ends_and_angle(x_0: Tensor, end: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Both ends of a path [..., d] at length 1, and the angle [..., 1] between them."""
    start, end = F.normalize(x_0, dim=-1), F.normalize(given(end), dim=-1)
    cosine = (start * end).sum(dim=-1, keepdim=True)
    return start, end, torch.acos(cosine.clamp(-1 + _MARGIN, 1 - _MARGIN))
