"""A discrete model: its state is the id of an item."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from recbole_diffusion.common.setting import Setting, positive
from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.model.base import History
from recbole_diffusion.model.discrete import DiscreteRecommender


class MaskedItem(DiscreteRecommender):
    """Restores the id of the next item from the mean of the history and what is left of the id."""

    settings: ClassVar[dict[str, Setting]] = {"inner_size": positive("int")}

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        d, inner = self.hidden_size, config["inner_size"]
        self.network = nn.Sequential(nn.Linear(2 * d, inner), nn.GELU(), nn.Linear(inner, d))

    def encode(self, history: History, noise: Noise) -> Tensor:
        """The mean embedding of the history, [B, d]."""
        places = (history.items > 0)[:, :, None]
        return (self.item_embedding(history.items) * places).sum(dim=1) / history.length[:, None]

    def denoise(self, x_t: Tensor, timestep: Tensor, condition: Tensor, noise: Noise) -> Tensor:
        """Logits [B, V]."""
        return self.logits(self.network(torch.cat([condition, self.item_embedding(x_t)], dim=-1)))
