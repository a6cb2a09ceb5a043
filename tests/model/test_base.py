from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from stand_in import Catalogue, batch, settings

from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.diffusion.process import sub_chain
from recbole_diffusion.errors import ModelError, SettingError
from recbole_diffusion.model import layers
from recbole_diffusion.model.base import DiffusionRecommender, History, Losses, TrainingStep, at_last
from recbole_diffusion.model.diffrec import DiffRec
from recbole_diffusion.model.diffurec import DiffuRec
from recbole_diffusion.model.dreamrec import DreamRec
from recbole_diffusion.model.gaussian import GaussianRecommender
from recbole_diffusion.model.preferdiff import PreferDiff

MODELS = [DiffuRec, DiffRec, DreamRec, PreferDiff]
# Those whose loss is a mean of losses of rows.
BY_ROW = [model for model in MODELS if model is not PreferDiff]
NO_DROPOUT = {
    "hidden_dropout_prob": 0.0,
    "attn_dropout_prob": 0.0,
    "embedding_dropout_prob": 0.0,
    "guidance_drop": 0.0,
}


class SameNoise(Noise):
    """One number throughout, at given timesteps."""

    def __init__(self, value: float, timestep: Any = None, dtype: torch.dtype | None = None) -> None:
        self.value, self.timestep, self.dtype = value, timestep, dtype

    def normal(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.full(shape, self.value, dtype=self.dtype)

    def choice(self, name: str, probabilities: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        return self.timestep if self.timestep is not None else torch.zeros(shape, dtype=torch.int64)


def make(cls: type[DiffusionRecommender], **changes: Any) -> DiffusionRecommender:
    torch.manual_seed(0)
    noisy = {"initializer_range": 0.5, "inference_steps": 1, **({"noise_scale": 0.3} if cls is DiffuRec else {})}
    parents = tuple(base.__name__ for base in reversed(cls.__mro__[1:]) if base in MODELS)
    return cls(settings(cls.__name__, parents=parents, **{**NO_DROPOUT, **noisy, **changes}), Catalogue(40))


def random_batch(rows: int = 30, longest: int = 9) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    length = torch.randint(1, longest + 1, (rows,), generator=generator)
    histories = [torch.randint(1, 40, (int(n),), generator=generator).tolist() for n in length]
    return batch(histories, torch.randint(1, 40, (rows,), generator=generator).tolist(), width=50)


def pick(interaction: dict[str, torch.Tensor], rows: Any) -> dict[str, torch.Tensor]:
    return {key: value[rows] for key, value in interaction.items()}


@pytest.mark.parametrize(
    ("cls", "changes"), [*((model, {}) for model in MODELS), (DiffuRec, {"attention_mask": "counted"})]
)
@pytest.mark.parametrize("steps", [1, 5, 16])
@torch.no_grad()
def test_scores_do_not_depend_on_the_batch(
    cls: type[DiffusionRecommender], changes: dict[str, Any], steps: int
) -> None:
    model = make(cls, inference_steps=steps, **changes).eval()
    interaction = random_batch()
    together = model.full_sort_predict(interaction)
    alone = torch.cat([model.full_sort_predict(pick(interaction, [row])) for row in range(30)])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)
    order = torch.randperm(30)
    torch.testing.assert_close(model.full_sort_predict(pick(interaction, order)), together[order], atol=1e-5, rtol=0)


@pytest.mark.parametrize("cls", MODELS)
@torch.no_grad()
def test_scores_depend_on_seed_and_history(cls: type[DiffusionRecommender]) -> None:
    interaction = random_batch()
    first = make(cls).eval().full_sort_predict(interaction)
    assert torch.equal(first, make(cls).eval().full_sort_predict(interaction))
    assert not torch.allclose(first, make(cls, seed=1).eval().full_sort_predict(interaction), atol=1e-4)
    model = make(cls).eval()
    alike = model.history(batch([[1, 2, 3], [1, 2, 4], [2, 1, 3], [1, 2, 3]], [1] * 4))
    x_T = model.inference_noise(alike).at(15).normal("x_T", (4, 16))
    assert torch.equal(x_T[0], x_T[3])
    assert len(x_T.unique(dim=0)) == 3


@pytest.mark.parametrize("cls", MODELS)
@torch.no_grad()
def test_ddim_with_full_noise_is_ddpm(cls: type[DiffusionRecommender]) -> None:
    interaction = random_batch()
    ddpm = make(cls, inference_steps=5, reverse_sampler="ddpm").eval().full_sort_predict(interaction)[:, 1:]
    full = make(cls, inference_steps=5, reverse_sampler="ddim", ddim_eta=1.0).eval()
    torch.testing.assert_close(full.full_sort_predict(interaction)[:, 1:], ddpm, atol=1e-4, rtol=0)
    calm = make(cls, inference_steps=5, reverse_sampler="ddim").eval()
    assert not torch.allclose(calm.full_sort_predict(interaction)[:, 1:], ddpm, atol=1e-3)


@pytest.mark.parametrize("cls", MODELS)
@torch.no_grad()
def test_prediction_leaves_the_random_state_alone(cls: type[DiffusionRecommender]) -> None:
    model = make(cls, inference_steps=16).eval()
    before = torch.get_rng_state()
    model.full_sort_predict(random_batch())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("cls", MODELS)
@torch.no_grad()
def test_predict_agrees_with_full_ranking_and_denoises_each_history_once(cls: type[DiffusionRecommender]) -> None:
    model = make(cls).eval()
    users = random_batch(rows=6)
    repeated = pick(users, torch.arange(6).repeat_interleave(20))
    repeated["item_id"] = torch.randint(1, 40, (120,))
    denoised: list[int] = []
    model.encoder.register_forward_hook(lambda module, inputs, output: denoised.append(len(output)))
    scores = model.predict(repeated)
    assert sum(denoised) == 6
    expected = model.full_sort_predict(users).repeat_interleave(20, dim=0)
    torch.testing.assert_close(scores, expected[torch.arange(120), repeated["item_id"]], atol=1e-5, rtol=0)


@pytest.mark.parametrize("cls", BY_ROW)
@pytest.mark.parametrize("loss_type", ["CE", "BPR"])
def test_padding_changes_neither_loss_nor_gradient(cls: type[DiffusionRecommender], loss_type: str) -> None:
    """Rows of one length without a mask, and the plain padded form with one, in float64."""
    model = make(cls, loss_type=loss_type).double()
    rows = batch([[3, 5, 7], [2, 2, 9], [8, 1, 4]], [4, 5, 6]) | {"neg_item_id": torch.tensor([7, 8, 9])}
    longer = batch([[3, 5, 7], [2, 2, 9], [8, 1, 4], list(range(1, 10))], [4, 5, 6, 7], width=50)
    longer["neg_item_id"] = torch.tensor([7, 8, 9, 10])
    timestep = torch.tensor([0, 7, 15, 3])
    draws = {2: torch.randn(4, 16).double(), 3: torch.randn(4, 50, 16).double()}

    class Rows(Noise):
        def normal(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
            # The single row is the fourth one.
            rows = draws[len(shape)][3:] if shape[0] == 1 else draws[len(shape)][: shape[0]]
            return rows[:, : shape[1]]

        def choice(self, name: str, probabilities: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
            return timestep[3:] if shape[0] == 1 else timestep[: shape[0]]

    # The fourth row's share is taken out, so that what is left is the mean over the first three.
    full = model.calculate_loss(longer, Rows())
    fourth = model.calculate_loss({key: value[3:] for key, value in longer.items()}, Rows())
    padded = (4 * full - fourth) / 3
    padded_gradient = torch.autograd.grad(padded, list(model.parameters()), allow_unused=True)
    plain = model.calculate_loss(rows, Rows())
    gradient = torch.autograd.grad(plain, list(model.parameters()), allow_unused=True)
    torch.testing.assert_close(plain, padded, atol=1e-9, rtol=0)
    for ours, theirs in zip(gradient, padded_gradient, strict=True):
        if ours is None:
            assert theirs is None
        else:
            torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


def test_reference_mask_lets_padding_take_part() -> None:
    with torch.no_grad():
        interaction = random_batch()
        model = make(DiffuRec, attention_mask="reference").eval()
        before = model.full_sort_predict(interaction)
        model.item_embedding.weight[0] *= -1
        assert not torch.allclose(model.full_sort_predict(interaction)[:, 1:], before[:, 1:], atol=1e-3)
        model = make(DiffuRec).eval()
        before = model.full_sort_predict(interaction)
        model.item_embedding.weight[0] *= -1
        assert torch.equal(model.full_sort_predict(interaction)[:, 1:], before[:, 1:])


# The last drops nothing, and yet goes the way of dropout.
@pytest.mark.parametrize(
    "changes", [{}, {"diffusion": False}, {"n_layers": 3}, {"loss_type": "BPR"}, {"attn_dropout_prob": 1e-9}]
)
@pytest.mark.parametrize("lengths", [range(1, 31), [50] * 4, [1, 50, 49], [7]])
def test_padding_that_is_counted_is_the_reference_where_all_of_it_is_alike(
    changes: dict[str, Any], lengths: Sequence[int]
) -> None:
    numbers = range(len(lengths))
    histories = [[(row * place) % 39 + 1 for place in range(length)] for row, length in enumerate(lengths, 1)]
    interaction = batch(histories, [row + 1 for row in numbers], width=50)
    interaction["neg_item_id"] = torch.tensor([row + 7 for row in numbers])
    timestep = torch.tensor(numbers) % 16

    draws = SameNoise(0.5, timestep, torch.float64)

    losses, gradients, scores = [], [], []
    for mask in ("reference", "counted"):
        model = make(DiffuRec, attention_mask=mask, **changes).double()
        loss = model.calculate_loss(interaction, draws)
        losses.append(loss.detach())
        gradients.append(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))
        with torch.no_grad():
            scores.append(model.eval().full_sort_predict(interaction, draws))
    torch.testing.assert_close(losses[1], losses[0], atol=1e-9, rtol=0)
    torch.testing.assert_close(scores[1], scores[0], atol=1e-9, rtol=0)
    # Padding has learnt something where there is any.
    assert min(lengths) == 50 or gradients[0][0][0].any()
    for ours, theirs in zip(gradients[1], gradients[0], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


def test_counted_padding_trains_with_dropout_and_in_half_precision() -> None:
    model = make(DiffuRec, attention_mask="counted", attn_dropout_prob=0.1, hidden_dropout_prob=0.1)
    for dropout in (0.1, 0.0):
        for block in model.encoder.blocks:
            block.attention.dropout.probability = dropout
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model.calculate_loss(random_batch(longest=50))
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("cls", MODELS)
def test_padding_is_no_candidate(cls: type[DiffusionRecommender]) -> None:
    model = make(cls)
    model.calculate_loss(random_batch()).backward()
    assert not model.item_embedding.weight.grad[0].any()


def test_loss_aware_sampler_learns_from_the_losses() -> None:
    model = make(DiffuRec, step_sampler="lossaware")
    for _ in range(20):
        model.calculate_loss(random_batch())
    p = model.step_sampler.probabilities()
    assert not torch.allclose(p, torch.full_like(p, 1 / 16))
    assert "step_sampler.history" in model.state_dict()


@pytest.mark.parametrize(
    ("cls", "changes", "named"),
    [
        (DiffuRec, {"hidden_size": 18}, "hidden_size must be a multiple of n_heads=4, got 18"),
        (DiffuRec, {"hidden_size": 15, "n_heads": 5}, "hidden_size must be even and positive, got 15"),
        (DiffuRec, {"diffusion_steps": 0}, "diffusion_steps must be positive and at most 100000, got 0"),
        (DiffuRec, {"inference_steps": 17}, "inference_steps must be from 1 to diffusion_steps=16, got 17"),
        (DiffuRec, {"inference_steps": 0}, "inference_steps must be positive, got 0"),
        (DiffuRec, {"noise_schedule": "linear"}, "noise_schedule='linear'"),
        (DiffuRec, {"noise_schedule": "cosin"}, "noise_schedule must be one of linear, trunc_lin"),
        (DiffuRec, {"loss_type": "MSE"}, "loss_type must be one of CE, BPR, got 'MSE'"),
        (DiffuRec, {"step_sampler": "all"}, "step_sampler must be one of uniform, lossaware, fixstep, got 'all'"),
        (DiffuRec, {"attention_mask": "rows"}, "attention_mask must be one of keys, reference, counted, got 'rows'"),
        (
            DiffuRec,
            {"hidden_act": "gulu"},
            "hidden_act must be one of gelu_tanh, gelu, relu,",
        ),
        (DiffuRec, {"hidden_dropout_prob": 1.0}, "hidden_dropout_prob must be from 0 to below 1, got 1.0"),
        (DiffuRec, {"noise_scale": -1.0}, "noise_scale must be at least 0, got -1.0"),
        (DiffRec, {"rounding": "nearest"}, "rounding must be one of tied, linear, got 'nearest'"),
        (DiffRec, {"rounding_reads": "x"}, "rounding_reads must be one of prediction, truth, got 'x'"),
        (DiffRec, {"noise_positions": "first"}, "noise_positions must be one of last, all, got 'first'"),
        (DiffuRec, {"guidance_scale": 1.0}, "guidance_scale must be 0, as DiffuRec has no unconditional form, got 1.0"),
        (DiffRec, {"prediction_type": "x1"}, "prediction_type must be one of x0, eps, v, got 'x1'"),
        (DiffRec, {"step_encoding_scale": -1.0}, "step_encoding_scale must be at least 0, got -1.0"),
        (DiffRec, {"inference_seeds": 0}, "inference_seeds must be from 1 to 10000, got 0"),
        (DiffRec, {"embedding_noise": -0.1}, "embedding_noise must be at least 0, got -0.1"),
        (DiffRec, {"reverse_sampler": "ddmp"}, "reverse_sampler must be one of ddpm, ddim, dpmpp_2m, got 'ddmp'"),
    ],
)
def test_impossible_settings_are_named(cls: type[DiffusionRecommender], changes: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingError) as error:
        cls.check_settings(settings(cls.__name__, **changes))
    assert str(error.value).startswith(named)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cls", MODELS)
def test_switched_off_nothing_but_the_history_enters(
    cls: type[DiffusionRecommender], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the step was encoded")

    for module in {layers, *(sys.modules[base.__module__] for base in cls.__mro__)}:
        monkeypatch.setattr(module, "step_angles", refuse, raising=False)
    model = make(cls, diffusion=False, inference_steps=4)
    read: list[torch.Tensor] = []
    model.encoder.register_forward_pre_hook(lambda module, inputs: read.append(inputs[0]))
    interaction = random_batch()
    losses = [model.calculate_loss(interaction, noise=SameNoise(value)) for value in (0.0, 7.0)]
    assert torch.equal(*losses)
    losses[0].backward()
    assert model.item_embedding.weight.grad is not None
    # The next item is what the loss asks for, and no more.
    model.calculate_loss({**interaction, "item_id": interaction["item_id"].roll(1)}, noise=SameNoise(0.0))
    assert all(torch.equal(sequence, read[0]) for sequence in read)
    model.eval()
    with torch.no_grad():
        chains = [model.sample(model.history(interaction), SameNoise(value)).steps for value in (0.0, 7.0)]
        assert [step.timestep for step in chains[0]] == [0]
        assert torch.equal(chains[0][0].x, chains[1][0].x)
        seeds = [make(cls, diffusion=False, seed=seed).eval().full_sort_predict(interaction) for seed in (1, 2)]
    assert torch.equal(*seeds)


@pytest.mark.parametrize("cls", BY_ROW)
def test_each_row_counts_by_the_weight_of_its_step(
    cls: type[DiffusionRecommender], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(cls).double()
    interaction = random_batch(rows=4)
    timestep, weight = torch.tensor([0, 3, 9, 15]), torch.tensor([0.1, 2.0, 5.0, 0.7]).double()
    alone = [
        model.calculate_loss(pick(interaction, [row]), SameNoise(0.3, timestep[[row]])).detach() for row in range(4)
    ]
    monkeypatch.setattr(model.step_sampler, "sample", lambda shape, noise: (timestep, weight))
    loss = model.calculate_loss(interaction, noise=SameNoise(0.3)).detach()
    torch.testing.assert_close(loss, (weight * torch.stack(alone)).mean(), atol=1e-9, rtol=0)


@pytest.mark.parametrize("cls", MODELS)
@torch.no_grad()
def test_the_network_is_given_the_original_steps_of_a_sub_chain(
    cls: type[DiffusionRecommender], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(cls, inference_steps=3, guidance_scale=0.0).eval()
    given: list[list[int]] = []
    denoise = model.denoise

    def recording(x_t: torch.Tensor, timestep: torch.Tensor, *rest: Any) -> torch.Tensor:
        given.append(timestep.unique().tolist())
        return denoise(x_t, timestep, *rest)

    monkeypatch.setattr(model, "denoise", recording)
    model.full_sort_predict(random_batch())
    assert given == [[timestep] for timestep in sub_chain(16, 3)] and given[0] == [15]


@pytest.mark.parametrize("cls", MODELS)
@torch.no_grad()
def test_switched_on_the_noise_reaches_the_scores(cls: type[DiffusionRecommender]) -> None:
    interaction = random_batch()
    seeds = [make(cls, seed=seed).eval().full_sort_predict(interaction) for seed in (1, 2)]
    assert not torch.allclose(*seeds, atol=1e-4)


@pytest.mark.parametrize("cls", MODELS)
@pytest.mark.parametrize("normalised", [True, False])
def test_the_process_starts_at_the_size_of_the_noise_where_asked(
    cls: type[DiffusionRecommender], normalised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(cls, normalize_x_0=normalised, embedding_noise=0.0)
    starts: list[torch.Tensor] = []
    sample = model.process.sample
    monkeypatch.setattr(model.process, "sample", lambda x_0, *rest: starts.append(x_0) or sample(x_0, *rest))
    interaction = random_batch()
    model.calculate_loss(interaction)
    embedding = model.item_embedding.weight[interaction["item_id"]]
    centred = embedding - embedding.mean(dim=1, keepdim=True)
    expected = centred / centred.square().mean(dim=1, keepdim=True).sqrt() if normalised else embedding
    torch.testing.assert_close(starts[0], expected, atol=1e-3, rtol=0)


class Own(GaussianRecommender):
    """A model of a user's, with a mistake."""

    def __init__(self, config: Any, dataset: Any, mistake: str) -> None:
        self.mistake = mistake
        super().__init__(config, dataset)

    def encode(self, history: History, noise: Noise) -> torch.Tensor:
        return self.item_embedding(history.items[:, 0])

    def unconditional(self, condition: torch.Tensor) -> Any:
        return (condition,) if self.mistake == "unconditional" else torch.zeros(16)

    def denoise(self, x_t: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor, noise: Noise) -> Any:
        return condition[:, :8] if self.mistake == "denoise" else condition

    def losses(self, step: TrainingStep) -> Any:
        rows = (step.x0_hat - step.x_0).square().mean(dim=-1)
        return rows if self.mistake == "losses" else Losses(rows)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        ("denoise", r"Own: denoise must return \[30, 16\], the shape of x_t, got \[30, 8\]"),
        ("losses", r"Own: losses must return Losses\(...\), got Tensor"),
        ("unconditional", "Own: unconditional must return a condition of the form that encode gives"),
    ],
)
def test_a_mistake_in_a_model_is_one_line_that_names_the_method(mistake: str, message: str) -> None:
    config = settings("GaussianRecommender", guidance_drop=0.5, guidance_scale=1.0)
    model = Own(config, Catalogue(40), "none")
    assert model.calculate_loss(random_batch()).isfinite()
    model.mistake = mistake
    with pytest.raises(ModelError, match=message):
        model.calculate_loss(random_batch())


def test_guidance_from_what_is_never_trained_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for changes in ({}, {"guidance_scale": 1.0, "guidance_drop": 0.1}):
        Own(settings("GaussianRecommender", **changes), Catalogue(40), "none")
        assert not caplog.text
    Own(settings("GaussianRecommender", guidance_scale=1.0), Catalogue(40), "none")
    assert "guidance_scale=1 moves away from a placeholder that guidance_drop=0 never trains" in caplog.text


def test_the_last_place_is_that_of_the_length() -> None:
    values = torch.arange(24).view(2, 3, 4)
    assert torch.equal(at_last(values, torch.tensor([1, 3])), torch.stack([values[0, 0], values[1, 2]]))
