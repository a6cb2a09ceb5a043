"""Which diffusion steps a training batch sees, and how much each counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StepSampler(nn.Module):
    """Draws timesteps from p and weights them with 1 / (T p): the weighted loss is unbiased for any p."""

    def __init__(self, diffusion_steps: int) -> None:
        super().__init__()
        if diffusion_steps < 1:
            raise ValueError(f"T = {diffusion_steps} diffusion steps: at least 1 is needed")
        self.diffusion_steps = diffusion_steps

    def probabilities(self) -> Tensor:
        """p, [T], of sum 1."""
        raise NotImplementedError

    def sample(
        self,
        batch_size: int,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw a timestep for each row.

        Parameters
        ----------
        batch_size : int
            B.
        device : device, optional
            Where the result is wanted; default: where the module is.
        generator : Generator, optional
            Of that device; default: torch's global one.

        Returns
        -------
        timestep : Tensor
            int64 [B].
        weight : Tensor
            1 / (T p_timestep), [B]; to be multiplied into the rows' losses before their mean is taken.
        """
        p = self.probabilities().to(device)
        timestep = torch.multinomial(p, batch_size, replacement=True, generator=generator)
        return timestep, 1 / (self.diffusion_steps * p[timestep])

    def update(self, timestep: Tensor, loss: Tensor) -> None:
        """Take note of the unweighted losses of a batch: timestep int64 [B], loss [B], on any device."""


class _FixedSampler(StepSampler):
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


class FixStepSampler(_FixedSampler):
    """The first T // 2 steps twice as likely as the others (DiffuRec's `fixstep`)."""

    def __init__(self, diffusion_steps: int) -> None:
        early = torch.arange(diffusion_steps) < diffusion_steps // 2
        super().__init__(0.5 + 0.5 * early)


class LossAwareSampler(StepSampler):
    """Importance sampling, p_t proportional to sqrt(E[L_t^2]): Nichol & Dhariwal (2021), equation 18.

    The expectation is the mean over the last 10 losses of the step; p is mixed with 0.001 of the uniform
    distribution, and is uniform until every step has 10 losses. The history is part of the state dict.
    """

    history: Tensor
    seen: Tensor

    def __init__(self, diffusion_steps: int, history_size: int = 10, uniform_part: float = 0.001) -> None:
        super().__init__(diffusion_steps)
        self.history_size = history_size
        self.uniform_part = uniform_part
        # The n-th loss of a step (from 0) stands in slot n modulo history_size.
        self.register_buffer("history", torch.zeros(diffusion_steps, history_size))
        self.register_buffer("seen", torch.zeros(diffusion_steps, dtype=torch.int64))

    def probabilities(self) -> Tensor:
        # Losses that are all 0 give the uniform distribution, not 0 / 0.
        size = self.history.square().mean(1).sqrt().clamp(min=torch.finfo(self.history.dtype).tiny)
        uniform = torch.full_like(size, 1 / self.diffusion_steps)
        mixed = (1 - self.uniform_part) * size / size.sum() + self.uniform_part * uniform
        # Chosen on the device: a branch in Python would wait for the GPU.
        return torch.where(self.seen.min() >= self.history_size, mixed, uniform)

    @torch.no_grad()
    def update(self, timestep: Tensor, loss: Tensor) -> None:
        timestep = timestep.to(self.seen.device)
        by_step, order = torch.sort(timestep, stable=True)
        # One loss that is NaN would make every probability NaN, and training would fail there instead of at the loss.
        losses = loss.to(self.history).nan_to_num(posinf=0.0)[order]

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
        raise ValueError(f"unknown step sampler {name!r}: one of {', '.join(STEP_SAMPLERS)} is needed")
    return _SAMPLERS[name](diffusion_steps)
