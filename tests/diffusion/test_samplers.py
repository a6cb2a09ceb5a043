from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recbole_diffusion.diffusion.process import GaussianProcess
from recbole_diffusion.diffusion.samplers import (
    ChainCoefficients,
    chain_coefficients,
    reverse_chain,
    sub_chain,
)
from recbole_diffusion.diffusion.schedules import SCHEDULES, named_betas

GOLDEN = Path(__file__).parents[1] / "golden"


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
    generator = torch.Generator().manual_seed(0)
    rows, mean, spread = 200_000, 1.5, 0.7

    def normal(_: int) -> Tensor:
        return torch.randn(rows, generator=generator, dtype=torch.float64)

    x_0 = mean + spread * normal(0)
    x_T = process.q_sample(x_0, torch.full((rows,), timesteps[0]), normal(0))
    steps = list(reverse_chain(lambda x, t: x_0, x_T, process, timesteps, noise=normal))
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
        process.abar_prev.flip(0),
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
    for reverse_variance, variance in (
        ("posterior", process.posterior_variance),
        ("beta", torch.where(torch.arange(100) > 0, process.betas, 0)),
    ):
        expected = ChainCoefficients(process.c1.flip(0), process.c2.flip(0), variance.flip(0).sqrt())
        actual = chain_coefficients(process, sub_chain(100, 100), reverse_variance=reverse_variance)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 2e-6)])
@pytest.mark.parametrize("recording", ["diffurec_reference", "diffurec_reference_T32"])
def test_reverse_chain_is_the_recorded_one(recording: str, dtype: torch.dtype, tolerance: float) -> None:
    # The recording itself is float32, of values up to 3.5.
    golden = np.load(GOLDEN / f"{recording}.npz")
    x_T, noise, x0_hat, x = (
        torch.from_numpy(golden[f"reverse/{key}"]).to(dtype) for key in ("x_T", "noise", "x0_hat", "x")
    )
    process = GaussianProcess(torch.from_numpy(golden["betas"]))
    last = len(x) - 1
    steps = reverse_chain(
        lambda x_t, t: x0_hat[last - t],
        x_T,
        process,
        sub_chain(len(x), len(x)),
        noise=lambda t: noise[last - t],
        reverse_variance="beta",
    )
    actual = torch.stack([step.x for step in steps])
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, x, rtol=0, atol=tolerance)


def test_network_and_noise_are_given_the_original_timesteps() -> None:
    process, timesteps = GaussianProcess(named_betas("cosine", 50)), [49, 30, 12, 3]
    denoised, drawn, inputs = [], [], []

    def denoise(x_t: Tensor, timestep: int) -> Tensor:
        denoised.append(timestep)
        inputs.append(x_t)
        return x_t / 2

    def noise(timestep: int) -> Tensor:
        drawn.append(timestep)
        return torch.ones(2)

    x_T = torch.ones(2)
    steps = list(reverse_chain(denoise, x_T, process, timesteps, noise=noise))
    assert denoised == timesteps and [step.timestep for step in steps] == timesteps
    assert drawn == timesteps[:-1]
    assert all(torch.equal(x, x_t) for x, x_t in zip([x_T, *(step.x for step in steps)], inputs, strict=False))
    assert all(torch.equal(step.x0_hat, x_t / 2) for step, x_t in zip(steps, inputs, strict=True))


@settings(deadline=None)
@given(chains(), st.sampled_from(["ddpm", "ddim"]))
def test_the_network_is_given_the_original_t_on_any_sub_chain(chain, sampler: str) -> None:
    process, timesteps = chain
    given: list[int] = []

    def denoise(x_t: Tensor, timestep: int) -> Tensor:
        given.append(timestep)
        return x_t

    list(reverse_chain(denoise, torch.ones(2), process, timesteps, noise=lambda t: torch.ones(2), sampler=sampler))
    assert given == timesteps


def test_ddim_without_eta_draws_nothing_and_lies_between_x0_hat_and_x_t() -> None:
    process, timesteps = GaussianProcess(named_betas("cosine", 50)), [40, 20, 0]

    def no_noise(timestep: int) -> Tensor:
        raise AssertionError("deterministic")

    # Where the network knows x_0, the noise that x_T was made with must come out again at every step.
    x_0, eps = torch.tensor([1.0, -2.0]).double(), torch.tensor([0.3, 0.7]).double()
    x_T = process.q_sample(x_0[None], torch.tensor([40]), eps[None])[0]
    steps = list(reverse_chain(lambda x, t: x_0, x_T, process, timesteps, noise=no_noise, sampler="ddim"))
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
    with pytest.raises(ValueError, match=f"{inference_steps} inference steps: 1 to 32"):
        sub_chain(32, inference_steps)


@pytest.mark.parametrize(
    ("timesteps", "keywords", "message"),
    [
        ([], {}, "must fall"),
        ([0, 1], {}, "must fall"),
        ([3, 3], {}, "must fall"),
        ([10, 0], {}, "from 9 at most"),
        ([1, -1], {}, "to 0 at least"),
        ([9], {"sampler": "euler"}, "'euler'.*ddpm, ddim"),
        ([9], {"reverse_variance": "learned"}, "'learned'.*posterior, beta"),
        ([9], {"eta": 1.5}, "eta = 1.5"),
        ([9], {"eta": float("nan")}, "eta = nan"),
    ],
)
def test_chain_refuses_what_it_cannot_follow(timesteps: list[int], keywords: dict, message: str) -> None:
    process = GaussianProcess(named_betas("cosine", 10))
    with pytest.raises(ValueError, match=message):
        chain_coefficients(process, timesteps, **keywords)
