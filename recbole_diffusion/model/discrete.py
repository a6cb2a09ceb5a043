"""Models whose state is the id of an item."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..common.setting import Setting, one_of
from ..diffusion.categorical import CategoricalProcess
from ..diffusion.noise import Noise, Shape
from ..diffusion.process import NoProcess, Process
from ..diffusion.schedules import betas_of
from ..diffusion.timesteps import StepSampler, make_step_sampler
from .base import DiffusionRecommender, History, Losses, TrainingStep
from .gaussian import STEPS, check_steps

PRIORS = ("mask", "uniform")


def mean_log_probability(draws: Iterable[Tensor]) -> Tensor:
    """Log of the mean over draws of probabilities that come as logarithms, one tensor a draw."""
    total, number = None, 0
    # One after another: all draws at once would take the memory of all.
    for logarithm in draws:
        total = logarithm if total is None else torch.logaddexp(total, logarithm)
        number += 1
    assert total is not None, "a mean is over one draw at least"
    return total - math.log(number)


class DiscreteRecommender(DiffusionRecommender):
    """A model that noises the id of the next item: it is kept, or drawn anew from a prior.

    `denoise` gives logits [B, V] of the next item. Id 0, the padding, is the mask: with `prior: mask` what is
    drawn anew is masked, with `prior: uniform` it is any item.

    Parameters
    ----------
    config : recbole Config
    dataset : recbole Dataset
    """

    settings: ClassVar[Mapping[str, Setting]] = {**STEPS, "prior": one_of(PRIORS), "loss_type": one_of(("CE",))}

    @classmethod
    def check_settings(cls, config: Any) -> None:
        super().check_settings(config)
        check_steps(config)

    def make_process(self, config: Any) -> Process:
        prior = torch.full((self.n_items,), float(config["prior"] == "uniform"))
        prior[0] = float(config["prior"] == "mask")
        betas = betas_of(config["noise_schedule"], config["diffusion_steps"])
        return CategoricalProcess(betas, prior / prior.sum())

    def no_process(self, process: Process) -> Process:
        """The state is the mask throughout: plain classification."""
        return NoProcess(fill=0, dtype=torch.int64)

    def make_step_sampler(self, config: Any) -> StepSampler:
        return make_step_sampler(config["step_sampler"], config["diffusion_steps"])

    def x_start(self, items: Tensor, noise: Noise) -> Tensor:
        return items

    def state_shape(self, history: History) -> Shape:
        return (len(history.length),)

    def to_x_0(self, output: Any, x_t: Tensor, timestep: Tensor) -> Any:
        """Log-probabilities [B, V] of x_0; padding is no candidate."""
        logits = output.clone()
        logits[:, 0] = -torch.inf
        return logits.log_softmax(dim=-1)

    def losses(self, step: TrainingStep) -> Losses:
        """Cross-entropy of the next item."""
        return Losses(-step.x0_hat.gather(1, step.target[:, None])[:, 0])

    def points(self, x: Tensor) -> Tensor:
        """Embeddings [..., d] of ids [...], or the mean embedding by log-probabilities [..., V]."""
        return x.exp() @ self.item_embedding.weight if x.is_floating_point() else self.item_embedding(x)

    def score(self, x_0: Tensor) -> Tensor:
        """Log of the mean probability [B, V] over draws of log-probabilities [S, B, V].

        A state in the middle of the process, ids [1, B], is scored by the similarity of the items to it.
        """
        if not x_0.is_floating_point():
            return self.logits(self.item_embedding(x_0[0]))
        return mean_log_probability(x_0)
