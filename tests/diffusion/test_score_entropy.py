"""The process against Bayes' rule and against the definition of its loss, by brute force over few states."""

from __future__ import annotations

import itertools

import pytest
import torch
from score_entropy import score_entropy
from torch import Tensor

from recbole_diffusion.diffusion.noise import HashedNoise
from recbole_diffusion.diffusion.schedules import betas_of
from recbole_diffusion.diffusion.score_entropy import ScoreEntropyProcess

STATES = 5
PRIORS = {
    "pair": [0.0, 0.25, 0.25, 0.25, 0.25],
    "point": [1.0, 0.0, 0.0, 0.0, 0.0],
    "hybrid": [0.1, 0.225, 0.225, 0.225, 0.225],
    "any": [0.0, 0.4, 0.3, 0.2, 0.1],
}
BETAS = torch.tensor([0.1, 0.3, 0.5, 0.8], dtype=torch.float64)
# What is known of x_0; state 0 is no item.
BELIEF = torch.tensor([0.0, 0.5, 0.1, 0.3, 0.1], dtype=torch.float64)
EVERY = torch.arange(STATES)


def prior_of(name: str) -> Tensor:
    return torch.tensor(PRIORS[name], dtype=torch.float64)


def walked(name: str, first: int, last: int) -> Tensor:
    """Transitions [K, K] over the steps from `first` to before `last`, step by step: row before, column after."""
    made = torch.eye(STATES, dtype=torch.float64)
    for step in range(first, last):
        stays = (1 - BETAS[step]) * torch.eye(STATES, dtype=torch.float64)
        made = made @ (stays + BETAS[step] * prior_of(name).expand(STATES, STATES))
    return made


def exact_s(name: str, timestep: int) -> Tensor:
    """log p_t(y) / p_t(x_t), row x_t, column y; finite where there is no probability."""
    p_t = (BELIEF @ walked(name, 0, timestep + 1)).log().clamp(min=-1e4)
    return p_t - p_t[:, None]


def reached(name: str, timestep: int) -> list[int]:
    return torch.nonzero(BELIEF @ walked(name, 0, timestep + 1)).flatten().tolist()


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize(("t", "s"), list(itertools.combinations(range(3, -1, -1), 2)))
def test_with_exact_ratios_the_weights_are_bayes_rule(name: str, t: int, s: int) -> None:
    process = ScoreEntropyProcess(BETAS)
    gap = float(process.sigma[t] - process.sigma[s])
    weights = process.weights(exact_s(name, t), EVERY, gap, prior_of(name))
    earlier, between = BELIEF @ walked(name, 0, s + 1), walked(name, s + 1, t + 1)
    for x_t in reached(name, t):
        expected = earlier * between[:, x_t]
        torch.testing.assert_close(weights[x_t] / weights[x_t].sum(), expected / expected.sum(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("t", range(4))
def test_with_exact_ratios_x_0_is_by_bayes_rule(name: str, t: int) -> None:
    log_p = ScoreEntropyProcess(BETAS).log_x_0(exact_s(name, t), EVERY, t, prior_of(name))
    through = walked(name, 0, t + 1)
    for x_t in reached(name, t):
        expected = BELIEF * through[:, x_t]
        torch.testing.assert_close(log_p[x_t].exp(), expected / expected.sum(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", PRIORS)
def test_the_loss_is_the_definition(name: str) -> None:
    """Sums over y written out, for every x_0, x_t and step."""
    process, prior = ScoreEntropyProcess(BETAS), prior_of(name)
    torch.manual_seed(0)
    for t, x_0 in itertools.product(range(4), range(1, STATES)):
        q = walked(name, 0, t + 1)[x_0]
        for x_t in torch.nonzero(q).flatten().tolist():
            s = torch.randn(STATES, dtype=torch.float64)
            s[0] = -1e4 if prior[0] == 0 else s[0]
            s[x_t] = 0.0
            expected = 0.0
            for y in range(STATES):
                if y != x_t:
                    r = q[y] / q[x_t]
                    expected += s[y].exp() - r * s[y] + (r * (r.log() - 1) if r > 0 else 0.0)
            arguments = (torch.tensor([x_0]), torch.tensor([x_t]), torch.tensor([t]), prior)
            got = score_entropy(process, s[None], *arguments)
            torch.testing.assert_close(got, (process.rate[t] * prior[x_t] * expected)[None], rtol=1e-10, atol=1e-10)
            torch.testing.assert_close(process.probability(*arguments[1::-1], *arguments[2:]), q[x_t][None])
            # Exact ratios cost nothing.
            exact = (q / q[x_t]).log().clamp(min=-1e4)
            assert score_entropy(process, exact[None], *arguments).item() == pytest.approx(0.0, abs=1e-10)


@pytest.mark.parametrize("name", PRIORS)
def test_the_expected_loss_is_least_at_the_exact_ratios(name: str) -> None:
    process, prior = ScoreEntropyProcess(BETAS), prior_of(name)
    for t in range(4):
        s = exact_s(name, t).requires_grad_()
        total = torch.zeros((), dtype=torch.float64)
        for x_0 in range(1, STATES):
            chance = BELIEF[x_0] * walked(name, 0, t + 1)[x_0]
            rows = torch.nonzero(chance).flatten()
            fixed = torch.full_like(rows, x_0), rows, torch.full_like(rows, t)
            total = total + (chance[rows] * score_entropy(process, s[rows], *fixed, prior)).sum()
        (gradient,) = torch.autograd.grad(total, s)
        torch.testing.assert_close(gradient.fill_diagonal_(0.0), torch.zeros_like(gradient), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", PRIORS)
def test_the_integral_of_the_loss_is_the_entropy_of_x_0(name: str) -> None:
    """With exact ratios the bound is tight: its mean over x_0 is -Σ p log p, but for σ below 0.001 and above 10."""
    steps, prior = 1001, prior_of(name)
    process = ScoreEntropyProcess(betas_of("geometric", steps))
    total = torch.zeros(steps, dtype=torch.float64)
    every = torch.arange(steps)
    abar = process.abar[:, None]
    log_p = (abar * BELIEF + (1 - abar) * prior).log().clamp(min=-1e4)
    for x_0, x_t in itertools.product(range(1, STATES), range(STATES)):
        fixed = torch.full_like(every, x_0), torch.full_like(every, x_t), every
        chance = process.probability(fixed[1], fixed[0], every, prior)
        possible = chance > 0
        if possible.any():
            loss = score_entropy(process, log_p - log_p[:, x_t, None], *fixed, prior)
            total[possible] += (BELIEF[x_0] * chance * loss)[possible]
    integral = torch.trapezoid(total, dx=1 / (steps - 1))
    known = BELIEF[1:]
    assert integral.item() == pytest.approx(-(known * known.log()).sum().item(), abs=0.01)


def test_sigma_and_its_rate_are_those_of_the_geometric_schedule() -> None:
    process = ScoreEntropyProcess(betas_of("geometric", 21))
    t = torch.linspace(1e-3, 1, 21, dtype=torch.float64)
    sigma = 1e-3 ** (1 - t) * 10**t
    torch.testing.assert_close(process.sigma, sigma, rtol=1e-10, atol=0)
    # The times begin at 0.001, and count as 0 to 1.
    rate = sigma * torch.log(torch.tensor(1e4, dtype=torch.float64))
    torch.testing.assert_close(process.rate, rate, rtol=2e-3, atol=0)


@pytest.mark.parametrize("name", PRIORS)
def test_weights_of_contradictory_ratios_are_positive(name: str) -> None:
    torch.manual_seed(0)
    s = 5 * torch.randn(STATES, STATES).fill_diagonal_(0.0)
    process, prior = ScoreEntropyProcess(BETAS), prior_of(name).float()
    for gap in (1e-3, 1.0, 10.0):
        weights = process.weights(s, EVERY, gap, prior)
        assert weights.isfinite().all() and (weights >= 0).all() and (weights.sum(dim=1) > 0).all()


@pytest.mark.parametrize("name", ["pair", "point", "hybrid"])
def test_far_apart_ratios_keep_the_order_of_all_items(name: str) -> None:
    torch.manual_seed(0)
    process, prior = ScoreEntropyProcess(BETAS), prior_of(name).float()
    s = 40 * torch.randn(STATES, STATES).fill_diagonal_(0.0)
    log_p = process.log_x_0(s, EVERY, 3, prior)
    assert log_p.isfinite().all()
    for x_t in range(STATES):
        others = EVERY[(x_t != EVERY) & (EVERY > 0)]
        assert torch.equal(log_p[x_t, others].argsort(), s[x_t, others].argsort())


def test_a_state_of_no_prior_stays_the_first_however_large_the_ratios_of_others() -> None:
    process, prior = ScoreEntropyProcess(BETAS), prior_of("point").float()
    s = torch.tensor([[0.0, 0.0, -5.0, 300.0, 200.0]])
    log_p = process.log_x_0(s, torch.tensor([1]), 3, prior)
    assert log_p[0].argsort(descending=True).tolist()[:4] == [1, 3, 4, 0]
    assert log_p.isfinite().all()


def test_a_state_that_is_hardly_ever_drawn_came_from_itself() -> None:
    """Bayes' rule for x_t of a prior probability of 1e-12, which 1e-9 must not stand for."""
    process, gap = ScoreEntropyProcess(BETAS), 1e-3
    prior = torch.tensor([0.0, 1e-12, 0.5, 0.3, 0.2], dtype=torch.float64)
    p_t = torch.tensor([0.0, 1e-9, 0.5, 0.3, 0.2], dtype=torch.float64)
    shrunk = torch.tensor(-gap, dtype=torch.float64).exp()
    earlier = (p_t - (1 - shrunk) * prior) / shrunk
    expected = earlier * (shrunk * torch.nn.functional.one_hot(torch.tensor(1), STATES) + (1 - shrunk) * prior[1])
    s = p_t.log().clamp(min=-1e4) - p_t[1].log()
    weights = process.weights(s[None], torch.tensor([1]), gap, prior)[0]
    torch.testing.assert_close(weights / weights.sum(), expected / expected.sum(), rtol=1e-6, atol=1e-12)


def test_a_step_is_repeatable_and_needs_the_prior() -> None:
    process, prior = ScoreEntropyProcess(BETAS), prior_of("any")
    noise = HashedNoise(1).source(HashedNoise.history_keys(torch.arange(1, 6)[:, None]))
    first, again = (process.step(exact_s("any", 3), EVERY, 3, 1, noise, prior) for _ in range(2))
    assert torch.equal(first, again) and first.dtype == torch.int64
    with pytest.raises(ValueError, match="a process without a prior of its own needs one, as 'end'"):
        process.start((5,), noise)
    with pytest.raises(ValueError, match="diffusion_steps must be at least 2, got 1"):
        ScoreEntropyProcess(BETAS[:1])
