"""The baseline that recommends to everybody what is interacted with most."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import InputType
from torch import Tensor, nn


class Pop(SequentialRecommender):
    """Popularity: how often an item occurs in the training part, a sequence's first interaction included.

    RecBole's model of this name counts batches instead of interactions, and hides a user's history, which no sequential
    model does. This one is split and ranked as the sequential models are. Of items equally popular the one with the
    lower id comes first.

    Parameters
    ----------
    config : recbole Config
    dataset : recbole Dataset
        The training part.
    """

    input_type = InputType.POINTWISE

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        counts = np.asarray(dataset.inter_matrix(form="csr").sum(axis=0)).ravel()
        # Whole numbers for the counts, less than one between equals; float64 holds both.
        self.register_buffer("popularity", torch.from_numpy(counts - np.arange(self.n_items) / self.n_items))
        # Trainers want something to optimise.
        self.nothing = nn.Parameter(torch.zeros(1))

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Zero: there is nothing to learn."""
        return self.nothing.sum() * 0

    def predict(self, interaction: Any) -> Tensor:
        """The place [B] of one item a row in the order of popularity, the least popular first.

        RecBole's sampled evaluation takes float32, in which equally popular items could have one popularity.
        """
        place = self.popularity.argsort().argsort()
        return place[interaction[self.ITEM_ID]].float()

    def full_sort_predict(self, interaction: Any) -> Tensor:
        """Popularity of every item, the same for every row: [B, V]."""
        return self.popularity.repeat(len(interaction[self.ITEM_SEQ_LEN]), 1)
