"""Guidance without a classifier, and a loss of its own."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recbole_diffusion.common.setting import Setting, at_least, positive
from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.model.base import History, Losses, TrainingStep
from recbole_diffusion.model.gaussian import GaussianRecommender
from recbole_diffusion.model.layers import step_angles


class GuidedMLP(GaussianRecommender):
    """Restores the next item from the mean of the history; MSE on the embedding plus weighted cross-entropy."""

    settings: ClassVar[dict[str, Setting]] = {"inner_size": positive("int"), "ce_weight": at_least(0, "float")}

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        d, inner = self.hidden_size, config["inner_size"]
        self.ce_weight: float = config["ce_weight"]
        self.nobody = nn.Parameter(torch.zeros(d))
        self.network = nn.Sequential(nn.Linear(3 * d, inner), nn.GELU(), nn.Linear(inner, d))

    def encode(self, history: History, noise: Noise) -> Tensor:
        """The mean embedding of the history, [B, d]."""
        places = (history.items > 0)[:, :, None]
        return (self.item_embedding(history.items) * places).sum(dim=1) / history.length[:, None]

    def unconditional(self, condition: Tensor) -> Tensor:
        """A learnt vector [d] in place of every history."""
        return self.nobody

    def denoise(self, x_t: Tensor, timestep: Tensor, condition: Tensor, noise: Noise) -> Tensor:
        """x0_hat [B, d]."""
        angles = step_angles(timestep, self.hidden_size)
        step = torch.cat([angles.cos(), angles.sin()], dim=-1).to(x_t.dtype)
        return self.network(torch.cat([condition, x_t, step], dim=-1))

    def losses(self, step: TrainingStep) -> Losses:
        """A loss a row."""
        mse = (step.x0_hat - step.x_0).square().mean(dim=-1)
        return Losses(mse + self.ce_weight * self.ranking_loss(step.x0_hat, step.target, step.interaction))
