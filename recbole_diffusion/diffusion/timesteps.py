"""Which steps a training batch sees, and how much each counts."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .noise import Noise, Shape


class StepSampler(nn.Module):
    """Draws timesteps from p and weights them with 1 / (T p): the weighted loss is unbiased for any p."""

    # Whether `update` keeps anything.
    learns: bool = True

    def __init__(self, diffusion_steps: int) -> None:
        super().__init__()
        if diffusion_steps < 1:
            raise ValueError(f"diffusion_steps must be at least 1, got {diffusion_steps}")
        self.diffusion_steps = diffusion_steps

    def probabilities(self) -> Tensor:
        """p, [T], of sum 1."""
        raise NotImplementedError(f"{type(self).__name__} needs a method 'probabilities()'")

    def sample(self, shape: Shape, noise: Noise) -> tuple[Tensor, Tensor]:
        """Draw a timestep for each row, or for each place of each row.

        Parameters
        ----------
        shape : tuple of int
            [B] or [B, L].
        noise : Noise
            Makes the choice, by the name 'timestep'.

        Returns
        -------
        timestep : Tensor
            int64, of `shape`; float in [0, 1] where a process has continuous time.
        weight : Tensor
            1 / (T p_timestep), of `shape`; to be multiplied into the losses before their mean is taken.
        """
        p = self.probabilities()
        timestep = noise.choice("timestep", p, shape)
        return timestep, 1 / (self.diffusion_steps * p[timestep])

    def update(self, timestep: Tensor, loss: Tensor, mask: Tensor | None = None) -> None:
        """Take note of the unweighted losses of a batch, all of one shape; only those in the mask count."""


class OneStep(StepSampler):
    """The only step of a process that does nothing: 0, weight 1, and nothing is drawn."""

    learns = False
    position: Tensor

    def __init__(self) -> None:
        super().__init__(1)
        self.register_buffer("position", torch.zeros(1), persistent=False)

    def sample(self, shape: Shape, noise: Noise) -> tuple[Tensor, Tensor]:
        weight = torch.ones(shape, device=self.position.device)
        return torch.zeros(shape, dtype=torch.int64, device=self.position.device), weight


class SharedSteps(StepSampler):
    """One timestep for all places of a row, by another sampler."""

    def __init__(self, sampler: StepSampler) -> None:
        super().__init__(sampler.diffusion_steps)
        self.sampler = sampler
        self.learns = sampler.learns

    def sample(self, shape: Shape, noise: Noise) -> tuple[Tensor, Tensor]:
        timestep, weight = self.sampler.sample(shape[:1], noise)
        places = (-1, *[1] * (len(shape) - 1))
        return timestep.view(places).expand(shape), weight.view(places).expand(shape)

    def update(self, timestep: Tensor, loss: Tensor, mask: Tensor | None = None) -> None:
        self.sampler.update(timestep, loss, mask)


FLOW_STEPS = ("mode", "uniform", "logit_normal", "cosmap")


class FlowSteps(StepSampler):
    """Times in [eps, 1] of a flow, all weights 1: t = eps + (1 - eps) τ.

    Esser et al. (2024), section 3.1, with u uniform and n normal. `uniform`: τ = u. `mode`: τ = 1 - u - s (cos²(πu/2)
    - 1 + u), denser in the middle the larger s. `logit_normal`: τ = sigmoid(n). `cosmap`: τ = 1 - 1 / (1 + tan(πu/2)).

    Parameters
    ----------
    name : str
        One of `FLOW_STEPS`.
    eps : float
        The earliest time.
    mode_scale : float
        s of `mode`.
    logit_mean, logit_std : float
        Mean and standard deviation of n of `logit_normal`.
    """

    learns = False

    def __init__(
        self, name: str, eps: float = 0.0, mode_scale: float = 1.0, logit_mean: float = 0.0, logit_std: float = 1.0
    ) -> None:
        super().__init__(1)
        if name not in FLOW_STEPS:
            raise ValueError(f"the step sampler must be one of {', '.join(FLOW_STEPS)}, got {name!r}")
        self.name, self.eps, self.mode_scale = name, eps, mode_scale
        self.logit_mean, self.logit_std = logit_mean, logit_std

    def sample(self, shape: Shape, noise: Noise) -> tuple[Tensor, Tensor]:
        """Draw times of `shape`, by the name 'timestep': from normal numbers for `logit_normal`, else uniform ones."""
        if self.name == "logit_normal":
            share = torch.sigmoid(self.logit_mean + self.logit_std * noise.normal("timestep", shape))
        else:
            share = self._share(noise.uniform("timestep", shape))
        return self.eps + (1 - self.eps) * share, torch.ones_like(share)

    def _share(self, u: Tensor) -> Tensor:
        angle = math.pi / 2 * u
        if self.name == "mode":
            return 1 - u - self.mode_scale * (angle.cos().square() - 1 + u)
        return u if self.name == "uniform" else 1 - 1 / (1 + angle.tan())


class _FixedSampler(StepSampler):
    learns = False
    _p: Tensor

    def __init__(self, unnormalised: Tensor) -> None:
        super().__init__(len(unnormalised))
        self.register_buffer("_p", unnormalised / unnormalised.sum(), persistent=False)

    def probabilities(self) -> Tensor:
        return self._p


class UniformSampler(_FixedSampler):
    """Every step alike, all weights 1."""

    def __init__(self, diffusion_steps: int) -> None:
        super().__init__(torch.ones(diffusion_steps))

    def sample(self, shape: Shape, noise: Noise) -> tuple[Tensor, Tensor]:
        # 1 / (T p) is 1 but for rounding.
        return noise.choice("timestep", self._p, shape), torch.ones(shape, device=self._p.device, dtype=self._p.dtype)


class FixStepSampler(_FixedSampler):
    """The first T // 2 steps twice as likely as the others (DiffuRec's `fixstep`)."""

    def __init__(self, diffusion_steps: int) -> None:
        early = torch.arange(diffusion_steps) < diffusion_steps // 2
        super().__init__(0.5 + 0.5 * early)


# Of the uniform distribution, so that no step is left out for good.
_UNIFORM_PART = 0.001


class LossAwareSampler(StepSampler):
    """Importance sampling, p_t proportional to sqrt(E[L_t^2]): Nichol & Dhariwal (2021), equation 18.

    The expectation is the mean over the last 10 losses of the step; p is mixed with 0.001 of the uniform
    distribution, and is uniform until every step has 10 losses. The history is part of the state dict.
    """

    history: Tensor
    seen: Tensor

    def __init__(self, diffusion_steps: int, history_size: int = 10) -> None:
        super().__init__(diffusion_steps)
        self.history_size = history_size
        # The n-th loss of a step (from 0) stands in slot n modulo history_size.
        self.register_buffer("history", torch.zeros(diffusion_steps, history_size))
        self.register_buffer("seen", torch.zeros(diffusion_steps, dtype=torch.int64))

    def probabilities(self) -> Tensor:
        # Losses that are all 0 give the uniform distribution, not 0 / 0.
        size = self.history.square().mean(1).sqrt().clamp(min=torch.finfo(self.history.dtype).tiny)
        uniform = torch.full_like(size, 1 / self.diffusion_steps)
        mixed = (1 - _UNIFORM_PART) * size / size.sum() + _UNIFORM_PART * uniform
        # Chosen on the device: a branch in Python would wait for the GPU.
        return torch.where(self.seen.min() >= self.history_size, mixed, uniform)

    @torch.no_grad()
    def update(self, timestep: Tensor, loss: Tensor, mask: Tensor | None = None) -> None:
        if mask is not None and mask.shape == timestep.shape:
            # A step beyond the last, which no place of the history has; picking would make a GPU wait.
            timestep = timestep.masked_fill(~mask, self.diffusion_steps)
        timestep = timestep.to(self.seen.device).flatten()
        by_step, order = torch.sort(timestep, stable=True)
        # One loss that is NaN would make every probability NaN, and training would fail there instead of at the loss.
        losses = loss.flatten().to(self.history).nan_to_num(posinf=0.0)[order]

        steps = torch.arange(self.diffusion_steps, device=self.seen.device)
        start = torch.searchsorted(by_step, steps)
        arrived = torch.searchsorted(by_step, steps, right=True) - start
        newest = (self.seen + arrived - 1).unsqueeze(1)

        # For each slot the number of the loss that belongs there now; what was not seen yet is of this batch.
        slots = torch.arange(self.history_size, device=self.seen.device)
        number = newest - (newest - slots) % self.history_size
        index_in_batch = number - self.seen.unsqueeze(1)
        row = (start.unsqueeze(1) + index_in_batch).clamp(0, len(losses) - 1)
        self.history.copy_(torch.where(index_in_batch >= 0, losses[row], self.history))
        self.seen += arrived


_SAMPLERS: dict[str, type[UniformSampler | LossAwareSampler | FixStepSampler]] = {
    "uniform": UniformSampler,
    "lossaware": LossAwareSampler,
    "fixstep": FixStepSampler,
}
STEP_SAMPLERS = tuple(_SAMPLERS)


def make_step_sampler(name: str, diffusion_steps: int) -> StepSampler:
    """The step sampler of that name, for T = `diffusion_steps`.

    Raises
    ------
    ValueError
        A name that is none of `STEP_SAMPLERS`, or T below 1.
    """
    if name not in _SAMPLERS:
        raise ValueError(f"the step sampler must be one of {', '.join(STEP_SAMPLERS)}, got {name!r}")
    return _SAMPLERS[name](diffusion_steps)
