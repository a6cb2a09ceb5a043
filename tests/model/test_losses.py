from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from recbole_diffusion.model.losses import catalogue_cross_entropy


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("largest_block", [1, 7 * 10, 7 * 33, 7 * 1000])
def test_pieces_equal_the_whole(largest_block: int, with_bias: bool) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(7, 16, requires_grad=True), torch.randn(100, 16, requires_grad=True)
    bias = torch.randn(100, requires_grad=True) if with_bias else None
    leaves = [x, weight] + ([bias] if bias is not None else [])
    target, upstream = torch.randint(0, 100, (7,)), torch.rand(7)
    plain = F.cross_entropy(F.linear(x, weight, bias), target, reduction="none")
    ours = catalogue_cross_entropy(x, weight, bias, target, largest_block)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)
    for mine, theirs in zip(
        torch.autograd.grad(ours, leaves, upstream), torch.autograd.grad(plain, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)


def test_scores_are_never_held_at_once() -> None:
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
        catalogue_cross_entropy(x, weight, None, torch.zeros(64, dtype=torch.int64), 64 * 500).sum().backward()
    assert largest <= 64 * 500
