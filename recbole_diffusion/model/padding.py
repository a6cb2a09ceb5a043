"""Padding that takes part in attention, as in several authors' codes, at the cost of one place.

There, a history is padded to the full length and its padding is attended to. All padding of a row is alike, so it may
stand once and count as often as it would stand: a key that stands n times is one whose score has log n added.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .base import History, places


def with_padding_place(history: History) -> History:
    """The history with a place behind its newest item, where its padding stands."""
    items = F.pad(history.items, (0, 1))
    return history._replace(items=items, mask=places(items, history.length))


def counted_keys(history: History, full_length: int, dtype: torch.dtype) -> Tensor:
    """What is added to the score of each key, [B, L], for a history of `with_padding_place`.

    0 at an item, log n where n places of padding stand (-inf where the history is full), and -inf behind.
    """
    length = history.length[:, None]
    behind = torch.arange(history.items.shape[1], device=length.device) - length
    log_count = (full_length - length).to(dtype).log().expand(behind.shape)
    return log_count.masked_fill(behind < 0, 0.0).masked_fill(behind > 0, -math.inf)
