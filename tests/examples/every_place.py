"""Noise at every place of the sequence, each with a timestep of its own; trained on all places of a history at once."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recbole_diffusion.common.setting import Setting, positive
from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.model.base import History
from recbole_diffusion.model.gaussian import GaussianRecommender
from recbole_diffusion.model.layers import step_angles


class EveryPlace(GaussianRecommender):
    """A recurrent network reads the history; at each place the next item is restored from its state."""

    trains_on = "sequences"
    settings: ClassVar[dict[str, Setting]] = {"inner_size": positive("int")}

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        d, inner = self.hidden_size, config["inner_size"]
        self.history_network = nn.GRU(d, d, batch_first=True)
        self.network = nn.Sequential(nn.Linear(3 * d, inner), nn.GELU(), nn.Linear(inner, d))

    def encode(self, history: History, noise: Noise) -> Tensor:
        """What stands before each place, [B, L, d]."""
        return self.history_network(self.item_embedding(history.items))[0]

    def denoise(self, x_t: Tensor, timestep: Tensor, condition: Tensor, noise: Noise) -> Tensor:
        """x0_hat [B, L, d] from x_t [B, L, d] at timestep [B, L]."""
        angles = step_angles(timestep.flatten(), self.hidden_size).view(*timestep.shape, -1)
        step = torch.cat([angles.cos(), angles.sin()], dim=-1).to(x_t.dtype)
        return self.network(torch.cat([condition, x_t, step], dim=-1))
