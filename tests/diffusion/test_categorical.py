from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats
from torch import Tensor

from recbole_diffusion.diffusion.categorical import CategoricalProcess
from recbole_diffusion.diffusion.noise import FreshNoise, GivenNoise, HashedNoise
from recbole_diffusion.diffusion.score_entropy import ScoreEntropyProcess

PRIORS = {
    "mask": [1.0, 0.0, 0.0, 0.0],
    "uniform": [0.0, 1 / 3, 1 / 3, 1 / 3],
    "any": [0.1, 0.2, 0.3, 0.4],
}
BETAS = torch.tensor([0.1, 0.3, 0.5, 0.8]).double()


def process(prior: str) -> CategoricalProcess:
    return CategoricalProcess(BETAS, torch.tensor(PRIORS[prior], dtype=torch.float64))


def transition(prior: str, step: int) -> Tensor:
    """Q [K, K] of one step: row x_{t-1}, column x_t."""
    p = torch.tensor(PRIORS[prior], dtype=torch.float64)
    return (1 - BETAS[step]) * torch.eye(4).double() + BETAS[step] * p.expand(4, 4)


def marginal(prior: str, step: int) -> Tensor:
    """q(x_t | x_0) [K, K], walked step by step; the identity before the first step."""
    walked = torch.eye(4).double()
    for t in range(step + 1):
        walked = walked @ transition(prior, t)
    return walked


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize(("t", "s"), list(itertools.combinations(range(3, -1, -1), 2)))
def test_the_posterior_is_bayes_rule(prior: str, t: int, s: int) -> None:
    torch.manual_seed(0)
    belief = torch.rand(4).double()
    belief = belief / belief.sum()
    between = torch.eye(4).double()
    for step in range(s + 1, t + 1):
        between = between @ transition(prior, step)
    for x_t in range(4):
        expected = torch.zeros(4).double()
        for x_0 in range(4):
            joint = marginal(prior, s)[x_0] * between[:, x_t]
            if joint.sum() > 0:
                expected += belief[x_0] * joint / joint.sum()
        got = process(prior).posterior(belief[None], torch.tensor([x_t]), t, s)[0]
        torch.testing.assert_close(got / got.sum(), expected / expected.sum(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("prior", PRIORS)
def test_the_forward_process_has_its_marginals(prior: str) -> None:
    torch.manual_seed(0)
    rows, x_0 = 20_000, torch.full((20_000,), 2)
    for t in range(4):
        noise = process(prior).noise_like(x_0, FreshNoise("cpu"))
        x_t = process(prior).sample(x_0, torch.full((rows,), t), noise)
        counts, expected = torch.bincount(x_t, minlength=4).numpy(), rows * marginal(prior, t)[2].numpy()
        assert not counts[expected == 0].any()
        possible = expected > 0
        assert stats.chisquare(counts[possible], expected[possible]).pvalue > 1e-3


def test_a_chain_ends_in_the_log_probabilities_and_is_repeatable() -> None:
    log_p = torch.randn(5, 4).log_softmax(dim=-1)
    x_T = process("any").start((5,), GivenNoise({"x_T": torch.rand(5, 1)}))
    assert x_T.dtype == torch.int64 and x_T.shape == (5,)
    keys = HashedNoise.history_keys(torch.arange(1, 6)[:, None])
    noise = HashedNoise(1).source(keys)
    first, again = (process("any").step(log_p, x_T, 3, 1, noise) for _ in range(2))
    assert torch.equal(first, again) and first.dtype == torch.int64
    assert process("any").step(log_p, x_T, 0, None, noise) is log_p
    assert process("any").chain(2) == [3, 0]


def test_an_id_that_is_never_drawn_anew_stays_however_unlikely_the_network_finds_it() -> None:
    process = CategoricalProcess(torch.full((16,), 0.2), torch.tensor([1.0, 0.0, 0.0, 0.0, 0.0]))
    noise, x_t = HashedNoise(0).source(torch.arange(2)), torch.tensor([2, 3])
    x0_hat = torch.tensor([[-300.0, 0.0, -300.0, -300.0, -300.0]]).expand(2, 5)
    assert torch.equal(process.step(x0_hat, x_t, 10, 5, noise), x_t)
    ratios = ScoreEntropyProcess(torch.full((16,), 0.2))
    assert torch.equal(ratios.step(x0_hat, x_t, 10, 5, noise, end=process.prior), x_t)


def test_every_place_may_have_a_timestep_of_its_own() -> None:
    x_0, timestep = torch.randint(1, 4, (3, 5)), torch.randint(0, 4, (3, 5))
    noise = torch.rand(3, 5, 2)
    columns = [process("any").sample(x_0[:, i], timestep[:, i], noise[:, i]) for i in range(5)]
    assert torch.equal(process("any").sample(x_0, timestep, noise), torch.stack(columns, dim=1))
