"""Reverse processes as plain functions: from a start x_T to x_0, a step at a time.

Each takes `denoise`, a function (x_t, timestep, noise) -> x0_hat, and yields a `ReverseStep` for each of `timesteps`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .noise import Noise
from .process import GaussianProcess, Process, posterior

REVERSE_VARIANCES = ("posterior", "beta")
Denoise = Callable[[Tensor, float, Noise], Tensor]


class ChainCoefficients(NamedTuple):
    """x_prev = a x0_hat + b x_t + s noise; each float64 [K], in the order of the chain."""

    a: Tensor
    b: Tensor
    s: Tensor


class ReverseStep(NamedTuple):
    """What one reverse step made of x at `timestep`: the network's x0_hat, and the next x."""

    timestep: float
    x0_hat: Tensor
    x: Tensor


def chain_coefficients(
    process: GaussianProcess,
    timesteps: Sequence[int],
    sampler: str = "ddpm",
    reverse_variance: str = "posterior",
    eta: float = 0.0,
) -> ChainCoefficients:
    """Each reverse step as a linear map, on a chain that jumps between timesteps and at last to x_0.

    On the chain, beta' = 1 - abar_t / abar_prev takes the place of beta_t, where abar_prev is that of the
    chain's next timestep, and 1 for the last step, which therefore gives x0_hat without noise.

    Parameters
    ----------
    process : GaussianProcess
        Gives abar.
    timesteps : sequence of int
        Strictly descending, see `process.sub_chain`.
    sampler : {'ddpm', 'ddim'}
        DDPM: Ho et al. (2020), equations 6 and 7. DDIM: Song et al. (2021), equations 12 and 16.
    reverse_variance : {'posterior', 'beta'}
        DDPM's variance: that of q(x_prev | x_t, x_0), with which a perfect network keeps every marginal, or
        beta', as in the authors' code of DiffuRec. DDIM takes no notice of it.
    eta : float
        DDIM's noise, from 0 (none) to 1 (equal to DDPM with 'posterior'). DDPM takes no notice of it.

    Raises
    ------
    ValueError
        An argument is none of those above.
    """
    if sampler not in ("ddpm", "ddim"):
        raise ValueError(f"the sampler must be ddpm or ddim, got {sampler!r}")
    if reverse_variance not in REVERSE_VARIANCES:
        names = ", ".join(REVERSE_VARIANCES)
        raise ValueError(f"the reverse variance must be one of {names}, got {reverse_variance!r}")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be from 0 to 1, got {eta}")
    bounds = itertools.pairwise([process.diffusion_steps, *timesteps, -1])
    if not timesteps or any(later >= earlier for earlier, later in bounds):
        last = process.diffusion_steps - 1
        raise ValueError(f"timesteps must fall, from {last} at most to 0 at least, got {list(timesteps)}")

    abar = process.abar[list(timesteps)]
    abar_prev = torch.cat([abar[1:], abar.new_ones(1)])
    # The difference first: 1 - abar / abar_prev loses the digits of a small beta'.
    beta = (abar_prev - abar) / abar_prev
    c1, c2, variance = posterior(beta, abar, abar_prev)
    if sampler == "ddpm":
        chosen = variance if reverse_variance == "posterior" else beta * (abar_prev < 1)
        return ChainCoefficients(c1, c2, chosen.sqrt())
    # Equal to sqrt(1 - abar_prev - s^2) / sqrt(1 - abar), without the cancellation.
    b = ((1 - abar_prev) * ((1 - eta**2) * beta + (1 - abar_prev) * abar / abar_prev)).sqrt() / (1 - abar)
    return ChainCoefficients(abar_prev.sqrt() - b * abar.sqrt(), b, eta * variance.sqrt())


def noise_at(noise: Noise, timestep: float, index: int) -> Noise:
    """The noise of a step: by its timestep, or by its number in the chain where time is continuous."""
    return noise.at(timestep if isinstance(timestep, int) else index)


def ancestral(
    denoise: Denoise,
    x: Tensor,
    process: Process,
    timesteps: Sequence[float],
    noise: Noise,
    end: Tensor | None = None,
) -> Iterator[ReverseStep]:
    """The process's own steps, whatever it is: Gaussian, a bridge, a flow, or discrete.

    Parameters
    ----------
    denoise : callable
        (x_t, timestep, noise) -> x0_hat; given the timestep of the whole process, on a sub-chain too.
    x : Tensor
        Start of the chain, any shape.
    process : Process
    timesteps : sequence
        In the order of use, see `Process.chain`.
    noise : Noise
    end : Tensor, optional
        See `Process`.
    """
    for index, (timestep, later) in enumerate(zip(timesteps, [*timesteps[1:], None], strict=True)):
        here = noise_at(noise, timestep, index)
        x0_hat = denoise(x, timestep, here)
        x = process.step(x0_hat, x, timestep, later, here, end)
        yield ReverseStep(timestep, x0_hat, x)


def _linear(
    denoise: Denoise, x: Tensor, timesteps: Sequence[int], noise: Noise, coefficients: ChainCoefficients
) -> Iterator[ReverseStep]:
    for timestep, a, b, s in zip(timesteps, *(c.tolist() for c in coefficients), strict=True):
        here = noise.at(timestep)
        x0_hat = denoise(x, timestep, here)
        x = a * x0_hat + b * x
        if s > 0:
            x = x + s * here.normal("reverse", tuple(x.shape))
        yield ReverseStep(timestep, x0_hat, x)


def ddpm(
    denoise: Denoise,
    x: Tensor,
    process: GaussianProcess,
    timesteps: Sequence[int],
    noise: Noise,
    *,
    reverse_variance: str = "posterior",
    eta: float = 0.0,
) -> Iterator[ReverseStep]:
    """DDPM (Ho et al., 2020, algorithm 2); with the posterior's variance it is `ancestral` on a Gaussian process.

    Parameters are those of `ancestral` and `chain_coefficients`, which raises ValueError at the first step.
    """
    coefficients = chain_coefficients(process, timesteps, "ddpm", reverse_variance)
    yield from _linear(denoise, x, timesteps, noise, coefficients)


def ddim(
    denoise: Denoise,
    x: Tensor,
    process: GaussianProcess,
    timesteps: Sequence[int],
    noise: Noise,
    *,
    reverse_variance: str = "posterior",
    eta: float = 0.0,
) -> Iterator[ReverseStep]:
    """DDIM (Song et al., 2021); `eta` is the share of the posterior's noise.

    Parameters are those of `ancestral` and `chain_coefficients`, which raises ValueError at the first step.
    """
    coefficients = chain_coefficients(process, timesteps, "ddim", eta=eta)
    yield from _linear(denoise, x, timesteps, noise, coefficients)


def dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    process: GaussianProcess,
    timesteps: Sequence[int],
    noise: Noise,
    *,
    reverse_variance: str = "posterior",
    eta: float = 0.0,
) -> Iterator[ReverseStep]:
    """DPM-Solver++(2M) (Lu et al., 2022, algorithm 2): deterministic, and each step reads the one before it too.

    Parameters are those of `ancestral`.
    """
    abar = process.abar[list(timesteps)]
    signal, spread = abar.sqrt().tolist(), (1 - abar).sqrt().tolist()
    half_log_snr = (0.5 * (abar / (1 - abar)).log()).tolist()
    before: Tensor | None = None
    for index, timestep in enumerate(timesteps):
        x0_hat = denoise(x, timestep, noise.at(timestep))
        if index + 1 == len(timesteps):
            x = x0_hat
        else:
            gap = half_log_snr[index + 1] - half_log_snr[index]
            direction = x0_hat
            if before is not None:
                ratio = 0.5 * gap / (half_log_snr[index] - half_log_snr[index - 1])
                direction = (1 + ratio) * x0_hat - ratio * before
            shrunk = spread[index + 1] / spread[index]
            # alpha_s (1 - exp(-gap)), where exp(-gap) = sigma_s alpha_t / (sigma_t alpha_s).
            x = shrunk * x + (signal[index + 1] - shrunk * signal[index]) * direction
        before = x0_hat
        yield ReverseStep(timestep, x0_hat, x)


# By the names of the setting `reverse_sampler`.
SAMPLERS: dict[str, Callable[..., Iterator[ReverseStep]]] = {"ddpm": ddpm, "ddim": ddim, "dpmpp_2m": dpmpp_2m}
