from __future__ import annotations

import pytest
import torch

from recbole_diffusion.diffusion.folding import fold
from recbole_diffusion.diffusion.noise import GivenNoise
from recbole_diffusion.diffusion.process import GaussianProcess
from recbole_diffusion.diffusion.samplers import SAMPLERS, chain_coefficients
from recbole_diffusion.diffusion.schedules import named_betas


@pytest.mark.parametrize(("sampler", "eta"), [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 0.7)])
@pytest.mark.parametrize("timesteps", [[9], [9, 5, 0], list(range(10))[::-1]])
def test_matrices_give_what_the_steps_give(sampler: str, eta: float, timesteps: list[int]) -> None:
    torch.manual_seed(0)
    process = GaussianProcess(named_betas("cosine", 10))
    weight, offsets = torch.randn(4, 4).double(), torch.randn(len(timesteps), 4).double()
    g, x = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    noise = GivenNoise({("reverse", timestep): torch.randn(3, 4).double() for timestep in timesteps})
    added = dict(zip(timesteps, offsets, strict=True))

    steps = SAMPLERS[sampler](lambda x, t, _: x @ weight.T + g + added[int(t)], x, process, timesteps, noise, eta=eta)
    chain = fold(weight, offsets, chain_coefficients(process, timesteps, sampler, eta=eta))
    x_0 = chain(x, g)
    for timestep, matrix in zip(timesteps, chain.noise, strict=True):
        if matrix is not None:
            x_0 = x_0 + noise.at(timestep).normal("reverse", (3, 4)) @ matrix.T
    torch.testing.assert_close(x_0, list(steps)[-1].x, rtol=1e-9, atol=1e-9)
    # The last step adds none, and DDIM without eta nowhere does.
    assert [matrix is None for matrix in chain.noise] == [sampler == "ddim" and not eta] * (len(timesteps) - 1) + [True]
