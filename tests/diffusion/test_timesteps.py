from __future__ import annotations

import math
from collections import deque
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from recbole_diffusion.diffusion.noise import FreshNoise, GivenNoise, Noise
from recbole_diffusion.diffusion.timesteps import (
    STEP_SAMPLERS,
    FlowSteps,
    LossAwareSampler,
    OneStep,
    SharedSteps,
    StepSampler,
    UniformSampler,
    make_step_sampler,
)

SKEWED = torch.tensor([8.0, 3.0, 1.0, 0.5, 0.2, 0.1, 0.1, 0.05])


def warmed_up(losses: torch.Tensor = SKEWED) -> LossAwareSampler:
    """A sampler that saw ten times each step's loss."""
    sampler = LossAwareSampler(len(losses))
    timestep = torch.arange(len(losses)).repeat(10)
    sampler.update(timestep, losses[timestep])
    return sampler


@st.composite
def batches(draw: st.DrawFn) -> tuple[int, list[list[tuple[int, float]]]]:
    steps = draw(st.integers(1, 4))
    row = st.tuples(st.integers(0, steps - 1), st.floats(0.015625, 100, width=32))
    return steps, draw(st.lists(st.lists(row, min_size=1, max_size=50), max_size=6))


@settings(deadline=None)
@given(batches())
def test_loss_aware_keeps_the_last_ten_losses_of_each_step(drawn) -> None:
    steps, rows_of_batches = drawn
    sampler = LossAwareSampler(steps)
    expected = [deque(maxlen=10) for _ in range(steps)]
    for rows in rows_of_batches:
        for t, loss in rows:
            expected[t].append(loss)
        timestep, loss = zip(*rows, strict=True)
        sampler.update(torch.tensor(timestep), torch.tensor(loss))

    for t, kept in enumerate(expected):
        seen = sampler.seen[t].item()
        assert sampler.history[t][[n % 10 for n in range(seen - len(kept), seen)]].tolist() == list(kept)

    probabilities = torch.full((steps,), 1 / steps)
    if all(len(kept) == 10 for kept in expected):
        size = torch.tensor([(sum(loss**2 for loss in kept) / 10) ** 0.5 for kept in expected])
        probabilities = 0.999 * size / size.sum() + 0.001 / steps
    torch.testing.assert_close(sampler.probabilities(), probabilities)


def test_loss_aware_is_uniform_until_every_step_has_ten_losses() -> None:
    sampler = LossAwareSampler(2)
    sampler.update(torch.tensor([0] * 30 + [1] * 9), torch.tensor([5.0] * 30 + [1.0] * 9))
    assert sampler.probabilities().tolist() == [0.5, 0.5]
    sampler.update(torch.tensor([1]), torch.tensor([1.0]))
    torch.testing.assert_close(sampler.probabilities(), 0.999 * torch.tensor([5 / 6, 1 / 6]) + 0.0005)


def test_loss_aware_is_uniform_where_every_loss_is_0() -> None:
    torch.testing.assert_close(warmed_up(torch.zeros(4)).probabilities(), torch.full((4,), 0.25))


class MetaNoise(Noise):
    """Has shapes and no values."""

    def choice(self, name: str, probabilities: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.multinomial(probabilities, shape[0], replacement=True)


def test_loss_aware_never_reads_a_value_back() -> None:
    # Tensors on the meta device have no values: whatever would wait for a GPU fails on them.
    sampler = LossAwareSampler(8).to("meta")
    timestep, weight = sampler.sample((32,), MetaNoise())
    sampler.update(timestep, weight)
    assert sampler.probabilities().shape == (8,)


def test_loss_aware_keeps_no_graph() -> None:
    sampler = LossAwareSampler(2)
    loss = torch.ones(3, requires_grad=True)
    sampler.update(torch.tensor([0, 1, 1]), loss * 2)
    assert not sampler.history.requires_grad and sampler.history[1, :2].tolist() == [2, 2]


def test_history_travels_in_the_state_dict() -> None:
    source, target = warmed_up(), LossAwareSampler(len(SKEWED))
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.probabilities(), source.probabilities())
    for sampler in (source, target):
        sampler.update(torch.tensor([0, 3, 3]), torch.tensor([0.0, 9.0, 7.0]))
    assert torch.equal(target.probabilities(), source.probabilities())


def test_fixstep_draws_early_steps_twice_as_often() -> None:
    torch.testing.assert_close(
        make_step_sampler("fixstep", 5).probabilities(), torch.tensor([1, 1, 0.5, 0.5, 0.5]) / 3.5
    )


@pytest.mark.parametrize("name", ["uniform", "fixstep"])
def test_fixed_samplers_learn_nothing_and_save_nothing(name: str) -> None:
    sampler = make_step_sampler(name, 3)
    before = sampler.probabilities().clone()
    sampler.update(torch.arange(3).repeat(10), torch.arange(30.0))
    assert torch.equal(sampler.probabilities(), before) and not sampler.state_dict()


@pytest.fixture(params=STEP_SAMPLERS)
def sampler(request) -> StepSampler:
    return warmed_up() if request.param == "lossaware" else make_step_sampler(request.param, len(SKEWED))


def test_weighted_loss_has_the_mean_of_uniform_steps(sampler: StepSampler) -> None:
    p = sampler.probabilities().double()
    assert p.sum().item() == pytest.approx(1, abs=1e-6)
    weight = torch.zeros(len(p))
    for timestep, w in zip(*sampler.sample((5000,), FreshNoise("cpu")), strict=True):
        weight[timestep] = w
    torch.testing.assert_close((p * weight * SKEWED).sum().item(), SKEWED.mean().item(), rtol=1e-6, atol=0)


def test_loss_aware_lowers_the_variance_on_a_skewed_loss() -> None:
    p = warmed_up().probabilities().double()
    loss = SKEWED.double()
    mean = loss.mean()
    weighted = (p * (loss / (len(p) * p) - mean) ** 2).sum()
    uniform = (loss - mean).square().mean()
    # With p proportional to the loss itself nothing but the uniform part is left of the variance.
    assert weighted < 0.01 * uniform


def test_draws_follow_p_and_carry_their_weight(sampler: StepSampler) -> None:
    timestep, weight = sampler.sample((50_000,), FreshNoise("cpu"))
    assert timestep.dtype == torch.int64 and timestep.shape == weight.shape == (50_000,)
    p = sampler.probabilities()
    torch.testing.assert_close(weight, 1 / (len(SKEWED) * p[timestep]))
    counts = torch.bincount(timestep, minlength=len(SKEWED)).numpy()
    expected = p.double().numpy()
    assert stats.chisquare(counts, 50_000 * expected / expected.sum()).pvalue > 1e-3


def test_uniform_weights_are_1() -> None:
    assert torch.equal(make_step_sampler("uniform", 32).sample((100,), FreshNoise("cpu"))[1], torch.ones(100))


def test_timesteps_can_be_handed_in_and_carry_the_same_weight(sampler: StepSampler) -> None:
    timestep = torch.arange(len(SKEWED))
    given, weight = sampler.sample((len(SKEWED),), GivenNoise({"timestep": timestep}))
    assert torch.equal(given, timestep)
    torch.testing.assert_close(weight, 1 / (len(SKEWED) * sampler.probabilities()))


def test_fresh_timesteps_are_those_of_torch() -> None:
    sampler = make_step_sampler("uniform", 1000)
    torch.manual_seed(3)
    drawn = sampler.sample((50,), FreshNoise("cpu"))[0]
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.multinomial(torch.full((1000,), 0.001), 50, replacement=True))


def test_every_place_has_a_timestep_and_only_real_places_are_learnt_from() -> None:
    sampler = LossAwareSampler(2, history_size=1)
    timestep, weight = sampler.sample((3, 4), FreshNoise("cpu"))
    assert timestep.shape == weight.shape == (3, 4)
    mask = torch.tensor([[True, False], [True, False]])
    sampler.update(torch.tensor([[0, 0], [1, 1]]), torch.tensor([[3.0, 99.0], [1.0, 99.0]]), mask)
    torch.testing.assert_close(sampler.probabilities(), 0.999 * torch.tensor([0.75, 0.25]) + 0.0005)


def test_the_only_step_of_a_process_that_does_nothing() -> None:
    timestep, weight = OneStep().sample((2, 3), GivenNoise({}))
    assert not timestep.any() and timestep.dtype == torch.int64 and torch.equal(weight, torch.ones(2, 3))


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ValueError, match=r"uniform, lossaware, fixstep, got 'loss'"):
        make_step_sampler("loss", 32)


@pytest.mark.parametrize("name", STEP_SAMPLERS)
def test_at_least_one_step(name: str) -> None:
    assert make_step_sampler(name, 1).sample((3,), FreshNoise("cpu"))[0].tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="diffusion_steps must be at least 1, got 0"):
        make_step_sampler(name, 0)


def test_a_loss_that_is_not_finite_leaves_probabilities() -> None:
    sampler = make_step_sampler("lossaware", 2)
    for loss in (1.0, float("nan"), float("inf")):
        sampler.update(torch.tensor([0, 1] * 10), torch.full((20,), loss))
        p = sampler.probabilities()
        assert p.isfinite().all() and p.sum().item() == pytest.approx(1.0)


def test_shared_steps_are_one_a_row() -> None:
    sampler = SharedSteps(UniformSampler(7))
    timestep, weight = sampler.sample((40, 5), FreshNoise("cpu"))
    assert timestep.shape == weight.shape == (40, 5)
    assert torch.equal(timestep, timestep[:, :1].expand(40, 5)) and len(timestep.unique()) > 1
    assert torch.equal(weight, torch.ones(40, 5))
    aware = SharedSteps(LossAwareSampler(3))
    timestep, _ = aware.sample((8, 2), FreshNoise("cpu"))
    aware.update(timestep, torch.rand(8, 2))
    assert int(aware.sampler.seen.sum()) == 16 and "sampler.seen" in aware.state_dict()


@pytest.mark.parametrize(
    ("name", "settings", "distribution"),
    [
        ("uniform", {}, lambda t: t),
        ("cosmap", {}, lambda t: torch.atan(t / (1 - t)) * 2 / math.pi),
        (
            "logit_normal",
            {"logit_mean": 1.0, "logit_std": 0.6},
            lambda t: torch.special.ndtr((torch.logit(t) - 1) / 0.6),
        ),
        # With s = 0 the same as uniform, turned round.
        ("mode", {"mode_scale": 0.0}, lambda t: t),
    ],
)
def test_times_of_a_flow_have_their_distribution(name: str, settings: Any, distribution: Any) -> None:
    torch.manual_seed(0)
    times, weight = FlowSteps(name, eps=0.001, **settings).sample((20_000,), FreshNoise("cpu"))
    assert torch.equal(weight, torch.ones(20_000))
    assert times.min() >= 0.001 and times.max() <= 1
    level = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])
    share = ((times[:, None] - 0.001) / 0.999 <= level).float().mean(dim=0)
    torch.testing.assert_close(share, distribution(level), atol=0.015, rtol=0)


def test_mode_is_densest_in_the_middle() -> None:
    """Density of τ by the slope of its formula: 1/2 at the ends and 2 / (4 - π) = 2.33 in the middle for s = 1."""
    torch.manual_seed(0)
    times, _ = FlowSteps("mode").sample((200_000,), FreshNoise("cpu"))
    density = torch.histc(times, bins=50, min=0, max=1) / 200_000 * 50
    assert density[0].item() == pytest.approx(0.5, abs=0.07)
    assert density[24:26].mean().item() == pytest.approx(2 / (4 - math.pi), abs=0.1)


def test_an_unknown_time_sampler_is_named() -> None:
    with pytest.raises(ValueError, match="must be one of mode, uniform, logit_normal, cosmap, got 'lossaware'"):
        FlowSteps("lossaware")
