from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from golden_files import ours
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from marks import needs_gpu
from recordings import close, single_steps

from recbole_diffusion.diffusion.noise import GivenNoise
from recbole_diffusion.diffusion.process import PREDICTION_TYPES, GaussianProcess, NoProcess, posterior
from recbole_diffusion.diffusion.schedules import SCHEDULES, is_valid, named_betas, raw_betas


@pytest.fixture(params=["diffurec_reference", "diffurec_reference_T32"])
def recorded(request):
    return ours(request.param)


def test_coefficients_are_the_recorded_ones(recorded) -> None:
    process = GaussianProcess(
        named_betas(str(recorded["config/noise_schedule"]), int(recorded["config/diffusion_steps"]))
    )
    names = ("posterior_mean_coef1", "posterior_mean_coef2", "posterior_variance")
    tables = {"betas": process.betas, "alphas_cumprod": process.abar}
    for key, values in {**tables, **dict(zip(names, single_steps(process), strict=True))}.items():
        close(values, recorded[key], 1e-12)


def test_sample_gives_the_recorded_x_t(recorded) -> None:
    x_0 = torch.from_numpy(recorded["weights/item_embeddings.weight"][recorded["input/target"]])
    timestep, noise = (torch.from_numpy(recorded[f"forward/{key}"]) for key in ("t", "noise"))
    x_t = GaussianProcess(torch.from_numpy(recorded["betas"])).sample(x_0, timestep, noise)
    np.testing.assert_allclose(x_t.numpy(), recorded["forward/x_t"], rtol=0, atol=1e-6)


@settings(deadline=None)
@given(name=st.sampled_from(SCHEDULES), steps=st.integers(1, 2000))
def test_abar_falls_and_posterior_variance_is_not_negative(name: str, steps: int) -> None:
    assume(steps > 10 or name != "pw_lin")
    betas = raw_betas(name, steps)
    assume(is_valid(betas))
    process = GaussianProcess(betas)
    before = torch.cat([torch.ones(1), process.abar[:-1]])
    assert (process.abar < before).all() and (process.abar > 0).all()
    step = posterior(process.betas, process.abar, before)
    assert (step.variance >= 0).all() and step.variance[0] == 0
    assert (step.variance <= process.betas).all()
    # A perfect x0_hat is where x_t comes from: the posterior's mean must lie on the marginal's.
    mean = step.c1 + step.c2 * process.abar.sqrt()
    torch.testing.assert_close(mean, before.sqrt(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forward_marginals_by_simulation(dtype: torch.dtype) -> None:
    process = GaussianProcess(named_betas("trunc_lin", 32))
    generator = torch.Generator().manual_seed(0)
    rows, length = 20_000, 3
    for t in (0, 5, 31):
        x_0 = torch.tensor([[-1.0, 0.5], [0.0, 2.0], [3.0, 1.0]], dtype=dtype).expand(rows, length, 2)
        noise = torch.randn(x_0.shape, generator=generator, dtype=dtype)
        x_t = process.sample(x_0, torch.full((rows,), t), noise)
        assert x_t.dtype == dtype and x_t.shape == x_0.shape
        # The transitions q(x_t | x_{t-1}), one by one.
        walked = x_0.double()
        for beta in process.betas[: t + 1]:
            step = torch.randn(x_0.shape, generator=generator, dtype=torch.float64)
            walked = (1 - beta).sqrt() * walked + beta.sqrt() * step
        # Either sample has a standard error.
        error = walked.var(0).max().item() ** 0.5 * (2 / rows) ** 0.5
        torch.testing.assert_close(x_t.double().mean(0), walked.mean(0), rtol=0, atol=5 * error)
        torch.testing.assert_close(x_t.double().var(0), walked.var(0), rtol=5 * 2 / rows**0.5, atol=0)


def test_each_row_is_noised_by_its_own_step() -> None:
    process = GaussianProcess(named_betas("cosine", 10))
    timestep = torch.tensor([9, 0, 4])
    x_0, noise = torch.ones(3, 2, dtype=torch.float64), torch.full((3, 2), 0.5, dtype=torch.float64)
    expected = process.abar[timestep].sqrt() + 0.5 * (1 - process.abar[timestep]).sqrt()
    torch.testing.assert_close(process.sample(x_0, timestep, noise), expected[:, None].expand(3, 2))


@needs_gpu
def test_sample_on_the_device_of_x_0() -> None:
    process = GaussianProcess(named_betas("cosine", 10))
    x_0, noise, timestep = torch.ones(3, 2), torch.ones(3, 2), torch.tensor([9, 0, 4])
    on_gpu = process.sample(x_0.cuda(), timestep.cuda(), noise.cuda())
    torch.testing.assert_close(on_gpu.cpu(), process.sample(x_0, timestep, noise))


def test_gradient_reaches_x_0_after_a_first_call_in_inference_mode() -> None:
    process = GaussianProcess(named_betas("cosine", 10))
    timestep, noise = torch.tensor([3]), torch.zeros(1, 2)
    with torch.inference_mode():
        process.sample(torch.ones(1, 2), timestep, noise)
    x_0 = torch.ones(1, 2, requires_grad=True)
    process.sample(x_0, timestep, noise).sum().backward()
    torch.testing.assert_close(x_0.grad, process.abar[3].sqrt().float().expand(1, 2))


def test_warns_where_the_process_does_not_end_in_noise(caplog) -> None:
    with caplog.at_level(logging.WARNING, "recbole_diffusion.diffusion.process"):
        GaussianProcess(named_betas("cosine", 8))
        assert not caplog.records
        GaussianProcess(named_betas("trunc_lin", 8))
    assert len(caplog.records) == 1
    assert "0.516" in caplog.text and "\n" not in caplog.records[0].getMessage()


@pytest.mark.parametrize("betas", [[], [[0.1, 0.2]], [0.1, 0.0], [0.5, 1.0], [float("nan")]])
def test_refuses_betas_that_are_no_process(betas: list) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        GaussianProcess(torch.tensor(betas, dtype=torch.float64))


@pytest.mark.parametrize("betas", [torch.full((1200,), 0.5), torch.tensor([1e-17], dtype=torch.float64)])
def test_refuses_steps_that_float64_cannot_tell_apart(betas: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="does not fall"):
        GaussianProcess(betas)


def test_every_place_may_have_a_timestep_of_its_own() -> None:
    process = GaussianProcess(named_betas("cosine", 10))
    timestep = torch.randint(0, 10, (3, 4))
    x_0, noise = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    rows = [process.sample(x_0[:, place], timestep[:, place], noise[:, place]) for place in range(4)]
    torch.testing.assert_close(process.sample(x_0, timestep, noise), torch.stack(rows, dim=1), rtol=0, atol=0)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_x_0_comes_back_from_whatever_is_predicted(prediction_type: str) -> None:
    process = GaussianProcess(named_betas("cosine", 10))
    timestep = torch.arange(10)
    x_0, noise = torch.randn(10, 3).double(), torch.randn(10, 3).double()
    x_t = process.sample(x_0, timestep, noise)
    signal, spread = process.marginal(timestep, x_0)
    output = {"x0": x_0, "eps": noise, "v": signal * noise - spread * x_0}[prediction_type]
    torch.testing.assert_close(process.to_x_0(output, x_t, timestep, prediction_type), x_0, rtol=0, atol=1e-9)


def test_the_off_switch_draws_nothing_and_lets_nothing_through() -> None:
    nothing, silent = NoProcess(), GivenNoise({})
    x_0 = torch.randn(4, 3)
    assert not nothing.sample(x_0, torch.zeros(4), nothing.noise_like(x_0, silent)).any()
    assert not nothing.start((4, 3), silent).any() and nothing.chain(9) == [0]
    assert nothing.step(x_0, torch.ones(4, 3), 0, None, silent) is x_0
    end = torch.ones(4, 3)
    bridge = NoProcess(has_end=True)
    assert bridge.sample(x_0, torch.zeros(4), x_0, end) is end and bridge.start((4, 3), silent, end) is end
    assert NoProcess(fill=7, dtype=torch.int64).start((2,), silent).tolist() == [7, 7]


def test_the_empty_start_of_vectors_is_one_of_vectors() -> None:
    assert NoProcess().start((2, 3), GivenNoise({})).is_floating_point()
