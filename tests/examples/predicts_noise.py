"""A network that predicts the noise: with `prediction_type: eps` nothing else is different."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recbole_diffusion.common.setting import Setting, positive
from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.model.base import History
from recbole_diffusion.model.gaussian import GaussianRecommender
from recbole_diffusion.model.layers import step_angles


class PredictsNoise(GaussianRecommender):
    """Predicts the noise of the next item from the last item."""

    settings: ClassVar[dict[str, Setting]] = {"inner_size": positive("int")}

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        d, inner = self.hidden_size, config["inner_size"]
        self.network = nn.Sequential(nn.Linear(3 * d, inner), nn.GELU(), nn.Linear(inner, d))

    def encode(self, history: History, noise: Noise) -> Tensor:
        """The embedding of the newest item, [B, d]."""
        return self.item_embedding(history.items.gather(1, (history.length - 1)[:, None])[:, 0])

    def denoise(self, x_t: Tensor, timestep: Tensor, condition: Tensor, noise: Noise) -> Tensor:
        """The noise [B, d]."""
        angles = step_angles(timestep, self.hidden_size)
        step = torch.cat([angles.cos(), angles.sin()], dim=-1).to(x_t.dtype)
        return self.network(torch.cat([condition, x_t, step], dim=-1))
