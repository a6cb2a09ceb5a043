from __future__ import annotations

from typing import Any

import pytest
import torch
from stand_in import Catalogue, batch, settings

from recbole_diffusion.diffusion.bridge import BridgeProcess
from recbole_diffusion.diffusion.noise import FreshNoise, GivenNoise, Noise
from recbole_diffusion.errors import SettingError
from recbole_diffusion.model.adrec import ADRec
from recbole_diffusion.model.base import Losses, TrainingStep
from recbole_diffusion.model.bbdrec import BBDRec

FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "counted": {"attention_mask": "counted"},
    "bridge": {"process": "bridge"},
    "bidirectional": {"causal": False},
    "counted bidirectional": {"causal": False, "attention_mask": "counted"},
    "mlp": {"decoder": "mlp"},
    "geodesic": {"geodesic": True},
    "shared": {"shared_timestep": True},
    "guided": {"guidance_drop": 0.3, "guidance_scale": 1.0},
    "guided bridge": {"process": "bridge", "guidance_drop": 0.3, "guidance_scale": 1.0},
}


def make(cls: type[ADRec] = ADRec, **changes: Any) -> ADRec:
    torch.manual_seed(0)
    dropout = {f"{part}_dropout_prob": 0.0 for part in ("hidden", "attn", "embedding")}
    values = {"initializer_range": 0.5, "noise_scale": 0.3, "inference_steps": 4, **dropout, **changes}
    name, parents = ("BBDRec", ("ADRec",)) if cls is BBDRec else ("ADRec", ())
    return cls(settings(name, parents=parents, **values), Catalogue(40))


def random_batch(rows: int = 12, longest: int = 9, width: int = 50) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    length = torch.randint(1, longest + 1, (rows,), generator=generator)
    histories = [torch.randint(1, 40, (int(n),), generator=generator).tolist() for n in length]
    return batch(histories, torch.randint(1, 40, (rows,), generator=generator).tolist(), width=width)


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_scores_do_not_depend_on_the_batch(form: str) -> None:
    model = make(**FORMS[form]).eval()
    interaction = random_batch()
    together = model.full_sort_predict(interaction)
    assert together.isfinite().all()
    alone = [model.full_sort_predict({key: value[[row]] for key, value in interaction.items()}) for row in range(12)]
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-5, rtol=0)


@pytest.mark.parametrize("form", FORMS)
@torch.no_grad()
def test_what_is_kept_of_the_earlier_places_changes_nothing(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain step by step in training's form, every place computed anew, against the chain as it is run."""
    model = make(**FORMS[form]).eval()
    history = model.history(random_batch())
    rows, last = torch.arange(12), history.length - 1
    chain = model.sample(history, model.inference_noise(history))
    items = torch.nn.functional.pad(history.items[:, 1:], (0, 1))

    def every_place(x_t: torch.Tensor, timestep: torch.Tensor, condition: Any) -> torch.Tensor:
        x = model.embed(items).index_put((rows, last), x_t)
        steps = torch.zeros_like(items).index_put((rows, last), timestep)
        if model.shared_timestep:
            steps[history.items == 0] = 0
        return model.denoise(x, steps, condition, Noise())[rows, last]

    monkeypatch.setattr(model, "newest", every_place)
    plain = model.sample(history, model.inference_noise(history))
    assert len(plain.steps) == 4
    for ours, expected in zip(chain.steps, plain.steps, strict=True):
        torch.testing.assert_close(ours.x0_hat, expected.x0_hat, atol=1e-4, rtol=0)
        torch.testing.assert_close(ours.x, expected.x, atol=1e-4, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_switched_off_neither_noise_nor_step_enters(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if "guided" in form:
        pytest.skip("guidance drops rows at random, with or without diffusion")
    model = make(diffusion=False, **FORMS[form])
    monkeypatch.setattr(model.step_mlp, "forward", None)
    interaction = random_batch()
    torch.manual_seed(0)
    first = model.calculate_loss(interaction)
    torch.manual_seed(1)
    assert torch.equal(first, model.calculate_loss(interaction))
    first.backward()
    assert model.item_embedding.weight.grad is not None
    model.eval()
    with torch.no_grad():
        history = model.history(interaction)
        chain = model.sample(history, FreshNoise("cpu"))
        assert [step.timestep for step in chain.steps] == [0]
        assert torch.equal(chain.x_0, model.sample(history, FreshNoise("cpu")).x_0)
        scores = model.full_sort_predict(interaction)
        other = make(diffusion=False, seed=7, **FORMS[form]).eval().full_sort_predict(interaction)
    assert torch.equal(scores, other)


@pytest.mark.parametrize("form", ["plain", "bridge", "mlp"])
def test_switched_off_equals_noise_of_no_size(form: str) -> None:
    """The decoder reads c itself: all of training and inference as with λ = 0, at one step."""
    interaction = random_batch()
    off = make(diffusion=False, **FORMS[form])
    silent = make(noise_scale=0.0, inference_steps=1, **FORMS[form])
    torch.testing.assert_close(off.calculate_loss(interaction), silent.calculate_loss(interaction))
    scores = [model.eval().full_sort_predict(interaction) for model in (off, silent)]
    torch.testing.assert_close(*scores)


@pytest.mark.parametrize("form", ["plain", "counted", "bridge", "shared"])
def test_no_place_sees_a_later_item_or_its_own_answer(form: str) -> None:
    model = make(noise_scale=0.0, **FORMS[form]).eval()
    history = model.history(batch([[1, 2, 3, 4, 5, 6]], [7]))
    other = model.history(batch([[1, 2, 3, 9, 9, 9]], [8]))
    said = [model.encode(read, Noise()).encoded for read in (history, other)]
    assert torch.equal(said[0][:, :3], said[1][:, :3]) and not torch.allclose(said[0][:, 3], said[1][:, 3])


@pytest.mark.parametrize("form", FORMS)
def test_a_row_counts_the_same_in_any_padding(form: str) -> None:
    """Loss and gradient of rows of one length, alone and beside a longer row, in float64."""
    model = make(noise_scale=0.0, **{**FORMS[form], "guidance_drop": 0.0}).double()
    rows = batch([[3, 5, 7], [2, 2, 9]], [4, 5])
    longer = batch([[3, 5, 7], [2, 2, 9], list(range(1, 10))], [4, 5, 6], width=50)
    alone = {key: value[2:] for key, value in longer.items()}
    # Cross-entropy counts places, squared error rows.
    for weights, places in (((1.0, 0.0), (6, 9)), ((0.0, 1.0), (2, 1))):
        model.ce_weight, model.mse_weight = weights
        torch.manual_seed(0)
        together = sum(places) * model.calculate_loss(longer)
        parts = places[0] * model.calculate_loss(rows) + places[1] * model.calculate_loss(alone)
        torch.testing.assert_close(together, parts, atol=1e-9, rtol=0)


def test_guidance_of_no_weight_is_none() -> None:
    interaction = random_batch()
    plain = make().eval().full_sort_predict(interaction)
    assert torch.equal(make(guidance_drop=0.3).eval().full_sort_predict(interaction), plain)
    assert not torch.allclose(make(guidance_scale=1.0).eval().full_sort_predict(interaction), plain, atol=1e-3)


@pytest.mark.parametrize("changes", [{"diffusion": False}, {"noise_scale": 0.0}], ids=str)
def test_where_x_t_is_not_read_no_row_loses_its_history(changes: dict[str, Any]) -> None:
    """Else it would read zeros alone, of which a LayerNorm's gradient is 10^6, and four of them one of 10^21."""
    losses = []
    for guidance in ({}, {"guidance_drop": 0.3, "guidance_scale": 1.0}):
        model = make(**guidance, **changes)
        noise = FreshNoise("cpu", generator=torch.Generator().manual_seed(0))
        losses.append(model.calculate_loss(random_batch(), noise))
    gradients = torch.autograd.grad(losses[1], list(model.parameters()), allow_unused=True, materialize_grads=True)
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e3
    if "diffusion" in changes:
        assert torch.equal(*losses)
        assert torch.equal(*(make(**changes, **g).eval().full_sort_predict(random_batch()) for g in ({}, guidance)))


def test_projected_gradients_do_not_contradict() -> None:
    """Against the definition, with gradients that do and do not contradict each other."""
    model = make(pcgrad=True)
    parameters = list(model.parameters())
    weight = model.item_embedding.weight
    first = weight[:, 0].sum()
    for sign in (-1.0, 1.0):
        second = sign * weight[:, 0].sum() + weight[:, 1].sum()
        got = torch.autograd.grad(model.projected(first, second), parameters, allow_unused=True)
        one, other = (torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in (first, second))
        dot = (one * other).sum()
        expected = one + other
        if dot < 0:
            expected = expected - dot / (other * other).sum() * other - dot / (one * one).sum() * one
        found = got[next(i for i, parameter in enumerate(parameters) if parameter is weight)]
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(model.projected(first, second), first + second)


@pytest.mark.parametrize("places_a_row", [None, 3.0])
@pytest.mark.parametrize(
    "changes", [{"consistency_weight": 0.5}, {"step_sampler": "fixstep"}, {"step_sampler": "lossaware"}], ids=str
)
def test_gradients_that_do_not_contradict_are_those_of_the_sum(
    changes: dict[str, Any], places_a_row: float | None
) -> None:
    """In a batch of like lengths too, and with weights of timesteps."""
    found = []
    for pcgrad in (False, True):
        model = make(pcgrad=pcgrad, hidden_size=16, diffusion_steps=4, **changes).double()
        model.places_a_row = places_a_row
        if changes.get("step_sampler") == "lossaware":
            model.step_sampler.history += torch.arange(1.0, 5.0)[:, None]
            model.step_sampler.seen += 10
        loss = model.calculate_loss(random_batch(), FreshNoise("cpu", torch.float64, torch.Generator().manual_seed(2)))
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True)
        found.append((loss, gradients, list(model.step_sampler.buffers())))
    torch.testing.assert_close(found[1], found[0], atol=1e-10, rtol=1e-9)


def test_bbdrec_is_adrec_with_a_bridge_from_its_encoder() -> None:
    model = make(BBDRec).eval()
    assert isinstance(model.process, BridgeProcess)
    history = model.history(random_batch())
    start = model.sample(history, model.inference_noise(history)).start
    rows = torch.arange(12)
    assert torch.equal(start, model.encode(history, Noise()).encoded[rows, history.length - 1])


class Watched(ADRec):
    """Keeps what it predicts in training."""

    x0_hat: torch.Tensor

    def all_losses(self, step: TrainingStep) -> Losses:
        self.x0_hat = step.x0_hat
        return super().all_losses(step)


def test_neighbouring_steps_agree_place_by_place() -> None:
    """The added loss is the mean over real places of the squared difference to the prediction one step earlier."""
    drawn = torch.Generator().manual_seed(2)
    timestep = torch.randint(0, 16, (12, 9), generator=drawn)
    timestep[:, 0] = 0
    noise = torch.randn(12, 9, 16, generator=drawn)
    losses, predictions = [], []
    for weight, back in ((1000.0, 0), (0.0, 0), (0.0, 1)):
        model = make(Watched, consistency_weight=weight)
        given = {"timestep": (timestep - back).clamp(min=0), "x_t": noise}
        losses.append(model.calculate_loss(random_batch(), GivenNoise(given, FreshNoise(torch.device("cpu")))).item())
        predictions.append(model.x0_hat.detach())
    with_it, without, _ = losses
    _, later, earlier = predictions
    apart = (later - earlier).square().mean(dim=-1) * (timestep > 0)
    mask = torch.arange(9) < random_batch()["item_length"][:, None]
    assert with_it - without == pytest.approx(1000.0 * apart[mask].mean().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"loss_type": "BPR"}, "loss_type must be CE, as ADRec trains every place, got 'BPR'"),
        (
            {"process": "bridge", "diffusion_steps": 1, "inference_steps": 1},
            "diffusion_steps must be at least 2 with p",
        ),
        ({"process": "flow"}, "process must be one of gaussian, bridge, got 'flow'"),
        ({"process": "bridge", "geodesic": True}, "geodesic must be False with process=bridge"),
        ({"process": "bridge", "reverse_sampler": "ddim"}, "reverse_sampler must be ddpm"),
        ({"geodesic": True, "prediction_type": "eps"}, "prediction_type must be x0"),
        ({"process": "bridge", "consistency_weight": 0.5}, "consistency_weight must be 0 with process=bridge"),
        ({"geodesic": True, "consistency_weight": 0.5}, "consistency_weight must be 0 with process=bridge and with g"),
        ({"decoder_layers": 0}, "decoder_layers must be positive, got 0"),
    ],
)
def test_impossible_settings_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingError) as error:
        ADRec.check_settings(settings("ADRec", **changes))
    assert str(error.value).startswith(named)
