"""Network parts that both models share: step encoding, dropout, attention, encoder."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def step_angles(timestep: Tensor, width: int) -> Tensor:
    """Angles t·10000^(−j/(d/2)), j = 0 … d/2−1, of the sinusoidal encoding (Vaswani et al., 2017).

    Parameters
    ----------
    timestep : Tensor [B]
        Diffusion steps, whole or rescaled.
    width : int
        Size d of the encoding, even.

    Returns
    -------
    Tensor [B, d/2], float32
    """
    half = width // 2
    frequency = torch.exp(torch.arange(half, device=timestep.device) * (-math.log(10000.0) / half))
    return timestep.float()[:, None] * frequency


class _RandomBitsDropout(torch.autograd.Function):
    """Dropout whose mask comes from 16 random bits an element, four elements to a 64-bit draw."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: int) -> Tensor:
        draws = torch.randint(-(2**63), 2**63 - 1, ((x.numel() + 3) // 4,), device=x.device)
        keep = draws.view(torch.int16)[: x.numel()].view(x.shape) >= threshold - 2**15
        scaled_keep = keep.to(x.dtype).mul_(2**16 / (2**16 - threshold))
        ctx.save_for_backward(scaled_keep)
        return x * scaled_keep

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (scaled_keep,) = ctx.saved_tensors
        return grad_outputs[0] * scaled_keep, None


class Dropout(nn.Module):
    """Dropout as of `torch.nn.Dropout`, some five times cheaper on a CPU.

    There, `torch.nn.Dropout` costs as much as the matrix products around it, nearly all of it for
    random floats; the mask needs only a few bits. On other devices and where it is compiled, torch's own is used. The
    probability is rounded to a multiple of 2^-16, and the scale is that of the rounded one, so the
    expectation is kept exactly.

    Parameters
    ----------
    probability : float
        Chance of an element to be zeroed, 0 <= probability < 1.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(x, self.probability)
        return _RandomBitsDropout.apply(x, round(self.probability * 2**16))


class Attention(nn.Module):
    """Multi-head attention whose queries may be fewer than its keys.

    Parameters
    ----------
    hidden_size, n_heads : int
    dropout : float
        Dropout on the attention probabilities.
    """

    def __init__(self, hidden_size: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.dropout = Dropout(dropout)

    def forward(self, queries: Tensor, keys: Tensor, key_mask: Tensor | None, query_mask: Tensor | None) -> Tensor:
        """Attend from `queries` [B, Q, d] to `keys` [B, L, d].

        `key_mask` [B, L] is true at keys that can be seen, or holds what is added to the scores of each. `query_mask`
        [B, Q] is true at queries that attend as usual; the others attend to all keys alike, as a query of zeros does.
        """
        rows, width = queries.shape[0], queries.shape[2]
        q = self.query(queries)
        if query_mask is not None:
            q = q * query_mask[:, :, None]
        q = q.view(rows, -1, self.n_heads, width // self.n_heads).transpose(1, 2)
        key_value = self.key_value(keys).view(rows, keys.shape[1], 2, self.n_heads, width // self.n_heads)
        k, v = key_value.permute(2, 0, 3, 1, 4)
        visible = None if key_mask is None else key_mask[:, None, None, :]
        added = visible if visible is not None and visible.is_floating_point() else None
        if self.training and self.dropout.probability:
            scores = q @ k.transpose(-1, -2) * (width // self.n_heads) ** -0.5
            if visible is not None:
                scores = scores.masked_fill(~visible, -math.inf) if added is None else scores + added
            mixed = self.dropout(scores.softmax(dim=-1)) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible if added is None else added.to(q.dtype))
        return self.output(mixed.transpose(1, 2).reshape(rows, -1, width))


class EncoderBlock(nn.Module):
    """Pre-norm transformer block: x + Drop(Attn(LN x)), then x + Drop(FFN(LN x)), then dropout."""

    def __init__(
        self,
        hidden_size: int,
        n_heads: int,
        inner_size: int,
        hidden_dropout: float,
        attn_dropout: float,
        hidden_act: str,
        layer_norm_eps: float,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.attention = Attention(hidden_size, n_heads, attn_dropout)
        self.feed_forward_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.expand = nn.Linear(hidden_size, inner_size)
        self.activation = ACTIVATIONS[hidden_act]
        self.contract = nn.Linear(inner_size, hidden_size)
        self.dropout = Dropout(hidden_dropout)

    def forward(self, x: Tensor, key_mask: Tensor | None, query_mask: Tensor | None, only: Tensor | None) -> Tensor:
        keys = self.attention_norm(x)
        if only is None:
            queries = keys
        else:
            rows = torch.arange(x.shape[0], device=x.device)
            x, queries, query_mask = x[rows, only][:, None], keys[rows, only][:, None], None
        x = x + self.dropout(self.attention(queries, keys, key_mask, query_mask))
        inner = self.dropout(self.activation(self.expand(self.feed_forward_norm(x))))
        return self.dropout(x + self.dropout(self.contract(inner)))


class Encoder(nn.Module):
    """Bidirectional transformer of which one position a row is read.

    In the last block, queries and feed-forward are computed for that position alone. Weights start as in DiffuRec's
    published code: Xavier normal, biases 0.

    Parameters
    ----------
    n_layers : int
        Number of blocks; the other parameters are those of `EncoderBlock`.
    """

    def __init__(self, n_layers: int, **block: Any) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(EncoderBlock(**block) for _ in range(n_layers))
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                # Key and value are two maps of one size, only stored together.
                for weight in module.weight.chunk(2 if name.endswith("key_value") else 1):
                    nn.init.xavier_normal_(weight)
                nn.init.zeros_(module.bias)

    def forward(
        self, x: Tensor, position: Tensor, key_mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Encode x [B, L, d] and return [B, d], the output at `position` [B].

        `key_mask` and `query_mask` [B, L] are those of `Attention`; None means that all is real.
        """
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            x = block(x, key_mask, query_mask, only=position if index == last else None)
        return x[:, 0]
