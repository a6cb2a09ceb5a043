"""Processes: how a state is noised, and how it comes back step by step."""

from __future__ import annotations

import logging
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .noise import Noise, Shape
from .schedules import is_valid

_logger = logging.getLogger(__name__)
_LARGEST_LAST_ABAR = 0.1
# Steps of a chain in continuous time, at most: far fewer are enough, and each of them is held.
MOST_EULER_STEPS = 10_000
PREDICTION_TYPES = ("x0", "eps", "v")


class Process:
    """What a model noises and how: Gaussian steps, a bridge, a flow, states that are ids.

    A subclass gives `sample`, `start`, `step` and `chain`. A timestep is a whole number, or a float where time is
    continuous. `end` is where the process ends, if that is given: the end point of a bridge or of a flow on the sphere,
    the z of a flow's path, the prior of ids that training changes.
    """

    # Whether `sample` and `start` read the end point.
    has_end: bool = False
    # Which random numbers the reverse process takes: normal ones, which a temperature can multiply; uniform ones; none.
    draws: Literal["normal", "uniform"] | None = "normal"
    # The most steps that a chain can have.
    longest_chain: int

    def noise_like(self, x_0: Tensor, noise: Noise) -> Tensor:
        """The random numbers that `sample` takes for x_0: standard normals of its shape."""
        return noise.normal("x_t", tuple(x_0.shape))

    def sample(self, x_0: Tensor, timestep: Tensor, noise: Tensor, end: Tensor | None = None) -> Tensor:
        """x_t ~ q(x_t | x_0) for timestep [B] or [B, L], with the numbers of `noise_like`."""
        raise NotImplementedError(f"{type(self).__name__} needs a method 'sample(x_0, timestep, noise, end)'")

    def start(self, shape: Shape, noise: Noise, end: Tensor | None = None) -> Tensor:
        """The state of `shape` from which the reverse process starts; by default x_T ~ N(0, I)."""
        return noise.normal("x_T", shape)

    def step(
        self,
        x0_hat: Tensor,
        x_t: Tensor,
        timestep: float,
        next_timestep: float | None,
        noise: Noise,
        end: Tensor | None = None,
    ) -> Tensor:
        """The state at `next_timestep`, given x_t and the prediction x0_hat; None for the last step, to x_0."""
        raise NotImplementedError(f"{type(self).__name__} needs a method 'step(x0_hat, x_t, timestep, ...)'")

    def chain(self, steps: int) -> list[int] | list[float]:
        """The timesteps of a reverse process of so many steps, in the order of use.

        Raises
        ------
        ValueError
            A number of steps that the process does not have.
        """
        raise NotImplementedError(f"{type(self).__name__} needs a method 'chain(steps)'")


class NoProcess(Process):
    """The off-switch: x_t holds nothing of x_0, no number is drawn, and the first prediction is the answer.

    x_t is `fill` throughout, or the end point where the process that is switched off has one.

    Parameters
    ----------
    fill : float
        0 for vectors; for states that are ids the one that says nothing.
    """

    draws = None
    longest_chain = 1

    def __init__(self, fill: float = 0, has_end: bool = False, dtype: torch.dtype = torch.float32) -> None:
        self.fill, self.dtype = fill, dtype
        self.has_end = has_end

    def noise_like(self, x_0: Tensor, noise: Noise) -> Tensor:
        return x_0

    def sample(self, x_0: Tensor, timestep: Tensor, noise: Tensor, end: Tensor | None = None) -> Tensor:
        return torch.full_like(x_0, self.fill) if end is None else end

    def start(self, shape: Shape, noise: Noise, end: Tensor | None = None) -> Tensor:
        return torch.full(shape, self.fill, dtype=self.dtype) if end is None else end

    def step(
        self,
        x0_hat: Tensor,
        x_t: Tensor,
        timestep: float,
        next_timestep: float | None,
        noise: Noise,
        end: Tensor | None = None,
    ) -> Tensor:
        return x0_hat

    def chain(self, steps: int) -> list[int] | list[float]:
        return [0]


class Tables:
    """Numbers of each timestep, and copies of them on the devices and in the types that were asked for.

    Parameters
    ----------
    exact : Tensor
        float64 [..., T] on the CPU.
    """

    def __init__(self, exact: Tensor) -> None:
        self.exact = exact
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def like(self, other: Tensor) -> Tensor:
        """The numbers on the device and in the type of another tensor."""
        # Kept, since a copy to a GPU for each batch would wait for the GPU.
        key = (other.device, other.dtype)
        if key not in self._copies:
            self._copies[key] = self.exact.to(other)
        return self._copies[key]

    def at(self, timestep: Tensor, other: Tensor) -> Tensor:
        """The numbers at each timestep, shaped to be multiplied with another tensor [*timestep.shape, ...]."""
        numbers = self.like(other)[..., timestep]
        return numbers.reshape(*numbers.shape, *[1] * (other.dim() - timestep.dim()))


def require_steps(inference_steps: int, longest_chain: int) -> None:
    """Refuse a chain of so many steps.

    Raises
    ------
    ValueError
        The number is not from 1 to that of the longest chain.
    """
    if not 1 <= inference_steps <= longest_chain:
        raise ValueError(f"inference_steps must be from 1 to {longest_chain}, got {inference_steps}")


def sub_chain(diffusion_steps: int, inference_steps: int) -> list[int]:
    """Timesteps of a chain of K of the T steps, descending and evenly spread.

    Parameters
    ----------
    diffusion_steps : int
        T.
    inference_steps : int
        K, from 1 to T.

    Returns
    -------
    list of int
        K different timesteps from T - 1 down, to 0 where K >= 2.

    Raises
    ------
    ValueError
        K is not from 1 to T.
    """
    require_steps(inference_steps, diffusion_steps)
    last, gaps = diffusion_steps - 1, inference_steps - 1
    if not gaps:
        return [last]
    # Rounded half up in integers: since last >= gaps, no two are equal.
    return [(2 * i * last + gaps) // (2 * gaps) for i in range(gaps, -1, -1)]


def running_product(betas: Tensor) -> Tensor:
    """abar, float64 [T]: the running product of 1 - beta.

    Raises
    ------
    ValueError
        Betas outside (0, 1), or so many steps that abar no longer falls in float64.
    """
    if betas.dim() != 1 or not len(betas) or not is_valid(betas):
        raise ValueError("betas must be a vector of values between 0 and 1, both excluded")
    abar = torch.cumprod(1 - betas.double(), 0)
    if not bool((abar.diff(prepend=abar.new_ones(1)) < 0).all()):
        raise ValueError(f"abar does not fall at each of {len(betas)} steps in float64: take fewer")
    return abar


class Posterior(NamedTuple):
    """q(x_prev | x_t, x_0) = N(c1 x_0 + c2 x_t, variance)."""

    c1: Tensor
    c2: Tensor
    variance: Tensor


def posterior(beta: Tensor, abar: Tensor, abar_prev: Tensor) -> Posterior:
    """Coefficients of q(x_prev | x_t, x_0): Ho et al. (2020), equations 6 and 7.

    Parameters
    ----------
    beta, abar, abar_prev : Tensor
        Of one shape; `beta` = 1 - abar / abar_prev is the variance of the transition from x_prev to x_t.
    """
    return Posterior(
        c1=beta * abar_prev.sqrt() / (1 - abar),
        c2=(1 - abar_prev) * (abar / abar_prev).sqrt() / (1 - abar),
        variance=beta * (1 - abar_prev) / (1 - abar),
    )


class GaussianProcess(Process):
    """Forward process x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise, for t = 0 ... T - 1.

    A warning is logged where abar of the last step is far from 0: a reverse chain that starts from N(0, I)
    then does not start where the forward process ends.

    Parameters
    ----------
    betas : Tensor
        [T], each between 0 and 1.

    Attributes
    ----------
    betas, abar : Tensor
        float64 [T] on the CPU; abar is the running product of 1 - beta.

    Raises
    ------
    ValueError
        Betas outside (0, 1), or so many steps that abar no longer falls in float64.
    """

    def __init__(self, betas: Tensor) -> None:
        self.betas = torch.as_tensor(betas, dtype=torch.float64, device="cpu")
        self.abar = running_product(self.betas)
        self.longest_chain = len(self.betas)
        # sqrt(abar) and sqrt(1 - abar), [2, T].
        self._marginal = Tables(torch.stack([self.abar, 1 - self.abar]).sqrt())

        last = self.abar[-1].item()
        if last > _LARGEST_LAST_ABAR:
            _logger.warning(
                "abar of the last of %d diffusion steps is %.3g, far from 0: a reverse chain from N(0, I) "
                "does not start where the forward process ends; another noise schedule or more steps would",
                self.diffusion_steps,
                last,
            )

    @property
    def diffusion_steps(self) -> int:
        """T."""
        return len(self.betas)

    def sample(self, x_0: Tensor, timestep: Tensor, noise: Tensor, end: Tensor | None = None) -> Tensor:
        """Draw from q(x_t | x_0): Ho et al. (2020), equation 4.

        Parameters
        ----------
        x_0 : Tensor
            [B, ...], any floating dtype and device.
        timestep : Tensor
            int64 [B], or [B, L] for a step of each place; each from 0 to T - 1.
        noise : Tensor
            Standard normal, shaped like x_0.
        end : None

        Returns
        -------
        Tensor
            x_t, like x_0.
        """
        signal, spread = self.marginal(timestep, x_0)
        return signal * x_0 + spread * noise

    def marginal(self, timestep: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar) and sqrt(1 - abar) at each timestep, shaped to be multiplied with `like` [B, ...]."""
        signal, spread = self._marginal.at(timestep, like)
        return signal, spread

    def to_x_0(self, output: Tensor, x_t: Tensor, timestep: Tensor, prediction_type: str) -> Tensor:
        """x0_hat from what a network predicts: x_0 itself, the noise eps, or v = sqrt(abar) eps - sqrt(1 - abar) x_0.

        v is that of Salimans & Ho (2022), appendix D.
        """
        if prediction_type == "x0":
            return output
        signal, spread = self.marginal(timestep, x_t)
        return signal * x_t - spread * output if prediction_type == "v" else (x_t - spread * output) / signal

    def step(
        self,
        x0_hat: Tensor,
        x_t: Tensor,
        timestep: float,
        next_timestep: float | None,
        noise: Noise,
        end: Tensor | None = None,
    ) -> Tensor:
        """Draw from q(x_s | x_t, x_0 = x0_hat) for an earlier step s: Ho et al. (2020), equations 6 and 7."""
        if next_timestep is None:
            return x0_hat
        abar, abar_prev = self.abar[int(timestep)], self.abar[int(next_timestep)]
        c1, c2, variance = (float(part) for part in posterior((abar_prev - abar) / abar_prev, abar, abar_prev))
        return c1 * x0_hat + c2 * x_t + variance**0.5 * noise.normal("reverse", tuple(x_t.shape))

    def chain(self, steps: int) -> list[int] | list[float]:
        return sub_chain(self.diffusion_steps, steps)
