from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from golden_files import ours
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_diffusion.diffusion.noise import FreshNoise, GivenNoise, Noise
from recbole_diffusion.diffusion.process import GaussianProcess, posterior, sub_chain
from recbole_diffusion.diffusion.samplers import (
    SAMPLERS,
    ChainCoefficients,
    ancestral,
    chain_coefficients,
    ddim,
    ddpm,
)
from recbole_diffusion.diffusion.schedules import SCHEDULES, named_betas


@st.composite
def chains(draw: st.DrawFn) -> tuple[GaussianProcess, list[int]]:
    """A process of arbitrary betas and any of its sub-chains, with or without its first and last step."""
    betas = draw(st.lists(st.floats(1e-4, 0.999), min_size=1, max_size=40))
    timesteps = draw(st.sets(st.integers(0, len(betas) - 1), min_size=1))
    return GaussianProcess(torch.tensor(betas, dtype=torch.float64)), sorted(timesteps, reverse=True)


def assert_keeps_every_marginal(
    process: GaussianProcess, timesteps: list[int], coefficients: ChainCoefficients
) -> None:
    """Propagate x = m x_0 + sqrt(v) noise from q(x_T | x_0), for a network that knows x_0."""
    abar = process.abar[timesteps].tolist()
    m, v = abar[0] ** 0.5, 1 - abar[0]
    for abar_prev, a, b, s in zip([*abar[1:], 1.0], *(c.tolist() for c in coefficients), strict=True):
        m, v = a + b * m, b**2 * v + s**2
        assert abs(m - abar_prev**0.5) < 1e-12 and abs(v - (1 - abar_prev)) < 1e-12


class Noted(Noise):
    """Ones; notes the steps at which they are asked for."""

    def __init__(self, steps: list[int], step: int = 0) -> None:
        self.steps, self.step = steps, step

    def at(self, step: int) -> Noise:
        return Noted(self.steps, step)

    def normal(self, name: str, shape: tuple[int, ...]) -> Tensor:
        self.steps.append(self.step)
        return torch.ones(shape)


@settings(deadline=None)
@given(chains())
def test_posterior_keeps_every_marginal_on_any_sub_chain(chain) -> None:
    assert_keeps_every_marginal(*chain, chain_coefficients(*chain))


@settings(deadline=None)
@given(chains(), st.floats(0, 1))
def test_ddim_keeps_every_marginal_on_any_sub_chain(chain, eta: float) -> None:
    assert_keeps_every_marginal(*chain, chain_coefficients(*chain, "ddim", eta=eta))


@settings(deadline=None)
@given(chains())
def test_ddim_with_eta_1_is_the_posterior_chain(chain) -> None:
    ddim, ddpm = chain_coefficients(*chain, "ddim", eta=1), chain_coefficients(*chain, "ddpm")
    torch.testing.assert_close(ddim, ddpm, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("inference_steps", [1, 2, 7, 1000, 10_000])
def test_the_same_holds_for_long_named_schedules(name: str, inference_steps: int) -> None:
    process, timesteps = GaussianProcess(named_betas(name, 10_000)), sub_chain(10_000, inference_steps)
    ddpm = chain_coefficients(process, timesteps)
    assert_keeps_every_marginal(process, timesteps, ddpm)
    torch.testing.assert_close(chain_coefficients(process, timesteps, "ddim", eta=1), ddpm, rtol=0, atol=1e-12)


def test_posterior_keeps_marginals_by_simulation() -> None:
    process, timesteps = GaussianProcess(named_betas("trunc_lin", 32)), sub_chain(32, 6)
    torch.manual_seed(0)
    rows, mean, spread = 200_000, 1.5, 0.7
    noise = FreshNoise("cpu", torch.float64)
    x_0 = mean + spread * noise.normal("x_0", (rows,))
    x_T = process.sample(x_0, torch.full((rows,), timesteps[0]), noise.normal("x_t", (rows,)))
    steps = list(ddpm(lambda x, t, _: x_0, x_T, process, timesteps, noise))
    assert torch.equal(steps[-1].x, x_0)
    for step, following in zip(steps[:-1], timesteps[1:], strict=True):
        abar = process.abar[following].item()
        variance = abar * spread**2 + 1 - abar
        assert step.x.mean().item() == pytest.approx(abar**0.5 * mean, abs=5 * (variance / rows) ** 0.5)
        assert step.x.var().item() == pytest.approx(variance, rel=5 * (2 / rows) ** 0.5)


def test_beta_variance_widens_every_marginal_but_the_last() -> None:
    process, timesteps = GaussianProcess(named_betas("trunc_lin", 32)), sub_chain(32, 32)
    variance = 1 - process.abar[-1]
    widths = []
    for abar_prev, b, s in zip(
        [*process.abar[:-1].flip(0), torch.ones(())],
        *chain_coefficients(process, timesteps, reverse_variance="beta")[1:],
        strict=True,
    ):
        variance = b**2 * variance + s**2
        widths.append(variance - (1 - abar_prev))
    assert min(widths[:-1]) > 0 and widths[-1] == 0


@settings(deadline=None)
@given(chains())
def test_last_step_is_x0_hat(chain) -> None:
    for arguments in (("ddpm", "posterior"), ("ddpm", "beta"), ("ddim", "posterior", 0.3)):
        assert [c[-1].item() for c in chain_coefficients(*chain, *arguments)] == [1, 0, 0]


@pytest.mark.parametrize("name", SCHEDULES)
def test_full_chain_has_the_coefficients_of_the_process(name: str) -> None:
    process = GaussianProcess(named_betas(name, 100))
    steps = posterior(process.betas, process.abar, torch.cat([torch.ones(1), process.abar[:-1]]))
    for reverse_variance, variance in (
        ("posterior", steps.variance),
        ("beta", torch.where(torch.arange(100) > 0, process.betas, 0)),
    ):
        expected = ChainCoefficients(steps.c1.flip(0), steps.c2.flip(0), variance.flip(0).sqrt())
        actual = chain_coefficients(process, sub_chain(100, 100), reverse_variance=reverse_variance)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 2e-6)])
@pytest.mark.parametrize("recording", ["diffurec_reference", "diffurec_reference_T32"])
def test_reverse_chain_is_the_recorded_one(recording: str, dtype: torch.dtype, tolerance: float) -> None:
    # The recording itself is float32, of values up to 3.5.
    golden = ours(recording)
    x_T, noise, x0_hat, x = (
        torch.from_numpy(golden[f"reverse/{key}"]).to(dtype) for key in ("x_T", "noise", "x0_hat", "x")
    )
    process = GaussianProcess(torch.from_numpy(golden["betas"]))
    last = len(x) - 1
    given = GivenNoise({("reverse", step): noise[last - step] for step in range(len(x))})
    steps = ddpm(
        lambda x_t, t, _: x0_hat[last - t], x_T, process, sub_chain(len(x), len(x)), given, reverse_variance="beta"
    )
    actual = torch.stack([step.x for step in steps])
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, x, rtol=0, atol=tolerance)


def test_network_and_noise_are_given_the_original_timesteps() -> None:
    process, timesteps = GaussianProcess(named_betas("cosine", 50)), [49, 30, 12, 3]
    denoised, drawn, inputs = [], [], []

    def denoise(x_t: Tensor, timestep: float, noise: Noise) -> Tensor:
        denoised.append(timestep)
        inputs.append(x_t)
        return x_t / 2

    x_T = torch.ones(2)
    steps = list(ddpm(denoise, x_T, process, timesteps, Noted(drawn)))
    assert denoised == timesteps and [step.timestep for step in steps] == timesteps
    assert drawn == timesteps[:-1]
    assert all(torch.equal(x, x_t) for x, x_t in zip([x_T, *(step.x for step in steps)], inputs, strict=False))
    assert all(torch.equal(step.x0_hat, x_t / 2) for step, x_t in zip(steps, inputs, strict=True))


@settings(deadline=None)
@given(chains(), st.sampled_from(sorted(SAMPLERS)))
def test_the_network_is_given_the_original_t_on_any_sub_chain(chain, sampler: str) -> None:
    process, timesteps = chain
    given: list[int] = []

    def denoise(x_t: Tensor, timestep: float, noise: Noise) -> Tensor:
        given.append(timestep)
        return x_t

    list(SAMPLERS[sampler](denoise, torch.ones(2), process, timesteps, Noted([])))
    assert given == timesteps


def test_ddim_without_eta_draws_nothing_and_lies_between_x0_hat_and_x_t() -> None:
    process, timesteps = GaussianProcess(named_betas("cosine", 50)), [40, 20, 0]

    # Where the network knows x_0, the noise that x_T was made with must come out again at every step.
    x_0, eps = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.3, 0.7]).double()
    x_T = process.sample(x_0[None], torch.tensor([40]), eps[None])[0]
    steps = list(ddim(lambda x, t, _: x_0, x_T, process, timesteps, GivenNoise({})))
    for step, following in zip(steps, timesteps[1:], strict=False):
        abar = process.abar[following]
        torch.testing.assert_close(step.x, abar.sqrt() * x_0 + (1 - abar).sqrt() * eps, rtol=0, atol=1e-12)
    assert torch.equal(steps[-1].x, x_0)


@given(st.integers(1, 1500).flatmap(lambda steps: st.tuples(st.just(steps), st.integers(1, steps))))
def test_sub_chain_is_evenly_spread(sizes: tuple[int, int]) -> None:
    diffusion_steps, inference_steps = sizes
    timesteps = sub_chain(diffusion_steps, inference_steps)
    assert len(timesteps) == inference_steps and timesteps[0] == diffusion_steps - 1
    if inference_steps > 1:
        assert timesteps[-1] == 0
        even = (diffusion_steps - 1) / (inference_steps - 1)
        gaps = [earlier - later for earlier, later in itertools.pairwise(timesteps)]
        assert min(gaps) >= 1 and all(abs(gap - even) < 1 for gap in gaps)


@pytest.mark.parametrize("inference_steps", [0, -1, 33])
def test_sub_chain_refuses_other_lengths(inference_steps: int) -> None:
    with pytest.raises(ValueError, match=f"inference_steps must be from 1 to 32, got {inference_steps}"):
        sub_chain(32, inference_steps)


@pytest.mark.parametrize(
    ("timesteps", "keywords", "message"),
    [
        ([], {}, "must fall"),
        ([0, 1], {}, "must fall"),
        ([3, 3], {}, "must fall"),
        ([10, 0], {}, "from 9 at most"),
        ([1, -1], {}, "to 0 at least"),
        ([9], {"sampler": "euler"}, "ddpm or ddim, got 'euler'"),
        ([9], {"reverse_variance": "learned"}, "posterior, beta, got 'learned'"),
        ([9], {"eta": 1.5}, "eta must be from 0 to 1, got 1.5"),
        ([9], {"eta": float("nan")}, "eta must be from 0 to 1, got nan"),
    ],
)
def test_chain_refuses_what_it_cannot_follow(timesteps: list[int], keywords: dict, message: str) -> None:
    process = GaussianProcess(named_betas("cosine", 10))
    with pytest.raises(ValueError, match=message):
        chain_coefficients(process, timesteps, **keywords)


@settings(deadline=None)
@given(chains())
def test_the_processs_own_steps_are_ddpm(chain) -> None:
    process, timesteps = chain

    def denoise(x_t: Tensor, timestep: float, noise: Noise) -> Tensor:
        return torch.tanh(x_t) + timestep

    x_T = torch.tensor([0.5, -1.0]).double()
    own, plain = ([step.x for step in way(denoise, x_T, process, timesteps, Noted([]))] for way in (ancestral, ddpm))
    torch.testing.assert_close(torch.stack(own), torch.stack(plain), rtol=1e-6, atol=1e-9)


def error_of(sampler: str, steps: int) -> float:
    """Distance of a deterministic chain's end from the exact one, for a Gaussian x_0 ~ N(0, 0.25).

    The best prediction is x0_hat = 0.25 signal x_t / (0.25 abar + 1 - abar), and the exact flow keeps
    x_t / sqrt(0.25 abar + 1 - abar).
    """
    process = GaussianProcess(named_betas("linear", 1000))
    # Not to the very end, where the last step of any chain is x0_hat.
    timesteps = torch.linspace(999, 100, steps + 1).round().long().tolist()

    def denoise(x_t: Tensor, timestep: float, noise: Noise) -> Tensor:
        abar = process.abar[int(timestep)]
        return 0.25 * abar.sqrt() * x_t / (0.25 * abar + 1 - abar)

    spread = [float(0.25 * process.abar[t] + 1 - process.abar[t]) ** 0.5 for t in (timesteps[0], timesteps[-1])]
    chain = list(SAMPLERS[sampler](denoise, torch.ones(1).double(), process, timesteps, GivenNoise({})))
    return abs(chain[-2].x.item() - spread[1] / spread[0])


def test_the_two_step_sampler_is_of_second_order() -> None:
    first, second = ([error_of(sampler, steps) for steps in (4, 32)] for sampler in ("ddim", "dpmpp_2m"))
    orders = [np.log2(errors[0] / errors[1]) / 3 for errors in (first, second)]
    assert orders[0] == pytest.approx(1, abs=0.2) and orders[1] > 1.8
    assert second[1] < first[1] / 20
