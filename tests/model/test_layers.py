from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace

import psutil
import pytest
import torch
import torch.nn.functional as F
from marks import needs_gpu
from torch import nn

from recbole_diffusion.errors import SettingError
from recbole_diffusion.model.layers import Attention, Dropout, Encoder, StepMLP, item_table, rotated, step_angles

BLOCK = {
    "hidden_size": 16,
    "n_heads": 4,
    "inner_size": 32,
    "hidden_dropout": 0.0,
    "attn_dropout": 0.0,
    "hidden_act": "gelu_tanh",
    "layer_norm_eps": 1e-12,
}


@pytest.mark.parametrize(("n_items", "most"), [(10, 31), (100, 10)])
def test_an_item_table_that_memory_does_not_hold_is_refused(
    n_items: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 1000 numbers that memory holds, [V, d] and [d, d] may take all."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=4000))
    assert item_table(n_items, {"hidden_size": most, "initializer_range": 0.02}).weight.shape == (n_items, most)
    message = f"hidden_size must be at most {most} with {n_items - 1} items and 0.0 GiB of free memory, got {most + 1}"
    with pytest.raises(SettingError, match=message):
        item_table(n_items, {"hidden_size": most + 1, "initializer_range": 0.02})


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_dropout_keeps_expectation_and_rate(probability: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(1000, 1001, requires_grad=True)
    y = Dropout(probability)(x)
    assert (y == 0).double().mean().item() == pytest.approx(probability, abs=3e-3)
    assert y.double().mean().item() == pytest.approx(1.0, abs=3e-3)
    kept = y.detach()[y > 0].unique()
    assert len(kept) == 1 and kept.item() == pytest.approx(1 / (1 - probability), rel=1e-4)


def test_dropout_treats_the_gradient_like_the_value() -> None:
    x = torch.randn(37, 11, dtype=torch.float64, requires_grad=True)
    y = Dropout(0.3)(x)
    y.sum().backward()
    assert torch.equal(x.grad * x.detach(), y.detach())


def test_dropout_draws_every_element_and_every_call_on_its_own() -> None:
    torch.manual_seed(0)
    keep = torch.stack([(Dropout(0.5)(torch.ones(64)) > 0).double() for _ in range(4000)])
    correlation = torch.corrcoef(keep.T) - torch.eye(64)
    assert correlation.abs().max() < 6 / math.sqrt(4000)


def test_dropout_of_nearly_all_is_finite() -> None:
    assert Dropout(1 - 2**-20)(torch.ones(100)).isfinite().all()


def test_dropout_is_off_in_evaluation() -> None:
    x = torch.randn(5, 5)
    assert torch.equal(Dropout(0.9).eval()(x), x)


@pytest.fixture
def precision_as_found() -> Iterator[None]:
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(precision)


@pytest.mark.usefixtures("precision_as_found")
def test_in_bfloat16_a_cpu_attends_without_torchs_slow_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    attention, x = Attention(16, 4, 0.0), torch.randn(3, 5, 16)
    real = torch.arange(5) < torch.tensor([5, 2, 3])[:, None]
    with torch.no_grad():
        expected = attention(x, x, real, None)
        monkeypatch.setattr(F, "scaled_dot_product_attention", None)
        with pytest.raises(TypeError):
            attention(x, x, real, None)
        torch.set_float32_matmul_precision("medium")
        torch.testing.assert_close(attention(x, x, real, None), expected, atol=0.02, rtol=0)


def test_attention_equals_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(16, 4, 0.0), nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        theirs.out_proj.load_state_dict(ours.output.state_dict())
    x = torch.randn(3, 5, 16)
    real = torch.arange(5) < torch.tensor([5, 2, 3])[:, None]
    expected, _ = theirs(x, x, x, key_padding_mask=~real)
    torch.testing.assert_close(ours(x, x, real, None), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_with_dropout_has_the_undropped_one_as_its_mean(device: str, causal: bool) -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2, 0.2).to(device)
    x = torch.randn(2, 4, 8, device=device)
    real = torch.tensor([[True] * 4, [True, True, False, False]], device=device)
    visible = torch.ones(1, 4, 4, dtype=torch.bool, device=device).tril() if causal else real
    with torch.no_grad():
        mean = torch.stack([attention(x, x, visible, None) for _ in range(4000)]).mean(dim=0)
        torch.testing.assert_close(mean, attention.eval()(x, x, visible, None), atol=0.05, rtol=0)


def test_masked_queries_attend_to_all_keys_alike() -> None:
    attention = Attention(8, 2, 0.0)
    x = torch.randn(1, 4, 8)
    mixed = attention(x, x, None, torch.tensor([[True, True, False, False]]))
    uniform = attention.output(attention.key_value(x)[..., 8:].mean(dim=1))
    torch.testing.assert_close(mixed[0, 2:], uniform.expand(2, 8))
    assert not torch.allclose(mixed[0, :2], uniform.expand(2, 8))


def test_encoder_reads_one_position_of_the_whole_computation() -> None:
    torch.manual_seed(0)
    encoder = Encoder(2, **BLOCK).double()
    x = torch.randn(3, 5, 16, dtype=torch.float64)
    position = torch.tensor([4, 0, 2])
    whole = x
    for block in encoder.blocks:
        whole = block(whole, None, None, only=None)
    expected = whole[torch.arange(3), position]
    torch.testing.assert_close(encoder(x, position), expected, atol=1e-12, rtol=0)


def test_encoder_does_not_see_padding() -> None:
    torch.manual_seed(0)
    encoder = Encoder(2, **BLOCK).double()
    x = torch.randn(1, 3, 16, dtype=torch.float64)
    padded = torch.cat([x, torch.randn(1, 4, 16, dtype=torch.float64)], dim=1)
    position = torch.tensor([2])
    real = torch.arange(7)[None] < 3
    torch.testing.assert_close(encoder(padded, position, real), encoder(x, position), atol=1e-12, rtol=0)


def test_step_angles() -> None:
    angles = step_angles(torch.tensor([0, 7]), 6)
    assert angles.shape == (2, 3)
    expected = [7 * 10000 ** (-j / 3) for j in range(3)]
    torch.testing.assert_close(angles[1], torch.tensor(expected), rtol=1e-5, atol=0)
    assert torch.equal(angles[0], torch.zeros(3))


def test_query_key_and_value_start_alike() -> None:
    torch.manual_seed(0)
    attention = Encoder(1, **{**BLOCK, "hidden_size": 128}).blocks[0].attention
    weights = [attention.query.weight, *attention.key_value.weight.chunk(2)]
    assert [round(weight.std().item(), 2) for weight in weights] == [0.09] * 3


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("post_norm", [False, True])
def test_a_causal_place_computed_by_itself_equals_the_whole(post_norm: bool, rotary: bool) -> None:
    torch.manual_seed(0)
    encoder = Encoder(3, **BLOCK, post_norm=post_norm, rotary=rotary).eval()
    x = torch.randn(4, 6, 16)
    place = torch.tensor([5, 3, 0, 2])
    causal = torch.ones(6, 6, dtype=torch.bool).tril()[None]
    whole = encoder(x, None, causal)
    rows = torch.arange(4)
    torch.testing.assert_close(encoder(x, place, causal), whole[rows, place], atol=1e-5, rtol=0)
    # What stands at the place when the others are computed is not read.
    others = encoder.keys_and_values(x.index_put((rows, place), torch.tensor(7.0)), causal)
    alone = encoder.at_place(x[rows, place], place, others, torch.arange(6) <= place[:, None])
    torch.testing.assert_close(alone, whole[rows, place], atol=1e-5, rtol=0)
    # Nothing after a place changes it.
    changed = encoder(x.index_put((rows, place), torch.tensor(7.0)), None, causal)
    before = torch.arange(6) < place[:, None]
    assert torch.equal(changed[before], whole[before])
    assert not torch.allclose(changed[rows, place], whole[rows, place])


def test_post_norm_block_is_the_formula() -> None:
    torch.manual_seed(0)
    block = Encoder(1, **BLOCK, post_norm=True).blocks[0].eval()
    x = torch.randn(2, 5, 16)
    middle = block.attention_norm(x + block.attention(x, x, None, None))
    expected = block.feed_forward_norm(middle + block.contract(block.activation(block.expand(middle))))
    torch.testing.assert_close(block(x, None, None, None), expected)


@pytest.mark.parametrize("tap", [1, 2, 3])
def test_a_tap_is_what_so_many_blocks_give(tap: int) -> None:
    torch.manual_seed(0)
    encoder = Encoder(3, **BLOCK).eval()
    x, place = torch.randn(4, 6, 16), torch.tensor([5, 3, 0, 2])
    output, tapped = encoder(x, place, tap=tap)
    torch.testing.assert_close(output, encoder(x, place))
    state = x
    for block in encoder.blocks[:tap]:
        state = block(state, None, None, None)
    torch.testing.assert_close(tapped, state[torch.arange(4), place], atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", [1.0, 999.0])
def test_step_mlp_reads_cosines_and_sines(scale: float) -> None:
    torch.manual_seed(0)
    mlp = StepMLP(16, scale)
    time = torch.tensor([0.0, 0.3, 1.0])
    angles = step_angles(time * scale, 16)
    encoded = torch.cat([angles.cos(), angles.sin()], dim=1)
    expected = torch.nn.functional.linear(encoded, mlp[0].weight, mlp[0].bias)
    expected = torch.nn.functional.linear(torch.nn.functional.silu(expected), mlp[2].weight, mlp[2].bias)
    torch.testing.assert_close(mlp(time), expected)
    exact = mlp.double()(time.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(exact, expected.double(), atol=1e-4, rtol=0)


def test_a_product_of_turned_vectors_depends_on_the_distance_of_their_places() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, dtype=torch.float64)
    turned = [rotated(x, torch.tensor(places)) for places in ([3, 7], [20, 24], [3, 8])]
    products = [float(pair[0] @ pair[1]) for pair in turned]
    # The angles are float32.
    assert products[0] == pytest.approx(products[1], abs=1e-5)
    assert abs(products[0] - products[2]) > 1e-3
    pair = torch.complex(x[:, :4], x[:, 4:])
    expected = pair * torch.exp(1j * torch.tensor([3.0, 7.0])[:, None] * 10000 ** (-torch.arange(4) / 4))
    torch.testing.assert_close(turned[0], torch.cat([expected.real, expected.imag], dim=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(rotated(x), rotated(x, torch.arange(2)))
