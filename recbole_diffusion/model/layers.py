"""Network parts that models share: step encodings, dropout, attention, encoders."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import SettingError

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


def item_table(n_items: int, config: Any) -> nn.Embedding:
    """Embeddings [V, d] of the items, with d = `hidden_size`, drawn with the deviation `initializer_range`.

    Raises
    ------
    SettingError
        Where free memory does not hold them, or not the d × d numbers of a layer that reads them.
    """
    width, free = config["hidden_size"], psutil.virtual_memory().available
    numbers = free // torch.get_default_dtype().itemsize
    most = min(numbers // n_items, math.isqrt(numbers))
    if width > most:
        must = f"be at most {most} with {n_items - 1} items and {free / 2**30:.1f} GiB of free memory"
        raise SettingError("hidden_size", width, must=must)
    table = nn.Embedding(n_items, width)
    nn.init.normal_(table.weight, std=config["initializer_range"])
    return table


def draw_weights(model: nn.Module, std: float) -> None:
    """Draw all linear maps and embeddings from N(0, std²), as RecBole's transformers do; biases start at 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)


def shared_step(timestep: Tensor) -> Tensor:
    """The one step [1] of a reverse process that every row is at, or the steps [B] as they are."""
    return timestep[:1] if timestep.stride(0) == 0 else timestep


def step_angles(
    timestep: Tensor, width: int, dtype: torch.dtype = torch.float32, last_included: bool = False
) -> Tensor:
    """Angles t·10000^(−j/(d/2)), j = 0 … d/2−1, of the sinusoidal encoding (Vaswani et al., 2017).

    Parameters
    ----------
    timestep : Tensor [B]
        Diffusion steps, whole or rescaled.
    width : int
        Size d of the encoding, even.
    dtype : torch.dtype
        Type of the angles. Half precision would lose the digits of a late timestep.
    last_included : bool
        The exponents are −j/(d/2−1), so that the last frequency is 1/10000 itself.

    Returns
    -------
    Tensor [B, d/2]
    """
    half = width // 2
    gaps = max(half - 1, 1) if last_included else half
    frequency = torch.exp(torch.arange(half, device=timestep.device, dtype=dtype) * (-math.log(10000.0) / gaps))
    return timestep.to(dtype)[:, None] * frequency


class StepMLP(nn.Sequential):
    """Embedding of a timestep: its cosines and sines, then Linear d to 4d, SiLU, Linear 4d to d.

    Parameters
    ----------
    hidden_size : int
        Size d, even.
    scale : float
        The timestep is multiplied by it.
    """

    def __init__(self, hidden_size: int, scale: float = 1.0) -> None:
        super().__init__(nn.Linear(hidden_size, 4 * hidden_size), nn.SiLU(), nn.Linear(4 * hidden_size, hidden_size))
        self.hidden_size, self.scale = hidden_size, scale

    def forward(self, timestep: Tensor) -> Tensor:
        """Embeddings [B, d] of timesteps [B], whole or float."""
        dtype = next(self.parameters()).dtype
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        angles = step_angles(timestep * self.scale, self.hidden_size, exact)
        return super().forward(torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype))


class _RandomBitsDropout(torch.autograd.Function):
    """Dropout whose mask comes from 16 random bits an element, four elements to a 64-bit draw."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: int) -> Tensor:
        draws = torch.randint(-(2**63), 2**63 - 1, ((x.numel() + 3) // 4,), device=x.device)
        # What is below the threshold becomes 0 and all else 1: comparing, and a type of bool, take twice as long.
        most_dropped = threshold - 1 - 2**15
        keep = draws.view(torch.int16)[: x.numel()].clamp_(most_dropped, most_dropped + 1).sub_(most_dropped)
        scaled_keep = keep.view(x.shape).to(x.dtype).mul_(2**16 / (2**16 - threshold))
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
        threshold = min(round(self.probability * 2**16), 2**16 - 1)
        if not self.training or threshold == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(x, self.probability)
        return _RandomBitsDropout.apply(x, threshold)


def rotated(x: Tensor, places: Tensor | None = None) -> Tensor:
    """x turned by its place, pair of dimensions by pair (Su et al., 2021: "RoFormer").

    The product of two turned vectors depends on the distance of their places alone.

    Parameters
    ----------
    x : Tensor [..., L, d]
        With d even; dimensions j and j + d/2 are a pair.
    places : int64 Tensor [..., L], optional
        0 ... L - 1 by default.

    Returns
    -------
    Tensor [..., L, d]
    """
    width = x.shape[-1]
    places = torch.arange(x.shape[-2], device=x.device) if places is None else places
    angles = step_angles(places.flatten(), width).view(*places.shape, width // 2)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class Attention(nn.Module):
    """Multi-head attention whose queries may be fewer than its keys.

    Parameters
    ----------
    hidden_size, n_heads : int
    dropout : float
        Dropout on the attention probabilities.
    rotary : bool
        Queries and keys are turned by their places, see `rotated`.
    """

    def __init__(self, hidden_size: int, n_heads: int, dropout: float, rotary: bool = False) -> None:
        super().__init__()
        self.n_heads, self.rotary = n_heads, rotary
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        key_mask: Tensor | None,
        query_mask: Tensor | None,
        places: Tensor | None = None,
    ) -> Tensor:
        """Attend from `queries` [B, Q, d] to `keys` [B, L, d].

        `key_mask`, [B, L] for all queries or [B or 1, Q, L], is true at keys that can be seen, or holds what is added
        to the scores of each. `query_mask` [B, Q] is true at queries that attend as usual; the others attend to all
        keys alike, as a query of zeros does. `places` [B, Q] are those of the queries where they are not the first Q.
        """
        return self.attend(queries, self.key_value(keys), key_mask, query_mask, places)

    def attend(
        self,
        queries: Tensor,
        key_value: Tensor,
        key_mask: Tensor | None,
        query_mask: Tensor | None = None,
        places: Tensor | None = None,
    ) -> Tensor:
        """As `forward`, for keys and values [B, L, 2d] that `key_value` gave already."""
        rows, width = queries.shape[0], queries.shape[2]
        q = self.query(queries)
        if query_mask is not None:
            q = q * query_mask[:, :, None]
        q = q.view(rows, -1, self.n_heads, width // self.n_heads).transpose(1, 2)
        key_value = key_value.view(rows, key_value.shape[1], 2, self.n_heads, width // self.n_heads)
        k, v = key_value.permute(2, 0, 3, 1, 4)
        if self.rotary:
            q, k = rotated(q, None if places is None else places[:, None]), rotated(k)
        visible = key_mask
        if visible is not None:
            visible = visible[:, None, None, :] if visible.dim() == 2 else visible[:, None]
        added = visible if visible is not None and visible.is_floating_point() else None
        p = self.dropout.probability if self.training else 0.0
        # On a GPU torch drops out within the kernel; on a CPU its dropout costs more than all else here, and in
        # bfloat16 its kernel takes ten times as long as the steps below.
        on_cpu = q.device.type == "cpu"
        if (p and (added is not None or on_cpu)) or (on_cpu and torch.get_float32_matmul_precision() != "highest"):
            scores = q @ k.transpose(-1, -2) * (width // self.n_heads) ** -0.5
            if visible is not None:
                scores = scores.masked_fill(~visible, -math.inf) if added is None else scores + added
            mixed = self.dropout(scores.softmax(dim=-1)) @ v
        else:
            mask = visible if added is None else added.to(q.dtype)
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
        return self.output(mixed.transpose(1, 2).reshape(rows, -1, width))


class EncoderBlock(nn.Module):
    """Transformer block, pre-norm or post-norm.

    Pre-norm: x + Drop(Attn(LN x)), then x + Drop(FFN(LN x)), then dropout. Post-norm: LN(x + Drop(Attn x)), then
    LN(x + Drop(FFN x)).
    """

    def __init__(
        self,
        hidden_size: int,
        n_heads: int,
        inner_size: int,
        hidden_dropout: float,
        attn_dropout: float,
        hidden_act: str,
        layer_norm_eps: float,
        post_norm: bool = False,
        rotary: bool = False,
    ) -> None:
        super().__init__()
        self.post_norm = post_norm
        self.attention_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.attention = Attention(hidden_size, n_heads, attn_dropout, rotary)
        self.feed_forward_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.expand = nn.Linear(hidden_size, inner_size)
        self.activation = ACTIVATIONS[hidden_act]
        self.contract = nn.Linear(inner_size, hidden_size)
        self.dropout = Dropout(hidden_dropout)

    def forward(self, x: Tensor, key_mask: Tensor | None, query_mask: Tensor | None, only: Tensor | None) -> Tensor:
        keys = self.read(x)
        if only is None:
            queries = keys
        else:
            rows = torch.arange(x.shape[0], device=x.device)
            x, queries, query_mask = x[rows, only][:, None], keys[rows, only][:, None], None
            if key_mask is not None and key_mask.dim() == 3:
                key_mask = key_mask.expand(len(rows), -1, -1)[rows, only]
        places = None if only is None else only[:, None]
        return self.finish(x, self.attention(queries, keys, key_mask, query_mask, places))

    def read(self, x: Tensor) -> Tensor:
        """What attention reads of x."""
        return x if self.post_norm else self.attention_norm(x)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The block's output by its input and what attention gave."""
        x = x + self.dropout(attended)
        if self.post_norm:
            x = self.attention_norm(x)
        inner = self.dropout(self.activation(self.expand(x if self.post_norm else self.feed_forward_norm(x))))
        x = x + self.dropout(self.contract(inner))
        return self.feed_forward_norm(x) if self.post_norm else self.dropout(x)

    def at_place(self, x: Tensor, place: Tensor, key_value: Tensor, key_mask: Tensor | None) -> Tensor:
        """Output [B, 1, d] for x [B, 1, d] at `place` [B], given keys and values [B, L, 2d] of all other places."""
        queries = self.read(x)
        rows = torch.arange(x.shape[0], device=x.device)
        key_value = key_value.index_put((rows, place), self.attention.key_value(queries)[:, 0])
        return self.finish(x, self.attention.attend(queries, key_value, key_mask, places=place[:, None]))


class Encoder(nn.Module):
    """Transformer of which one position a row is read, or all.

    Where one is read, queries and feed-forward of the last block are computed for that position alone. Weights start as
    in DiffuRec's published code: Xavier normal, biases 0.

    Parameters
    ----------
    n_layers : int
        Number of blocks; the other parameters are those of `EncoderBlock`.
    """

    def __init__(self, n_layers: int, **block: Any) -> None:
        super().__init__()
        self.blocks: Any = nn.ModuleList(EncoderBlock(**block) for _ in range(n_layers))
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                # Key and value are two maps of one size, only stored together.
                for weight in module.weight.chunk(2 if name.endswith("key_value") else 1):
                    nn.init.xavier_normal_(weight)
                nn.init.zeros_(module.bias)

    def forward(
        self,
        x: Tensor,
        position: Tensor | None = None,
        key_mask: Tensor | None = None,
        query_mask: Tensor | None = None,
        tap: int | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Encode x [B, L, d] and return [B, d], the output at `position` [B], or without it [B, L, d].

        `key_mask` and `query_mask` are those of `Attention`; None means that all is visible. With `tap` a second output
        is what so many of the blocks gave, at the same position.
        """
        last = len(self.blocks) - 1
        tapped = None
        for index, block in enumerate(self.blocks):
            x = block(x, key_mask, query_mask, only=position if index == last else None)
            if tap == index + 1:
                tapped = x if position is None or index == last else x[torch.arange(len(x), device=x.device), position]
        x = x if position is None else x[:, 0]
        if tap is None:
            return x
        assert tapped is not None, f"tap must be from 1 to {last + 1}, got {tap}"
        return x, tapped.view_as(x)

    def keys_and_values(self, x: Tensor, key_mask: Tensor | None = None) -> list[Tensor]:
        """Keys and values [B, L, 2d] of each block for x [B, L, d], for `at_place`."""
        found = []
        for index, block in enumerate(self.blocks):
            found.append(block.attention.key_value(block.read(x)))
            if index < len(self.blocks) - 1:
                x = block(x, key_mask, None, None)
        return found

    def at_place(self, x: Tensor, place: Tensor, keys_and_values: Sequence[Tensor], key_mask: Tensor | None) -> Tensor:
        """Output [B, d] at `place` [B], which holds x [B, d] and which no other place sees.

        `key_mask` [B, L] says what that place sees, as for `Attention`; None means all.
        """
        x = x[:, None]
        for block, key_value in zip(self.blocks, keys_and_values, strict=True):
            x = block.at_place(x, place, key_value, key_mask)
        return x[:, 0]


class GELUStepMLP(nn.Module):
    """Encoding of a step: sines and cosines of its angles, Linear d → 2d, GELU, Linear 2d → d."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.expand = nn.Linear(hidden_size, 2 * hidden_size)
        self.contract = nn.Linear(2 * hidden_size, hidden_size)

    def forward(self, timestep: Tensor) -> Tensor:
        """Encode timesteps [B] as [B, d]; a step that all rows share as [1, d]."""
        width, dtype = self.expand.in_features, self.expand.weight.dtype
        angles = step_angles(shared_step(timestep), width, last_included=True, dtype=dtype)
        return self.contract(F.gelu(self.expand(torch.cat([angles.sin(), angles.cos()], dim=-1))))


class HistoryAttention(nn.Module):
    """Attention of DreamRec: no output map, logits scaled by 1/√d whatever the heads, keys and values of the same z.

    Each query is taken through the key's map instead of each key, and each mean of z through the value's map instead of
    each z, which is the same and far less work where queries are few: q·(K z) = (Kᵀ q)·z. A bias of the keys would move
    all logits of a query alike, and has no effect.

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
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.value = nn.Linear(hidden_size, hidden_size)
        self.dropout = Dropout(dropout)

    def start_xavier(self) -> None:
        """Draw the weights Xavier-uniform and set the biases to 0, where torch's own start is another."""
        for linear in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(self.query.bias)
        nn.init.zeros_(self.value.bias)

    def forward(self, queries: Tensor, z: Tensor, visible: Tensor) -> Tensor:
        """Attend from `queries` [B, Q, d] to z [B, L, d] where `visible`, bool [B, Q or 1, L], is true: [B, Q, d]."""
        rows, width, heads = len(z), z.shape[2], self.n_heads
        query = self.query(queries).view(rows, -1, heads, width // heads)
        query = torch.einsum("bqhe,hed->bhqd", query, self.key.weight.view(heads, -1, width))
        logits = torch.einsum("bhqd,bld->bhql", query, z) * width**-0.5
        # Finite, so that a row in which nothing is visible gives a number.
        logits = logits.masked_fill(~visible[:, None], torch.finfo(logits.dtype).min)
        weights = self.dropout(logits.softmax(dim=-1))
        mixed = torch.einsum("bhql,bld->bhqd", weights, z)
        values = torch.einsum("bhqd,hed->bqhe", mixed, self.value.weight.view(heads, -1, width)).flatten(2)
        # Dropout changes the sum of the weights, and with it the share of the bias.
        shares = weights.sum(dim=-1).transpose(1, 2).repeat_interleave(width // heads, dim=-1)
        return values + shares * self.value.bias


class HistoryBlock(nn.Module):
    """Transformer block of DreamRec, and with `residual` that of PreferDiff.

    With n = LN(z), a = n + Attn(n, z), g = LN(a) and F(g) = LN(g + FFN(g)), its output is LN(F(g)). With `residual`
    z is added to a, and a to F(g).
    """

    def __init__(
        self, hidden_size: int, n_heads: int, hidden_dropout: float, attn_dropout: float, residual: bool
    ) -> None:
        super().__init__()
        self.residual = residual
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.attention = HistoryAttention(hidden_size, n_heads, attn_dropout)
        self.feed_forward_norm = nn.LayerNorm(hidden_size)
        self.expand = nn.Linear(hidden_size, hidden_size)
        self.contract = nn.Linear(hidden_size, hidden_size)
        self.inner_norm = nn.LayerNorm(hidden_size)
        self.output_norm = nn.LayerNorm(hidden_size)
        self.dropout = Dropout(hidden_dropout)

    def forward(self, z: Tensor, real: Tensor, only: Tensor | None) -> Tensor:
        """The output [B, L, d] for z [B, L, d], or that [B, 1, d] at the place `only` [B].

        `real` bool [B, L] is false at padding, which is 0 and seen by none. A place sees those before it and itself.
        """
        z = z * real[:, :, None]
        here, here_real, visible = z, real, real[:, None]
        if only is None:
            visible = visible & torch.ones(z.shape[1], z.shape[1], dtype=torch.bool, device=z.device).tril()
        else:
            rows = torch.arange(len(z), device=z.device)
            here, here_real = z[rows, only][:, None], real[rows, only][:, None]
        normed = self.attention_norm(here)
        attended = normed + self.attention(normed, z, visible)
        if self.residual:
            attended = here + attended
        inner = self.feed_forward_norm(attended)
        inner = self.inner_norm(inner + self.dropout(self.contract(F.relu(self.expand(inner)))))
        inner = inner * here_real[:, :, None]
        return self.output_norm(attended + inner if self.residual else inner)


class HistoryEncoder(nn.Module):
    """A history as one vector: causal blocks, of which the newest place is read.

    Parameters
    ----------
    n_layers : int
        Number of blocks; the other parameters are those of `HistoryBlock`.
    """

    def __init__(self, n_layers: int, **block: Any) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(HistoryBlock(**block) for _ in range(n_layers))

    def forward(self, z: Tensor, real: Tensor, newest: Tensor) -> Tensor:
        """Encode z [B, L, d], right-padded where `real` bool [B, L] is false, at the place `newest` [B]: [B, d]."""
        last = len(self.blocks) - 1
        for index, block in enumerate(self.blocks):
            z = block(z, real, newest if index == last else None)
        return z[:, 0]
