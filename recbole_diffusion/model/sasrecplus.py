"""SASRec+: the causal transformer of SASRec, trained at all places at once by the cross-entropy over all items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..common.setting import Setting
from .base import ENCODER, make_encoder, next_items, places
from .layers import Dropout, draw_weights
from .losses import place_cross_entropy
from .plain import PlainRecommender
from .sharing import History, counted_places, sum_of_places


class SASRecPlus(PlainRecommender):
    """SASRec (Kang, McAuley: "Self-Attentive Sequential Recommendation", ICDM 2018), trained as SASRec+ (Klenitskiy,
    Vasilev: "Turning Dross Into Gold Loss: is BERT4Rec really better than SASRec?", RecSys 2023).

    The loss is the cross-entropy over all items, averaged over all places of a batch: at each place the target is the
    next item. So an epoch reads each history once, where RecBole's SASRec reads a row for each interaction. In
    evaluation the network is that of RecBole's SASRec: learnt positions from the oldest item on, post-norm blocks. In
    training the inner values of the feed-forward layers are dropped out too, as in Kang's code.

    See `PlainRecommender` for the parameters.
    """

    settings: ClassVar[Mapping[str, Setting]] = {**ENCODER}
    trains_on = "sequences"
    records_steps = True
    # See `sharing.History`.
    places_a_row: float | None = None

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.place_embedding = nn.Embedding(self.max_seq_length, self.hidden_size)
        self.input_norm = nn.LayerNorm(self.hidden_size, eps=config["layer_norm_eps"])
        self.dropout = Dropout(config["hidden_dropout_prob"])
        self.encoder = make_encoder(config, post_norm=True)
        draw_weights(self, config["initializer_range"])

    def read(self, items: Tensor, length: Tensor) -> Tensor:
        """The last block's output at the last place."""
        if items.device.type == "cpu":
            # On a GPU looking at the lengths would make it wait.
            items = items[:, : int(length.max())]
        return self.encode(items, length - 1)

    def encode(self, items: Tensor, place: Tensor | None = None) -> Tensor:
        """The last block's output [B, d] at `place` [B] of histories [B, L], or without it at all places [B, L, d]."""
        at = torch.arange(items.shape[1], device=items.device)
        x = self.dropout(self.input_norm(self.item_embedding(items) + self.place_embedding.weight[: len(at)]))
        # Padding stands behind a history, so that no place of it is seen.
        return self.encoder(x, place, (at[:, None] >= at)[None])

    def counted(self, interaction: Any) -> Tensor:
        length = interaction[self.ITEM_SEQ_LEN]
        return length if self.places_a_row is None else torch.ones_like(length)

    def calculate_loss(self, interaction: Any) -> Tensor:
        """Mean cross-entropy of the next item at each place over all items but the padding."""
        items, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        history = History(items, length, places(items, length), self.places_a_row)
        target = next_items(items, length, interaction[self.POS_ITEM_ID])
        losses = place_cross_entropy(self.encode(items), self.item_vectors(), None, target, first_item=1)
        return sum_of_places(losses, history.mask) / counted_places(history)
