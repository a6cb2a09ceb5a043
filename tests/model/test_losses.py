from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from recbole_diffusion.model import losses
from recbole_diffusion.model.losses import catalogue_cross_entropy, catalogue_exp_sum


# With scores in the thousands most of a softmax, and whole pieces of it, are 0.
@pytest.mark.parametrize(("size", "dtype", "atol"), [(1, torch.float32, 1e-5), (300, torch.float64, 1e-10)])
@pytest.mark.parametrize("first_item", [0, 1])
@pytest.mark.parametrize("with_bias", [False, True])
# The last two hold all scores, in one piece and in pieces.
@pytest.mark.parametrize(
    ("largest_block", "cached_block"),
    [(1, 2**18), (7 * 10, 2**18), (7 * 33, 2**18), (7 * 1000, 2**18), (7 * 1000, 7 * 33)],
)
def test_pieces_equal_the_whole(
    largest_block: int,
    cached_block: int,
    with_bias: bool,
    first_item: int,
    size: float,
    dtype: torch.dtype,
    atol: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(losses, "CACHED_BLOCK", cached_block)
    torch.manual_seed(0)
    x = (size * torch.randn(7, 16, dtype=dtype)).requires_grad_()
    weight = torch.randn(100, 16, dtype=dtype, requires_grad=True)
    bias = torch.randn(100, dtype=dtype, requires_grad=True) if with_bias else None
    leaves = [x, weight] + ([bias] if bias is not None else [])
    target, upstream = torch.randint(first_item, 100, (7,)), torch.rand(7, dtype=dtype)
    scores = F.linear(x, weight, bias)[:, first_item:]
    plain = F.cross_entropy(scores, target - first_item, reduction="none")
    ours = catalogue_cross_entropy(x, weight, bias, target, first_item, largest_block)
    torch.testing.assert_close(ours, plain, atol=atol, rtol=0)
    theirs = torch.autograd.grad(plain, leaves, upstream)
    # The second pass, after the kept scores are used up, equals the first.
    for mine in (torch.autograd.grad(ours, leaves, upstream, retain_graph=True) for _ in range(2)):
        torch.testing.assert_close(mine, theirs, atol=atol, rtol=0)


@pytest.mark.parametrize("first_item", [0, 1])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize(("largest_block", "cached_block"), [(7 * 10, 2**18), (7 * 1000, 2**18), (7 * 1000, 7 * 33)])
def test_pieces_of_the_sum_equal_the_whole(
    largest_block: int, cached_block: int, with_bias: bool, first_item: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CACHED_BLOCK", cached_block)
    torch.manual_seed(0)
    x, weight = (torch.randn(rows, 4, dtype=torch.float64, requires_grad=True) for rows in (7, 100))
    bias = torch.randn(100, dtype=torch.float64, requires_grad=True) if with_bias else None
    leaves = [x, weight] + ([bias] if bias is not None else [])
    without, upstream = torch.tensor([0, 1, 9, 10, 32, 33, 99]), torch.rand(7, dtype=torch.float64)
    scores = F.linear(x, weight, bias).scatter(1, without[:, None], -torch.inf)
    plain = scores[:, first_item:].exp().sum(dim=1)
    ours = catalogue_exp_sum(x, weight, bias, without, first_item, largest_block)
    torch.testing.assert_close(ours, plain)
    theirs = torch.autograd.grad(plain, leaves, upstream)
    for mine in (torch.autograd.grad(ours, leaves, upstream, retain_graph=True) for _ in range(2)):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("loss", [catalogue_cross_entropy, catalogue_exp_sum])
def test_scores_are_never_held_at_once(loss: Any) -> None:
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    x, weight = torch.randn(64, 4, requires_grad=True), torch.randn(5000, 4, requires_grad=True)
    with Watch():
        loss(x, weight, None, torch.ones(64, dtype=torch.int64), 1, 64 * 500).sum().backward()
    assert largest <= 64 * 500


def test_in_pieces_autocast_changes_nothing() -> None:
    torch.manual_seed(0)
    x, weight, target = torch.randn(7, 16), torch.randn(100, 16), torch.randint(1, 100, (7,))
    exact = catalogue_cross_entropy(x, weight, None, target, 1, 70)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(catalogue_cross_entropy(x, weight, None, target, 1, 70), exact)
