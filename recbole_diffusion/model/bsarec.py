"""BSARec: self-attention mixed with a filter of low and high frequencies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.setting import Setting, positive, share
from .base import ENCODER, places
from .layers import ACTIVATIONS, Attention, Dropout, draw_weights
from .plain import PlainRecommender


def low_pass(length: int, frequencies: int) -> Tensor:
    """The matrix [L, L] that keeps the lowest `frequencies` of a sequence of `length`, the constant included.

    It does what a real Fourier transform does whose higher coefficients are set to 0 before it is taken back.
    """
    spectrum = torch.fft.rfft(torch.eye(length, dtype=torch.float64), dim=0)
    spectrum[frequencies:] = 0
    return torch.fft.irfft(spectrum, n=length, dim=0).to(torch.get_default_dtype())


class Block(nn.Module):
    """alpha times the filter plus (1 - alpha) times attention, then a feed-forward layer; post-norm throughout.

    Filter: LN(x + Drop(low + β² (x - low))), where `low` is what `low_pass` leaves of x over the places, and β a
    vector that is learnt. Attention: LN(x + Drop(Attn x)). Feed-forward: LN(x + Drop(FFN x)).

    Parameters
    ----------
    config : mapping
        See `properties/model/BSARec.yaml`.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        d, eps = config["hidden_size"], config["layer_norm_eps"]
        self.alpha: float = config["alpha"]
        self.beta = nn.Parameter(torch.randn(d))
        self.filter_norm = nn.LayerNorm(d, eps=eps)
        self.attention = Attention(d, config["n_heads"], config["attn_dropout_prob"])
        self.attention_norm = nn.LayerNorm(d, eps=eps)
        self.expand, self.contract = nn.Linear(d, config["inner_size"]), nn.Linear(config["inner_size"], d)
        self.activation = ACTIVATIONS[config["hidden_act"]]
        self.feed_forward_norm = nn.LayerNorm(d, eps=eps)
        self.dropout = Dropout(config["hidden_dropout_prob"])

    def forward(self, x: Tensor, low: Tensor, visible: Tensor) -> Tensor:
        """Output [B, Q, d] at the last Q places of x [B, L, d].

        Parameters
        ----------
        x : Tensor [B, L, d]
        low : Tensor [Q, L]
            The last rows of `low_pass`.
        visible : bool Tensor [B, Q, L]
            What each of the last places attends to.
        """
        here = x[:, -len(low) :]
        slow = low @ x
        filtered = self.filter_norm(here + self.dropout(slow + self.beta**2 * (here - slow)))
        attended = self.attention_norm(here + self.dropout(self.attention(here, x, visible, None)))
        mixed = self.alpha * filtered + (1 - self.alpha) * attended
        return self.feed_forward_norm(mixed + self.dropout(self.contract(self.activation(self.expand(mixed)))))


class BSARec(PlainRecommender):
    """BSARec (Shin, Choi, Wi, Park: "An Attentive Inductive Bias for Sequential Recommendation beyond the
    Self-Attention", AAAI 2024): a Transformer whose blocks mix attention with a filter over the places.

    As in the authors' code every history is padded on the left to `MAX_ITEM_LIST_LENGTH`, whatever the batch, since
    the filter depends on the length and runs over the padding too. So the last item stands at the last place always. A
    place of padding attends to all places, as a mask that adds the same number to every score lets it. `c` counts a
    frequency and its mirror image as two, so c // 2 + 1 coefficients of a real Fourier transform are kept. Unlike
    there, padding has no vector: its places hold their position alone, and it is no candidate of the loss.

    See `PlainRecommender` for the parameters.
    """

    settings: ClassVar[Mapping[str, Setting]] = {
        **ENCODER,
        "alpha": share(),
        "c": positive("int"),
    }
    records_steps = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.place_embedding = nn.Embedding(self.max_seq_length, self.hidden_size)
        self.input_norm = nn.LayerNorm(self.hidden_size, eps=config["layer_norm_eps"])
        self.dropout = Dropout(config["hidden_dropout_prob"])
        self.blocks: Any = nn.ModuleList(Block(config) for _ in range(config["n_layers"]))
        self.register_buffer("low", low_pass(self.max_seq_length, config["c"] // 2 + 1), persistent=False)
        draw_weights(self, config["initializer_range"])

    def read(self, items: Tensor, length: Tensor) -> Tensor:
        """The last block's output at the last place."""
        items, real = padded_left(items, length, self.max_seq_length)
        vectors = self.item_embedding(items) * real[:, :, None]
        x = self.dropout(self.input_norm(vectors + self.place_embedding.weight))
        earlier = torch.ones_like(self.low, dtype=torch.bool).tril()
        visible = real[:, None, :] & earlier | ~real[:, :, None]
        for block in self.blocks[:-1]:
            x = block(x, self.low, visible)
        # Of the last block one place is read.
        return self.blocks[-1](x, self.low[-1:], visible[:, -1:])[:, 0]


def padded_left(items: Tensor, length: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Histories [B, L] that are padded on the right, padded on the left to `width` instead, and where an item stands.

    Returns
    -------
    int64 Tensor [B, width], bool Tensor [B, width]
    """
    items = F.pad(items, (0, width - items.shape[1]))
    real = places(items, length).flip(1)
    from_place = torch.arange(width, device=items.device) - (width - length)[:, None]
    return items.gather(1, from_place.clamp(min=0)) * real, real
