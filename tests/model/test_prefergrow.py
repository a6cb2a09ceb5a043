from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from score_entropy import score_entropy
from stand_in import Catalogue, batch, settings

from recbole_diffusion.diffusion.noise import FreshNoise, GivenNoise, Noise
from recbole_diffusion.errors import SettingError
from recbole_diffusion.model.base import TrainingStep
from recbole_diffusion.model.prefergrow import PRIORS, PreferGrow

ONE = torch.ones(1)
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}


def make(n_items: int = 40, **changes: Any) -> PreferGrow:
    torch.manual_seed(0)
    small = {"n_layers": 1, "diffusion_steps": 21, "noise_schedule": "geometric", "inference_steps": 21}
    values = {"initializer_range": 0.5, **small, **NO_DROPOUT, **changes}
    return PreferGrow(settings("PreferGrow", "DiscreteRecommender", **values), Catalogue(n_items))


def s_of(model: PreferGrow, x_t: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    return model.ratios(model.denoise(x_t, timestep, condition, Noise()), x_t)


def random_batch(rows: int = 12, longest: int = 9) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    length = torch.randint(1, longest + 1, (rows,), generator=generator)
    histories = [torch.randint(1, 40, (int(n),), generator=generator).tolist() for n in length]
    return batch(histories, torch.randint(1, 40, (rows,), generator=generator).tolist(), width=50)


@pytest.mark.parametrize(
    "changes", [*({"prior": prior} for prior in PRIORS), {"inference_steps": 3}, {"diffusion": False}]
)
@torch.no_grad()
def test_scores_do_not_depend_on_the_batch(changes: dict[str, Any]) -> None:
    model = make(**changes).eval()
    interaction = random_batch()
    together = model.full_sort_predict(interaction)
    assert together[:, 1:].isfinite().all() and (together[:, 0] == -torch.inf).all()
    torch.testing.assert_close(together.exp().sum(dim=1), torch.ones(12))
    alone = [model.full_sort_predict({key: value[[row]] for key, value in interaction.items()}) for row in range(12)]
    torch.testing.assert_close(torch.cat(alone)[:, 1:], together[:, 1:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("prior", PRIORS)
@torch.no_grad()
def test_scores_depend_on_the_seed_and_repeat(prior: str) -> None:
    interaction = random_batch()
    scores = [make(prior=prior, seed=seed).eval().full_sort_predict(interaction) for seed in (1, 1, 2)]
    assert torch.equal(scores[0], scores[1])
    assert not torch.allclose(scores[0][:, 1:], scores[2][:, 1:], atol=1e-3)


@pytest.mark.parametrize("prior", PRIORS)
def test_the_process_is_that_of_the_prior(prior: str) -> None:
    p = make(prior=prior, hybrid_share=0.9).prior()
    disliked = {"point": 1.0, "hybrid": 0.1}.get(prior, 0.0)
    expected = torch.tensor([disliked] + [(1 - disliked) / 39] * 39)
    torch.testing.assert_close(p, expected)


@pytest.mark.parametrize("prior", PRIORS)
def test_the_network_is_the_formula(prior: str) -> None:
    """s = (W [E[x_t]; h; σ] + b) Eᵀ, 0 at x_t; what cannot be is far below."""
    model = make(prior=prior).eval()
    x_t, condition = torch.tensor([3, 0 if prior in ("point", "hybrid") else 7]), torch.randn(2, 16)
    timestep = torch.tensor([4, 20])
    s = s_of(model, x_t, timestep, condition)
    table = model.item_embedding.weight
    sigma = 1e-3 * 1e4 ** torch.linspace(1e-3, 1, 21)[timestep]
    angles = sigma[:, None] * 10000 ** (-torch.arange(128) / 128)
    step = model.sigma_mlp(torch.cat([angles.cos(), angles.sin()], dim=1))
    weight, bias = model.mix.weight, model.mix.bias
    expected = torch.cat([table[x_t], condition, step], dim=1) @ weight.T + bias
    expected = expected @ table.T
    expected[[0, 1], x_t] = 0.0
    first = 0 if prior in ("point", "hybrid") else 1
    torch.testing.assert_close(s[:, first:], expected[:, first:])
    assert first == 0 or (s[:, 0] < -1e3).all()


@pytest.mark.parametrize("prior", PRIORS)
def test_every_prior_trains(prior: str) -> None:
    model = make(prior=prior)
    loss = model.calculate_loss(random_batch())
    assert loss.isfinite()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
    assert prior != "adaptive" or gradients["prior_logits"].any()


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("prior", PRIORS)
def test_the_loss_is_that_of_the_process(prior: str, similarity: str) -> None:
    """The model sums over s in pieces, the other form over s as a whole."""
    model = make(prior=prior, hybrid_share=0.9, similarity=similarity).double()
    other = 0 if prior in ("point", "hybrid") else 39
    x_0, x_t = torch.tensor([3, 7, 7, 12]), torch.tensor([3, other, 7, other])
    timestep = torch.tensor([0, 20, 11, 4])
    output = torch.randn(4, 16, dtype=torch.float64, requires_grad=True)
    step = TrainingStep(None, None, x_0, timestep, ONE, x_0, x_t, x_t, None, output, output, Noise(), None)
    rows = model.losses(step).rows
    expected = score_entropy(model.process, model.ratios(output, x_t), x_0, x_t, timestep, model.prior())
    torch.testing.assert_close(rows, expected)
    counts = model.prior()[x_t] > 0
    assert counts.any() and (rows[counts] > 0).all()
    leaves = [output, model.item_embedding.weight]
    torch.testing.assert_close(
        *(torch.autograd.grad(losses.sum(), leaves, retain_graph=True) for losses in (rows, expected))
    )


def test_rows_whose_state_is_not_of_the_prior_count_for_nothing() -> None:
    """However large their scores: exp of these is infinite."""
    model = make(prior="point")
    x_0, timestep = torch.tensor([3, 7]), torch.tensor([1, 20])
    output = (1e4 * torch.randn(2, 16)).requires_grad_()
    step = TrainingStep(None, None, x_0, timestep, ONE, x_0, x_0, x_0, None, output, output, Noise(), None)
    rows = model.losses(step).rows
    gradients = torch.autograd.grad(rows.sum(), [output, model.item_embedding.weight])
    assert not rows.any() and not any(gradient.any() for gradient in gradients)


def test_under_autocast_the_loss_is_computed_in_full_precision() -> None:
    model = make()
    x_0, x_t, timestep = torch.tensor([3, 7]), torch.tensor([5, 7]), torch.tensor([11, 20])
    output = torch.randn(2, 16)
    step = TrainingStep(None, None, x_0, timestep, ONE, x_0, x_t, x_t, None, output, output, Noise(), None)
    expected = model.losses(step).rows
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model.losses(step).rows, expected)


def test_the_prior_gets_the_gradient_of_the_whole_expected_loss() -> None:
    """The mean over x_t of the gradients of the rows is the gradient of the mean, enumerated."""
    model = make(n_items=6, prior="adaptive").double()
    with torch.no_grad():
        model.prior_logits.copy_(torch.randn(5))
    condition, timestep = torch.randn(1, 16).double(), torch.tensor([11])
    target, states = torch.full((5,), 2), torch.arange(1, 6)
    shared = timestep.expand(5)
    prior = model.prior()
    output = model.denoise(states, shared, condition.expand(5, -1), Noise()).detach()
    s = model.ratios(output, states).detach()
    chance = model.process.probability(states, target, shared, prior)
    torch.testing.assert_close(chance.sum(), torch.ones((), dtype=torch.float64))
    mean = (chance * score_entropy(model.process, s, target, states, shared, prior)).sum()
    (expected,) = torch.autograd.grad(mean, model.prior_logits)
    step = TrainingStep(
        None, None, target, shared, ONE, target, states, states, condition, *[output] * 2, Noise(), None
    )
    rows = model.losses(step).rows
    (got,) = torch.autograd.grad((chance.detach() * rows).sum(), model.prior_logits)
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    assert expected.abs().max() > 1e-3


def test_guidance_is_of_s_and_none_of_no_weight() -> None:
    interaction = random_batch()
    model = make(guidance_scale=1.5, inference_steps=1).double().eval()
    history = model.history(interaction)
    with torch.no_grad():
        condition, noise = model.encode(history, Noise()), model.inference_noise(history)
        chain = model.sample(history, noise)
        x_T, timestep = chain.start, torch.full((12,), 20)
        with_history = s_of(model, x_T, timestep, condition)
        without = s_of(model, x_T, timestep, model.no_history.expand(12, -1))
        s = 2.5 * with_history - 1.5 * without
        log_p = model.process.log_x_0(s, x_T, 20, model.prior())
        torch.testing.assert_close(chain.x_0[:, 1:], log_p[:, 1:].log_softmax(dim=1))


def test_switched_off_it_is_classification(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(diffusion=False, guidance_drop=0.0, guidance_scale=0.0)
    monkeypatch.setattr(model.sigma_mlp, "forward", None)
    interaction = random_batch()
    # Not a random number is taken.
    loss = model.calculate_loss(interaction, Noise())
    d, history = 16, model.history(interaction)
    read = model.encode(history, Noise()) @ model.mix.weight[:, d : 2 * d].T + model.mix.bias
    logits = (read @ model.item_embedding.weight.T)[:, 1:]
    torch.testing.assert_close(loss, F.cross_entropy(logits, interaction["item_id"] - 1))
    with torch.no_grad():
        scores = model.eval().full_sort_predict(interaction, Noise())
    torch.testing.assert_close(scores[:, 1:], logits.log_softmax(dim=1))
    assert [step.timestep for step in model.sample(history, Noise()).steps] == [0]


def test_a_row_without_its_history_reads_the_trained_vector() -> None:
    model = make(guidance_drop=1.0)
    model.calculate_loss(random_batch()).backward()
    assert model.no_history.grad.any()
    assert not model.encoder.blocks[0].attention.value.weight.grad.any()


@torch.no_grad()
def test_a_chain_walks_ids_to_probabilities_of_items() -> None:
    model = make(prior="hybrid").eval()
    history = model.history(random_batch())
    chain = model.sample(history, model.inference_noise(history))
    assert [step.timestep for step in chain.steps] == list(range(20, -1, -1))
    torch.testing.assert_close(chain.x_0.exp().sum(dim=1), torch.ones(12))
    assert all(step.x.dtype == torch.int64 for step in chain.steps[:-1])
    assert model.points(chain.steps[3].x).shape == model.points(chain.x_0).shape == (12, 16)


def test_training_takes_its_numbers_by_name() -> None:
    model = make()
    interaction = random_batch()
    numbers = {"timestep": torch.arange(12), "x_t": torch.rand(12, 2), "guidance_drop": torch.rand(12, 1)}
    losses = [model.calculate_loss(interaction, GivenNoise(numbers)) for _ in range(2)]
    assert torch.equal(*losses)
    assert not torch.equal(losses[0], model.calculate_loss(interaction, FreshNoise("cpu")))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"prior": "mask"}, "prior must be one of pair, point, hybrid, adaptive, got 'mask'"),
        ({"hybrid_share": 1.5}, "hybrid_share must be from 0 to 1, got 1.5"),
        ({"n_heads": 3}, "hidden_size must be a multiple of n_heads=3, got 16"),
        ({"diffusion_steps": 1, "inference_steps": 1}, "diffusion_steps must be at least 2, got 1"),
        ({"loss_type": "BPR"}, "loss_type must be CE, got 'BPR'"),
    ],
)
def test_impossible_settings_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingError) as error:
        make(**changes)
    assert str(error.value) == named
