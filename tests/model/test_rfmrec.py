from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from stand_in import Catalogue, batch, settings

from recbole_diffusion.diffusion.noise import GivenNoise, Noise
from recbole_diffusion.errors import SettingError, UserError
from recbole_diffusion.model.rfmrec import RANK_BY, RFMRec

NO_DROPOUT = {f"{part}_dropout_prob": 0.0 for part in ("hidden", "attn", "embedding")}


def make(**changes: Any) -> RFMRec:
    torch.manual_seed(0)
    values = {"initializer_range": 0.5, "inference_steps": 2, **NO_DROPOUT, **changes}
    return RFMRec(settings("RFMRec", **values), Catalogue(40))


def random_batch(rows: int = 12, longest: int = 9) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    length = torch.randint(1, longest + 1, (rows,), generator=generator)
    histories = [torch.randint(1, 40, (int(n),), generator=generator).tolist() for n in length]
    return batch(histories, torch.randint(1, 40, (rows,), generator=generator).tolist(), width=50)


@pytest.mark.parametrize("changes", [{}, {"inference_steps": 7}, {"diffusion": False}])
@torch.no_grad()
def test_scores_do_not_depend_on_the_batch(changes: dict[str, Any]) -> None:
    model = make(**changes).eval()
    interaction = random_batch()
    together = model.full_sort_predict(interaction)
    assert together.isfinite().all() and together.std() > 0.1
    alone = [model.full_sort_predict({key: value[[row]] for key, value in interaction.items()}) for row in range(12)]
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-5, rtol=0)


@torch.no_grad()
def test_scores_are_cosines_after_two_euler_steps_from_the_encoder() -> None:
    model = make().eval()
    interaction = random_batch()
    history = model.history(interaction)
    h = model.encode(history, Noise())[torch.arange(12), history.length - 1]
    z = F.normalize(h, dim=-1)
    for t in (1.0, 0.5):
        z = F.normalize(z - model.denoise(z, torch.full((12,), t), h, Noise()) / 2, dim=-1)
    expected = F.cosine_similarity(z[:, None], model.item_embedding.weight[None], dim=-1) / 0.07
    torch.testing.assert_close(model.full_sort_predict(interaction), expected, atol=1e-4, rtol=0)
    assert not torch.allclose(
        model.full_sort_predict(interaction), make(diffusion=False).eval().full_sort_predict(interaction), atol=1e-2
    )


@torch.no_grad()
def test_ranked_by_the_encoder_scores_are_those_without_a_flow() -> None:
    interaction = random_batch()
    by_encoder = make(rank_by="encoder").eval().full_sort_predict(interaction)
    torch.testing.assert_close(by_encoder, make(diffusion=False).eval().full_sort_predict(interaction))


def test_ranked_by_the_encoder_both_losses_are_trained() -> None:
    interaction, time = random_batch(), torch.rand(12, 9)
    values = [make(rank_by=way).calculate_loss(interaction, GivenNoise({"timestep": time})) for way in RANK_BY]
    torch.testing.assert_close(values[0], values[1])


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.3])
def test_the_loss_is_the_formula(weight: float) -> None:
    """Place by place, against the definition, in float64."""
    model = make(velocity_weight=weight).double()
    interaction = random_batch()
    history = model.history(interaction)
    targets = model.targets(history, interaction)
    time = torch.rand(targets.shape, dtype=torch.float64)
    loss = model.calculate_loss(interaction, GivenNoise({"timestep": time}))
    h, table = model.encode(history, Noise()), model.item_embedding.weight
    ce, mse = [], []
    for row, length in enumerate(history.length.tolist()):
        errors = []
        for place in range(length):
            said, item, t = h[row, place], targets[row, place], time[row, place]
            logits = F.cosine_similarity(said[None], table[1:]) / 0.07
            ce.append(F.cross_entropy(logits, item - 1))
            start, end = F.normalize(table[item], dim=-1), F.normalize(said, dim=-1)
            angle = torch.acos(start @ end)
            z = (((1 - t) * angle).sin() * start + (t * angle).sin() * end) / angle.sin()
            v = angle * (-((1 - t) * angle).cos() * start + (t * angle).cos() * end) / angle.sin()
            guess = model.denoise(z[None], t[None], None, Noise())[0]
            errors.append((guess - v).square().mean())
        mse.append(torch.stack(errors).mean())
    expected = torch.stack(ce).mean() + weight * torch.stack(mse).mean()
    torch.testing.assert_close(loss, expected, atol=1e-9, rtol=0)


def test_the_velocity_is_detached_and_x_t_is_not() -> None:
    """The gradient of the second loss, against that by autograd with the true velocity held fixed."""
    model = make(similarity_temperature=1e9).double()
    interaction = batch([[3, 5, 7], [2, 2, 9]], [4, 5])
    time = torch.rand(2, 3, dtype=torch.float64)
    model.calculate_loss(interaction, GivenNoise({"timestep": time})).backward()
    got = model.item_embedding.weight.grad
    history = model.history(interaction)
    target = model.item_embedding(model.targets(history, interaction))
    h = model.encode(history, Noise())
    fixed = model.process.velocity(target, time, h).detach()
    x_t = model.process.sample(target, time, target, h)
    loss = (model.denoise(x_t, time, h, Noise()) - fixed).square().mean()
    (expected,) = torch.autograd.grad(loss, model.item_embedding.weight)
    torch.testing.assert_close(got, expected, atol=1e-8, rtol=0)
    assert expected[[4, 5]].any(dim=1).all()


def test_the_velocity_starts_as_long_as_a_quarter_turn() -> None:
    model = make()
    v = model.denoise(F.normalize(torch.randn(50, 16), dim=1), torch.rand(50), None, Noise())
    torch.testing.assert_close(v.norm(dim=1), torch.full((50,), torch.pi / 2), atol=0.02, rtol=0)


def test_no_place_sees_a_later_item_and_each_sees_its_place() -> None:
    model = make().eval()
    said = [
        model.encode(model.history(batch([items], [7])), Noise())
        for items in ([1, 2, 3, 4, 5, 6], [1, 2, 3, 9, 9, 9], [2, 1, 3, 4, 5, 6])
    ]
    assert torch.equal(said[0][:, :3], said[1][:, :3]) and not torch.allclose(said[0][:, 3], said[1][:, 3])
    # With the same items before it in another order.
    assert not torch.allclose(said[0][:, 2], said[2][:, 2], atol=1e-3)


def test_switched_off_neither_flow_nor_time_enters(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(diffusion=False)
    for part in (model.flow, model.step_mlp):
        monkeypatch.setattr(part, "forward", None)
    interaction = random_batch()
    # Not a random number is taken.
    loss = model.calculate_loss(interaction, Noise())
    history = model.history(interaction)
    h = model.encode(history, Noise())
    expected = model.ranking_loss(h, model.targets(history, interaction), interaction)
    torch.testing.assert_close(loss, expected.sum() / history.length.sum())
    with torch.no_grad():
        scores = model.eval().full_sort_predict(interaction, Noise())
        newest = h[torch.arange(12), history.length - 1]
        cosine = F.cosine_similarity(newest[:, None], model.item_embedding.weight[None], dim=-1)
    torch.testing.assert_close(scores, cosine / 0.07, atol=1e-4, rtol=0)


def test_more_steps_than_a_chain_holds_are_refused() -> None:
    with pytest.raises(UserError, match=r"^inference_steps must be from 1 to 10000, got 10001$"):
        make(inference_steps=10_001)


def test_padding_is_never_trained() -> None:
    model = make()
    model.calculate_loss(random_batch()).backward()
    assert not model.item_embedding.weight.grad[0].any()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"loss_type": "BPR"}, "loss_type must be CE, as RFMRec trains every place, got 'BPR'"),
        ({"hidden_size": 20, "n_heads": 4}, "hidden_size must be a multiple of 2 n_heads=8, got 20"),
        ({"velocity_weight": -1.0}, "velocity_weight must be at least 0, got -1.0"),
        ({"guidance_scale": 1.0}, "guidance_scale must be 0, as RFMRec has no unconditional form, got 1.0"),
    ],
)
def test_impossible_settings_are_named(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingError) as error:
        RFMRec.check_settings(settings("RFMRec", **changes))
    assert str(error.value) == named
