from __future__ import annotations

import cmath
import math
from typing import Any

import pytest
import torch
from recbole.model.layers import TransformerLayer
from recboles_layer import give_weights

from recbole_diffusion.errors import SettingError
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.inference.restoring import DatasetSizes
from recbole_diffusion.model.bsarec import Block, BSARec, low_pass, padded_left

SMALL = {"hidden_size": 8, "inner_size": 16, "n_heads": 2, "MAX_ITEM_LIST_LENGTH": 7}


def make(**changes: Any) -> BSARec:
    config = load_config("BSARec", "ml-100k", None, {**SMALL, **changes})
    return BSARec(config, DatasetSizes(3, 20, "item_id"))


@pytest.mark.parametrize("length", [1, 2, 7, 8])
@pytest.mark.parametrize("frequencies", [1, 2, 3, 9])
def test_the_filter_is_a_discrete_fourier_transform_without_its_high_frequencies(length: int, frequencies: int) -> None:
    x, places = torch.randn(length, dtype=torch.float64).tolist(), range(length)

    def wave(k: int, n: int) -> complex:
        return cmath.exp(2j * math.pi * k * n / length)

    spectrum = [sum(x[n] / wave(k, n) for n in places) / length for k in places]
    # Frequency k and its mirror image L - k.
    kept = [k for k in places if min(k, length - k) < frequencies]
    back = [sum(spectrum[k] * wave(k, n) for k in kept) for n in places]
    assert max(abs(value.imag) for value in back) < 1e-12
    expected = torch.tensor([value.real for value in back])
    torch.testing.assert_close(low_pass(length, frequencies) @ torch.tensor(x), expected, atol=1e-6, rtol=0)


def test_a_block_follows_its_formula() -> None:
    torch.manual_seed(0)
    block = Block(load_config("BSARec", "ml-100k", None, SMALL)).eval()
    x, low, visible = torch.randn(3, 7, 8), low_pass(7, 2), torch.ones(3, 7, 7, dtype=torch.bool).tril()
    spectrum = torch.fft.rfft(x, dim=1)
    spectrum[:, 2:] = 0
    slow = torch.fft.irfft(spectrum, n=7, dim=1)
    filtered = block.filter_norm(x + slow + block.beta**2 * (x - slow))
    block.alpha = 0.0
    attended, attention = block(x, low, visible), block.attention_norm(x + block.attention(x, x, visible, None))
    block.alpha = 0.3
    mixed = 0.3 * filtered + 0.7 * attention
    expected = block.feed_forward_norm(mixed + block.contract(torch.nn.functional.gelu(block.expand(mixed))))
    torch.testing.assert_close(block(x, low, visible), expected)
    assert not torch.allclose(expected, attended)
    # The last places alone are those of the whole.
    torch.testing.assert_close(block(x, low[-2:], visible[:, -2:]), expected[:, -2:])


def test_without_the_filter_a_block_is_recboles_attention_block() -> None:
    torch.manual_seed(0)
    block = Block(load_config("BSARec", "ml-100k", None, {**SMALL, "alpha": 0.0})).eval().double()
    plain = TransformerLayer(2, 8, 16, 0.0, 0.0, "gelu", 1e-12).eval().double()
    give_weights(plain, block)
    x, low = torch.randn(2, 7, 8, dtype=torch.float64), low_pass(7, 1).double()
    items = torch.tensor([[0, 0, 0, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6, 7]])
    mask = make().get_attention_mask(items)
    real = items > 0
    visible = real[:, None, :] & torch.ones(7, 7, dtype=torch.bool).tril() | ~real[:, :, None]
    # Of RecBole's mask a place of padding sees all places, each with -10000 added.
    torch.testing.assert_close(block(x, low, visible), plain(x, mask))


def test_histories_are_padded_on_the_left_to_the_full_length() -> None:
    items, real = padded_left(torch.tensor([[3, 4, 0], [5, 0, 0], [6, 7, 8]]), torch.tensor([2, 1, 3]), 5)
    assert items.tolist() == [[0, 0, 0, 3, 4], [0, 0, 0, 0, 5], [0, 0, 6, 7, 8]]
    assert torch.equal(real, items > 0)


def test_scores_depend_neither_on_the_padding_nor_on_its_vector() -> None:
    model = make().eval()

    def read(items: list[int]) -> torch.Tensor:
        return model.read(torch.tensor([items]), torch.tensor([2]))

    before = read([3, 4])
    torch.testing.assert_close(read([3, 4, 0, 0]), before)
    model.item_embedding.weight.data[0] = 5
    torch.testing.assert_close(read([3, 4, 0, 0]), before)
    assert not torch.allclose(read([4, 3]), before)


def test_the_filter_counts() -> None:
    torch.manual_seed(0)
    model = make(c=1).eval()
    items, length = torch.tensor([[3, 4, 5]]), torch.tensor([3])
    before = model.read(items, length)
    model.low = low_pass(7, 3)
    assert not torch.allclose(model.read(items, length), before)
    assert "low" not in model.state_dict()


def test_sizes_that_do_not_fit_are_named() -> None:
    with pytest.raises(SettingError, match="hidden_size must be a multiple of n_heads=3, got 8"):
        make(n_heads=3)
