"""RecBole's transformer layer, as the plain form of a block of ours."""

from __future__ import annotations

from typing import Any

from recbole.model.layers import TransformerLayer


def give_weights(layer: TransformerLayer, block: Any) -> None:
    """Give RecBole's transformer layer the weights of a block of ours."""
    attention, feed_forward = layer.multi_head_attention, layer.feed_forward
    attention.query, attention.dense = block.attention.query, block.attention.output
    pairs = zip(block.attention.key_value.weight.chunk(2), block.attention.key_value.bias.chunk(2), strict=True)
    for linear, (weight, bias) in zip((attention.key, attention.value), pairs, strict=True):
        linear.weight.data, linear.bias.data = weight.data, bias.data
    attention.LayerNorm, feed_forward.LayerNorm = block.attention_norm, block.feed_forward_norm
    feed_forward.dense_1, feed_forward.dense_2 = block.expand, block.contract
