"""The Gaussian forward process and its posterior."""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
from torch import Tensor

from .schedules import is_valid

_logger = logging.getLogger(__name__)
_LARGEST_LAST_ABAR = 0.1


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


class GaussianProcess:
    """Forward process x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) noise, for t = 0 ... T - 1.

    A warning is logged where abar of the last step is far from 0: a reverse chain that starts from N(0, I)
    then does not start where the forward process ends.

    Parameters
    ----------
    betas : Tensor
        [T], each between 0 and 1.

    Attributes
    ----------
    betas, abar, abar_prev, c1, c2, posterior_variance : Tensor
        float64 [T] on the CPU; abar is the running product of 1 - beta, abar_prev that of the step before
        (1 before the first), and the others are those of `Posterior` for single steps.

    Raises
    ------
    ValueError
        Betas outside (0, 1), or so many steps that abar no longer falls in float64.
    """

    def __init__(self, betas: Tensor) -> None:
        self.betas = torch.as_tensor(betas, dtype=torch.float64, device="cpu")
        if self.betas.dim() != 1 or not len(self.betas) or not is_valid(self.betas):
            raise ValueError("betas must be a vector of values between 0 and 1, both excluded")
        self.abar = torch.cumprod(1 - self.betas, 0)
        self.abar_prev = torch.cat([self.abar.new_ones(1), self.abar[:-1]])
        if not bool((self.abar < self.abar_prev).all()):
            raise ValueError(f"abar does not fall at each of {len(self.betas)} steps in float64: take fewer")
        self.c1, self.c2, self.posterior_variance = posterior(self.betas, self.abar, self.abar_prev)
        self._marginal_copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

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

    def q_sample(self, x_0: Tensor, timestep: Tensor, noise: Tensor) -> Tensor:
        """Draw from q(x_t | x_0): Ho et al. (2020), equation 4.

        Parameters
        ----------
        x_0 : Tensor
            [B, ...], any floating dtype and device.
        timestep : Tensor
            int64 [B], each from 0 to T - 1.
        noise : Tensor
            Standard normal, shaped like x_0.

        Returns
        -------
        Tensor
            x_t, like x_0.
        """
        coefficients = self._marginal(x_0.device, x_0.dtype)[:, timestep]
        signal, spread = coefficients.reshape(2, -1, *[1] * (x_0.dim() - 1))
        return signal * x_0 + spread * noise

    def _marginal(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """sqrt(abar) and sqrt(1 - abar), [2, T]."""
        # Kept, since a copy to a GPU for each batch would wait for the GPU.
        key = (device, dtype)
        if key not in self._marginal_copies:
            exact = torch.stack([self.abar, 1 - self.abar]).sqrt()
            self._marginal_copies[key] = exact.to(device=device, dtype=dtype)
        return self._marginal_copies[key]
