from __future__ import annotations

import pytest
import torch

from recbole_diffusion.diffusion.flow import FlowProcess
from recbole_diffusion.diffusion.noise import GivenNoise, Noise
from recbole_diffusion.diffusion.samplers import ancestral


def test_the_path_is_straight_from_noise_to_data() -> None:
    process = FlowProcess()
    x_0, z = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(process.sample(x_0, torch.ones(3), z), x_0)
    assert torch.equal(process.sample(x_0, torch.zeros(3), z), z)
    t = torch.tensor([0.1, 0.5, 0.8])
    torch.testing.assert_close(process.sample(x_0, t, z), z + t[:, None] * (x_0 - z))


@pytest.mark.parametrize("eps", [0.0, 0.001, 0.2])
@pytest.mark.parametrize("steps", [1, 2, 30])
def test_the_last_state_is_the_mean_of_the_predictions(eps: float, steps: int) -> None:
    """Whatever the network says and whatever the start was, since each velocity is measured from it."""
    process = FlowProcess(eps)
    torch.manual_seed(0)
    start, weight = torch.randn(5, 4, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    times = process.chain(steps)

    def denoise(x: torch.Tensor, t: float, noise: Noise) -> torch.Tensor:
        return torch.tanh(x @ weight) + t

    chain = list(ancestral(denoise, start, process, times, GivenNoise({}), start))
    mean = torch.stack([step.x0_hat for step in chain]).mean(dim=0)
    torch.testing.assert_close(chain[-1].x, mean, atol=1e-13, rtol=0)
    assert [step.timestep for step in chain] == times
    assert times == pytest.approx([eps + (1 - eps) * i / steps for i in range(steps)])
    # A path to a fixed point: after i steps i / N of the way.
    chain = list(ancestral(lambda x, t, n: torch.ones_like(x), start, process, times, GivenNoise({}), start))
    for index, step in enumerate(chain, start=1):
        torch.testing.assert_close(step.x, start + index / steps * (1 - start))


def test_what_a_flow_refuses() -> None:
    with pytest.raises(ValueError, match="eps must be from 0 to below 1, got 1"):
        FlowProcess(1)
    with pytest.raises(ValueError, match="inference_steps must be from 1 to 10000, got 0"):
        FlowProcess().chain(0)
    with pytest.raises(ValueError, match="inference_steps must be from 1 to 10000, got 10001"):
        FlowProcess().chain(10_001)
    with pytest.raises(ValueError, match="from which the chain started"):
        FlowProcess().step(torch.zeros(1, 2), torch.zeros(1, 2), 0.0, None, GivenNoise({}))
