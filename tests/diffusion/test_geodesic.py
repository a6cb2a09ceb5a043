from __future__ import annotations

import torch
import torch.nn.functional as F

from recbole_diffusion.diffusion.geodesic import GeodesicProcess
from recbole_diffusion.diffusion.noise import GivenNoise
from recbole_diffusion.diffusion.process import GaussianProcess
from recbole_diffusion.diffusion.samplers import ancestral
from recbole_diffusion.diffusion.schedules import betas_of


def test_x_t_lies_in_the_plane_of_x_0_and_v_and_a_chain_on_the_sphere() -> None:
    gaussian = GaussianProcess(betas_of("cosine", 16))
    process = GeodesicProcess(gaussian)
    torch.manual_seed(0)
    x_0, noise = F.normalize(torch.randn(6, 8), dim=-1), torch.randn(6, 8)
    timestep = torch.arange(6)
    v = gaussian.sample(x_0, timestep, noise)
    angle = v.norm(dim=-1, keepdim=True)
    expected = angle.cos() * x_0 + angle.sin() * v / angle
    torch.testing.assert_close(process.sample(x_0, timestep, noise), expected)

    numbers = GivenNoise({"reverse": torch.randn(6, 8)})
    chain = list(ancestral(lambda x, t, n: 3 * x_0, torch.randn(6, 8), process, process.chain(4), numbers))
    for step in chain:
        torch.testing.assert_close(step.x.norm(dim=-1), torch.ones(6))
    torch.testing.assert_close(chain[-1].x, x_0)
    # A step is the Gaussian one, brought to length 1.
    plain = gaussian.step(3 * x_0, chain[0].x, chain[1].timestep, chain[2].timestep, numbers)
    torch.testing.assert_close(chain[1].x, F.normalize(plain, dim=-1))
