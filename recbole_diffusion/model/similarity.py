"""How a prediction is scored against the items: every similarity as a dot product and a bias.

So the cross-entropy in pieces, full ranking and the score of a single item all follow the same rule.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

SIMILARITIES = ("dot", "cosine", "l2")


def item_vectors(
    weight: Tensor, bias: Tensor | None, similarity: str, temperature: float = 1.0
) -> tuple[Tensor, Tensor | None]:
    """Weight [V, d] and bias [V] with which the score is query · weight + bias.

    Parameters
    ----------
    weight : Tensor [V, d]
    bias : Tensor [V] or None
    similarity : {'dot', 'cosine', 'l2'}
        The dot product, the cosine, or the negative squared distance without its -|x|², the same for every item.
    temperature : float
        The similarity is divided by it; the bias is not.
    """
    if similarity == "cosine":
        weight = F.normalize(weight, dim=-1)
    elif similarity == "l2":
        length = weight.square().sum(dim=-1) / -temperature
        weight, bias = 2 * weight, length if bias is None else bias + length
    return (weight if temperature == 1 else weight / temperature), bias


def item_queries(x: Tensor, similarity: str) -> Tensor:
    """What of a prediction x [..., d] stands in that dot product."""
    return F.normalize(x, dim=-1) if similarity == "cosine" else x


def scores_of(query: Tensor, weight: Tensor, bias: Tensor | None, items: Tensor) -> Tensor:
    """Scores [B] of one item a row, `items` [B], by queries [B, d]."""
    scores = (query * weight[items]).sum(dim=-1)
    return scores if bias is None else scores + bias[items]
