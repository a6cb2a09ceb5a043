from __future__ import annotations

import itertools
import math

import pytest
import torch

from recbole_diffusion.diffusion.bridge import BridgeProcess
from recbole_diffusion.diffusion.noise import GivenNoise
from recbole_diffusion.diffusion.samplers import ancestral

STEPS = 9
MU = 1.7


def normal(mean: float, variance: float, x: torch.Tensor) -> torch.Tensor:
    return torch.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def test_it_leads_from_x_0_to_the_end() -> None:
    process = BridgeProcess(STEPS, MU)
    generator = torch.Generator().manual_seed(0)
    x_0, end, noise = torch.randn(3, 2, 4, generator=generator)
    first, last = torch.zeros(2, dtype=torch.int64), torch.full((2,), STEPS - 1)
    # The margin of 0.0001 has the standard deviation 0.013.
    torch.testing.assert_close(process.sample(x_0, first, noise, end), x_0, atol=0.06, rtol=0)
    torch.testing.assert_close(process.sample(x_0, last, noise, end), end, atol=0.06, rtol=0)
    still = BridgeProcess(STEPS, 0.0)
    torch.testing.assert_close(still.sample(x_0, first, noise, end), x_0, atol=1e-3, rtol=0)
    torch.testing.assert_close(still.sample(x_0, last, noise, end), end, atol=1e-3, rtol=0)
    assert torch.equal(process.start((2, 4), GivenNoise({}), end), end)


def test_a_single_step_which_would_be_x_0_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="diffusion_steps must be at least 2, got 1"):
        BridgeProcess(1)


def test_each_place_has_its_own_timestep() -> None:
    process = BridgeProcess(STEPS, MU)
    x_0, end, noise = torch.randn(3, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    timestep = torch.tensor([[0, 4, 8], [2, 2, 7]])
    x_t = process.sample(x_0, timestep, noise, end)
    one = process.sample(x_0[1, 2:], timestep[1, 2:], noise[1, 2:], end[1, 2:])
    assert torch.equal(x_t[1, 2:], one)


def test_marginals_are_those_of_a_simulated_brownian_bridge() -> None:
    """A random walk with independent steps, tied down at both ends, against `sample`'s mean and variance."""
    process = BridgeProcess(STEPS, MU)
    generator = torch.Generator().manual_seed(2)
    fine, paths, x_0, end = 400, 20_000, 0.7, -1.1
    walk = (torch.randn(paths, fine, generator=generator, dtype=torch.float64) * (MU / fine) ** 0.5).cumsum(dim=1)
    share = torch.arange(1, fine + 1) / fine
    tied = (1 - share) * x_0 + share * end + walk - share * walk[:, -1:]
    for timestep in (2, 4, 6):
        b = float(process.b[timestep])
        at = tied[:, round(b * fine) - 1]
        noise = torch.randn(paths, 1, generator=generator, dtype=torch.float64)
        steps = torch.full((paths,), timestep)
        ours = process.sample(torch.full_like(noise, x_0), steps, noise, torch.full_like(noise, end))
        assert ours.mean().item() == pytest.approx(at.mean().item(), abs=0.03)
        assert ours.var().item() == pytest.approx(at.var().item(), rel=0.06)


@pytest.mark.parametrize(("timestep", "earlier"), [(7, 6), (5, 2), (1, 0)])
def test_a_step_is_bayes_rule(timestep: int, earlier: int) -> None:
    """q(x_s | x_t, x_0, end) from the marginal at s and the transition from s to t, on a grid of x_s."""
    process = BridgeProcess(STEPS, MU)
    x_0, x_t, end = 0.4, -0.3, 1.2
    b, b_s = float(process.b[timestep]), float(process.b[earlier])
    delta, delta_s = MU * b * (1 - b), MU * b_s * (1 - b_s)
    grid = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    prior = normal((1 - b_s) * x_0 + b_s * end, delta_s, grid)
    # The transition is linear in x_s; its factors follow from both marginals.
    g = (1 - b) / (1 - b_s)
    likelihood = normal(x_t, delta - g**2 * delta_s, g * grid + (b - g * b_s) * end)
    weight = prior * likelihood / (prior * likelihood).sum()
    mean = (weight * grid).sum().item()
    deviation = (weight * (grid - mean) ** 2).sum().sqrt().item()
    for draw in (0.0, 1.0):
        noise = GivenNoise({"reverse": torch.tensor([[draw]], dtype=torch.float64)})
        points = [torch.tensor([[value]], dtype=torch.float64) for value in (x_0, x_t, end)]
        ours = process.step(points[0], points[1], timestep, earlier, noise, points[2]).item()
        assert ours == pytest.approx(mean + draw * deviation, abs=1e-6)


def test_a_chain_with_a_perfect_network_keeps_the_marginals() -> None:
    process = BridgeProcess(STEPS, MU)
    paths, x_0, end = 20_000, 0.7, -1.1
    torch.manual_seed(3)
    ends = torch.full((paths, 1), end)
    noise = GivenNoise({("reverse", t): torch.randn(paths, 1) for t in range(STEPS)})
    chain = list(ancestral(lambda x, t, n: torch.full_like(x, x_0), ends, process, process.chain(5), noise, ends))
    assert [step.timestep for step in chain] == [8, 6, 4, 2, 0]
    for step, later in itertools.pairwise(chain):
        b = float(process.b[int(later.timestep)])
        assert step.x.mean().item() == pytest.approx((1 - b) * x_0 + b * end, abs=0.03)
        assert step.x.var().item() == pytest.approx(MU * b * (1 - b), rel=0.06, abs=1e-3)
    assert torch.equal(chain[-1].x, torch.full((paths, 1), x_0))


def test_an_end_point_is_needed() -> None:
    process = BridgeProcess(STEPS)
    with pytest.raises(ValueError, match="needs its end point"):
        process.sample(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="inference_steps must be from 1 to 9"):
        process.chain(10)
