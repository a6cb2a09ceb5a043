"""The reverse chain, DDPM and DDIM, for networks that predict x_0."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .process import GaussianProcess, posterior

SAMPLERS = ("ddpm", "ddim")
REVERSE_VARIANCES = ("posterior", "beta")


class ChainCoefficients(NamedTuple):
    """x_prev = a x0_hat + b x_t + s noise; each float64 [K], in the order of the chain."""

    a: Tensor
    b: Tensor
    s: Tensor


class ReverseStep(NamedTuple):
    """What one reverse step made of x at `timestep`: the network's x0_hat, and the next x."""

    timestep: int
    x0_hat: Tensor
    x: Tensor


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
    if not 1 <= inference_steps <= diffusion_steps:
        raise ValueError(f"{inference_steps} inference steps: 1 to {diffusion_steps} (all) would do")
    last, gaps = diffusion_steps - 1, inference_steps - 1
    if not gaps:
        return [last]
    # Rounded half up in integers: since last >= gaps, no two are equal.
    return [(2 * i * last + gaps) // (2 * gaps) for i in range(gaps, -1, -1)]


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
        Strictly descending, see `sub_chain`.
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
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}: one of {', '.join(SAMPLERS)} is needed")
    if reverse_variance not in REVERSE_VARIANCES:
        names = ", ".join(REVERSE_VARIANCES)
        raise ValueError(f"unknown reverse variance {reverse_variance!r}: one of {names} is needed")
    if not 0 <= eta <= 1:
        raise ValueError(f"eta = {eta}: a number from 0 to 1 is needed")
    bounds = itertools.pairwise([process.diffusion_steps, *timesteps, -1])
    if not timesteps or any(later >= earlier for earlier, later in bounds):
        last = process.diffusion_steps - 1
        raise ValueError(f"timesteps {list(timesteps)}: they must fall, from {last} at most to 0 at least")

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


def reverse_chain(
    denoise: Callable[[Tensor, int], Tensor],
    x_T: Tensor,
    process: GaussianProcess,
    timesteps: Sequence[int],
    *,
    noise: Callable[[int], Tensor],
    sampler: str = "ddpm",
    reverse_variance: str = "posterior",
    eta: float = 0.0,
) -> Iterator[ReverseStep]:
    """DDPM (Ho et al., 2020, algorithm 2) or DDIM (Song et al., 2021) from x_T to x_0, one step at a time.

    Parameters
    ----------
    denoise : callable
        (x_t, timestep) -> x0_hat, like x_t; given the timestep of the whole process, on a sub-chain too.
    x_T : Tensor
        Start of the chain, any shape.
    process, timesteps, sampler, reverse_variance, eta
        As in `chain_coefficients`, which raises ValueError at the first step.
    noise : callable
        timestep -> standard normal draw like x_T; called for steps that add noise only.

    Yields
    ------
    ReverseStep
        One for each timestep.
    """
    coefficients = chain_coefficients(process, timesteps, sampler, reverse_variance, eta)
    x = x_T
    for timestep, a, b, s in zip(timesteps, *(c.tolist() for c in coefficients), strict=True):
        x0_hat = denoise(x, timestep)
        x = a * x0_hat + b * x
        if s > 0:
            x = x + s * noise(timestep)
        yield ReverseStep(timestep, x0_hat, x)
