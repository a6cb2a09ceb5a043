from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.diffusion.samplers import ancestral
from recbole_diffusion.diffusion.sphere import SphereFlow

PROCESS = SphereFlow()


def ends() -> tuple[Tensor, Tensor]:
    x_0, end = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # Lengths do not count.
    return 3 * x_0, 0.1 * end


def at(t: float) -> Tensor:
    return torch.full((6,), t, dtype=torch.float64)


def exponential(x: Tensor, v: Tensor) -> Tensor:
    length = v.norm(dim=-1, keepdim=True)
    return length.cos() * x + length.sin() * v / length


def logarithm(x: Tensor, y: Tensor) -> Tensor:
    cosine = (x * y).sum(dim=-1, keepdim=True)
    across = y - cosine * x
    return cosine.acos() * across / across.norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("t", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_path_is_the_exponential_of_the_logarithm(t: float) -> None:
    x_0, end = ends()
    start, goal = F.normalize(x_0, dim=-1), F.normalize(end, dim=-1)
    x_t = PROCESS.sample(x_0, at(t), x_0, end)
    expected = exponential(start, t * logarithm(start, goal)) if t else start
    torch.testing.assert_close(x_t, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(x_t.norm(dim=-1), torch.ones(6).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize("t", [0.001, 0.1, 0.5, 0.9, 0.999])
def test_the_velocity_is_the_finite_difference(t: float) -> None:
    x_0, end = ends()
    gap = 1e-5
    before, after = (PROCESS.sample(x_0, at(t + shift), x_0, end) for shift in (-gap, gap))
    velocity = PROCESS.velocity(x_0, at(t), end)
    torch.testing.assert_close(velocity, (after - before) / (2 * gap), atol=1e-8, rtol=0)
    angle = torch.acos(F.cosine_similarity(x_0, end))
    torch.testing.assert_close(velocity.norm(dim=-1), angle)


def test_every_place_may_have_a_time_of_its_own() -> None:
    x_0, end = (part.view(2, 3, 8) for part in ends())
    t = torch.rand(2, 3, dtype=torch.float64)
    apart = [PROCESS.sample(x_0[:, i], t[:, i], x_0[:, i], end[:, i]) for i in range(3)]
    assert torch.equal(PROCESS.sample(x_0, t, x_0, end), torch.stack(apart, dim=1))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_equal_and_opposite_ends_give_finite_values_and_gradients(sign: float) -> None:
    x_0 = torch.randn(6, 8, requires_grad=True)
    end = sign * x_0.detach().clone().requires_grad_()
    end.retain_grad()
    t = torch.rand(6)
    x_t = PROCESS.sample(x_0, t, x_0, end)
    assert PROCESS.velocity(x_0, t, end).isfinite().all()
    x_t.square().sum().backward()
    assert x_0.grad is not None and x_0.grad.isfinite().all()
    if sign > 0:
        torch.testing.assert_close(x_t, F.normalize(x_0, dim=-1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_step_is_eulers_brought_to_length_1(steps: int) -> None:
    """Against z <- norm(z - v / K), with any network for the velocity."""
    _, end = ends()
    weight = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def velocity(x: Tensor, t: float) -> Tensor:
        return torch.tanh(x @ weight) + t

    def denoise(x: Tensor, t: float, noise: Noise) -> Tensor:
        return x - t * velocity(x, t)

    x = start = PROCESS.start((6, 8), Noise(), end)
    torch.testing.assert_close(start, F.normalize(end, dim=-1))
    chain = list(ancestral(denoise, start, PROCESS, PROCESS.chain(steps), Noise(), end))
    for number, step in enumerate(chain):
        t = 1 - number / steps
        assert step.timestep == pytest.approx(t)
        x = F.normalize(x - velocity(x, t) / steps, dim=-1)
        torch.testing.assert_close(step.x, x)


def test_with_the_true_velocity_a_chain_comes_near_x_0() -> None:
    """The closer, the more steps: Euler's error falls as 1 / K."""
    x_0, end = ends()

    def denoise(x: Tensor, t: float, noise: Noise) -> Tensor:
        return x - t * PROCESS.velocity(x_0, at(t), end)

    errors = []
    for steps in (2, 20, 200):
        start = PROCESS.start((6, 8), Noise(), end)
        *_, last = ancestral(denoise, start, PROCESS, PROCESS.chain(steps), Noise(), end)
        errors.append((last.x - F.normalize(x_0, dim=-1)).norm(dim=-1).max().item())
    assert errors[0] < math.pi / 4 and errors[1] < errors[0] / 5 and errors[2] < errors[1] / 5


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="needs the point to which it goes"):
        PROCESS.start((6, 8), Noise())
    with pytest.raises(ValueError, match="inference_steps must be from 1 to 10000, got 0"):
        PROCESS.chain(0)
