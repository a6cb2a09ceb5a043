from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from stand_in import Catalogue, batch, settings

from recbole_diffusion.common.setting import without_effect
from recbole_diffusion.diffusion.noise import GivenNoise
from recbole_diffusion.errors import SettingError
from recbole_diffusion.inference.sampling import overridden
from recbole_diffusion.model.preferdiff import PreferDiff

INTERACTION = batch([[1, 2, 3], [4], [5, 6], [7, 7]], [7, 8, 9, 7])
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "guidance_drop": 0.0, "inference_steps": 1}


def make(**changes: Any) -> PreferDiff:
    torch.manual_seed(0)
    config = settings("PreferDiff", parents=("DreamRec",), **{**NO_DROPOUT, **changes})
    return PreferDiff(config, Catalogue(40)).double()


def numbers() -> GivenNoise:
    generator = torch.Generator().manual_seed(1)
    normal = {name: torch.randn(4, 16, generator=generator).double() for name in ("x_t", "x_t_negative")}
    return GivenNoise({**normal, "timestep": torch.tensor([0, 3, 9, 15])})


@pytest.mark.parametrize("preference", ["batch", "row"])
def test_the_target_is_preferred_to_the_centroid_of_the_others(preference: str) -> None:
    """By each row, where the authors' code compares two numbers a batch."""
    model = make(preference=preference, distance="l2", reconstruction_weight=0.3, preference_scale=2.0)
    noise = numbers()
    loss = model.calculate_loss(INTERACTION, noise)

    x_0 = model.item_embedding(INTERACTION["item_id"])
    others = torch.stack([x_0[[row for row in range(4) if row != own]].mean(dim=0) for own in range(4)])
    condition, timestep = model.encode(model.history(INTERACTION), noise), noise.values["timestep"]
    apart = []
    for start, name in ((x_0, "x_t"), (others, "x_t_negative")):
        x_t = model.process.sample(start, timestep, noise.values[name])
        apart.append((start - model.denoise(x_t, timestep, condition, noise)).square().mean(dim=1))
    near, far = apart
    margin = far.mean() - near.mean() if preference == "batch" else far - near
    expected = 0.3 * near.mean() - 0.7 * F.logsigmoid(2.0 * margin).mean()
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-7)


def test_as_many_negatives_as_there_are_others_make_their_centroid() -> None:
    noise = GivenNoise({**numbers().values, "negatives": torch.rand(4, 3)})
    whole, sampled = (make(negatives=number).calculate_loss(INTERACTION, noise) for number in (None, 3))
    torch.testing.assert_close(sampled, whole)
    assert not torch.allclose(make(negatives=1).calculate_loss(INTERACTION, noise), whole)


@pytest.mark.parametrize("negatives", [None, 2])
@pytest.mark.parametrize("objective", ["neg", "neg_sample", "negh"])
def test_a_batch_of_one_row_has_no_negatives_and_a_loss(objective: str, negatives: int | None) -> None:
    model = make(objective=objective, negatives=negatives)
    loss = model.calculate_loss({key: value[:1] for key, value in INTERACTION.items()})
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@torch.no_grad()
def test_the_authors_chain_gives_the_network_the_step_after() -> None:
    model = make(ddim_stride=4, guidance_scale=0.0).eval()
    given: list[int] = []
    denoise = model.denoise
    model.denoise = lambda x_t, timestep, *rest: given.append(int(timestep[0])) or denoise(x_t, timestep, *rest)
    history = model.history(INTERACTION)
    steps = model.sample(history, model.inference_noise(history)).steps
    assert [step.timestep for step in steps] == [15, 11, 7, 3, 0]
    assert given == [16, 12, 8, 4, 0]
    given.clear()
    with overridden(model, 4, seed=None):
        assert [step.timestep for step in model.sample(history, model.inference_noise(history)).steps] == given
    assert given == [15, 10, 5, 0]


def test_with_the_authors_chain_the_number_of_steps_has_no_effect() -> None:
    config = settings("PreferDiff", parents=("DreamRec",), inference_steps=7)
    (warning,) = without_effect(PreferDiff, {**config, "ddim_stride": 4}, ["inference_steps"])
    assert warning.startswith("inference_steps=7 has no effect")
    assert not without_effect(PreferDiff, {**config, "ddim_stride": None}, ["inference_steps"])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"n_heads": 3}, "hidden_size must be a multiple of n_heads=3, got 16"),
        ({"ddim_stride": 17}, "ddim_stride must be at most diffusion_steps=16, got 17"),
        ({"ddim_stride": 1}, "ddim_stride must be at least 2, or ~, got 1"),
        ({"ddim_stride": 2, "reverse_sampler": "ddpm"}, "ddim_stride must be ~ with reverse_sampler=ddpm, got 2"),
        ({"negatives": 0}, "negatives must be positive, or ~ for all other rows, got 0"),
        ({"distance": "l3"}, "distance must be one of l2, l1, huber, cosine, got 'l3'"),
    ],
)
def test_impossible_settings_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingError) as error:
        make(**changes)
    assert str(error.value) == named
