"""The control that reads the last item alone: whatever a sequence model is worth comes on top of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from ..common.setting import Setting, probability, switch
from .base import at_last
from .layers import Dropout, item_table
from .plain import PlainRecommender


class LastItem(PlainRecommender):
    """The vector of the last item, scored against the vectors of all items: no network, no position.

    With one table of vectors, as a sequence model has it whose blocks are taken out, scores are symmetric: b follows a
    as often as a follows b, and an item scores highest itself unless training holds it down. With a second table they
    have a direction, as in a factorised Markov chain of first order.

    See `PlainRecommender` for the parameters.
    """

    settings: ClassVar[Mapping[str, Setting]] = {
        "embedding_dropout_prob": probability(),
        "shared_vectors": switch(),
    }
    records_steps = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.dropout = Dropout(config["embedding_dropout_prob"])
        self.next_embedding = None
        if not config["shared_vectors"]:
            self.next_embedding = item_table(self.n_items, config)

    def read(self, items: Tensor, length: Tensor) -> Tensor:
        """The vector of each last item."""
        return self.dropout(self.item_embedding(at_last(items, length)))

    def item_vectors(self) -> Tensor:
        """The vectors of the items as next ones."""
        return (self.next_embedding or self.item_embedding).weight
