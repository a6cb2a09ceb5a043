"""What models without diffusion share: item vectors, the loss of the diffusion models, and scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor

from ..common.setting import Setting, positive
from ..errors import ModelError
from .base import check_table
from .layers import item_table
from .losses import catalogue_cross_entropy


class PlainRecommender(SequentialRecommender):
    """Base of the baselines: what is read of the history is scored against the item vectors by the dot product.

    A model has one method to write, `read`. It is trained by the cross-entropy over all items, on every prefix, with
    the same function as the diffusion models. One with a target at every place says so by `trains_on`, and writes
    `counted` and `calculate_loss` too.

    Parameters
    ----------
    config : recbole Config
        The keys are explained in `properties/model/*.yaml`, and stated in the class's table `settings`.
    dataset : recbole Dataset
        The training data; only the number of items is read.
    """

    input_type = InputType.POINTWISE
    settings: ClassVar[Mapping[str, Setting]] = {
        "hidden_size": positive("int"),
        "initializer_range": positive("float"),
    }
    # See `DiffusionRecommender`.
    records_steps: ClassVar[bool] = False

    @classmethod
    def check_settings(cls, config: Any) -> None:
        """Refuse, before any data is loaded, what the model cannot use.

        Raises
        ------
        SettingError
        """
        check_table(cls, config)

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.check_settings(config)
        self.hidden_size: int = config["hidden_size"]
        self.item_embedding = item_table(self.n_items, config)

    def read(self, items: Tensor, length: Tensor) -> Tensor:
        """What is scored, [B, d], of histories [B, L], which are padded on the right with 0, of `length` [B]."""
        raise ModelError(f"{type(self).__name__} needs a method 'read(items, length)'")

    def item_vectors(self) -> Tensor:
        """The vectors [V, d] that it is scored against."""
        return self.item_embedding.weight

    def query(self, interaction: Any) -> Tensor:
        """`read` of a batch as RecBole gives it."""
        return self.read(interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN].clamp(min=1))

    def counted(self, interaction: Any) -> Tensor:
        """How many losses [B] of each row the mean is over."""
        return torch.ones_like(interaction[self.POS_ITEM_ID])

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Mean cross-entropy of the next items over all items but the padding."""
        target = interaction[self.POS_ITEM_ID]
        losses = catalogue_cross_entropy(self.query(interaction), self.item_vectors(), None, target, first_item=1)
        return losses.mean()

    def predict(self, interaction: Any) -> Tensor:
        """Scores [B] of one item a row."""
        return (self.query(interaction) * self.item_vectors()[interaction[self.ITEM_ID]]).sum(dim=-1)

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Scores [B, V] of all items."""
        return F.linear(self.query(interaction), self.item_vectors())
