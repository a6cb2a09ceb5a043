from __future__ import annotations

from typing import Any

import pytest
import torch
from stand_in import Catalogue, batch, settings

from recbole_diffusion.errors import SettingError
from recbole_diffusion.model.dreamrec import DreamRec

HISTORIES = [[1, 2, 3, 4, 5], [7], [3, 3, 9, 30], [5, 1]]
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "guidance_drop": 0.0}


def make(**changes: Any) -> DreamRec:
    torch.manual_seed(0)
    return DreamRec(settings("DreamRec", **{"inference_steps": 16, **changes}), Catalogue(40)).eval()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reverse_sampler": "ddpm"},
        {"reverse_sampler": "ddpm", "reverse_variance": "beta", "inference_steps": 5},
        {"ddim_eta": 0.5, "noise_scale": 0.3},
        {"guidance_scale": 0.0, "inference_steps": 1},
        {"inference_seeds": 3, "guidance_scale": 6.0},
    ],
)
@torch.no_grad()
def test_a_folded_chain_gives_the_same_scores(changes: dict[str, Any]) -> None:
    interaction = batch(HISTORIES, [1] * 4)
    plain, folded = (make(fold_chain=fold, **changes) for fold in (False, True))
    folded.denoise = None  # the chain is not run
    scores = plain.full_sort_predict(interaction)
    torch.testing.assert_close(folded.full_sort_predict(interaction), scores, rtol=1e-4, atol=1e-4)
    assert scores.std() > 0.1


@torch.no_grad()
def test_switched_off_nothing_is_folded() -> None:
    interaction = batch(HISTORIES, [1] * 4)
    scores = [make(diffusion=False, fold_chain=fold).full_sort_predict(interaction) for fold in (False, True)]
    assert torch.equal(*scores)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"denoiser": "mlp2"}, "fold_chain must be False with denoiser=mlp2, whose chain is not folded, got True"),
        ({"reverse_sampler": "dpmpp_2m"}, "fold_chain must be False with reverse_sampler=dpmpp_2m"),
        ({"prediction_type": "v"}, "fold_chain must be False with prediction_type=v"),
    ],
)
def test_only_an_affine_chain_is_folded(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        make(fold_chain=True, **changes)


@pytest.mark.parametrize("denoiser", ["mlp1", "mlp2"])
@torch.no_grad()
def test_guidance_of_scale_0_is_none_and_another_moves_away_from_no_history(denoiser: str) -> None:
    interaction = batch(HISTORIES, [1] * 4)
    model = make(guidance_scale=0.0, denoiser=denoiser, inference_steps=1)
    history = model.history(interaction)
    noise = model.inference_noise(history)
    with_history = model.sample(history, noise).x_0
    timestep = torch.full((4,), model.timesteps[0])
    x_T, condition = model.sample(history, noise).start, model.encode(history, noise)
    torch.testing.assert_close(with_history, model.denoise(x_T, timestep, condition, noise))
    without = model.denoise(x_T, timestep, model.unconditional(condition).expand_as(condition), noise)
    model.guidance_scale = 2.0
    torch.testing.assert_close(model.sample(history, noise).x_0, 3 * with_history - 2 * without)


@torch.no_grad()
def test_the_step_is_encoded_once_where_all_rows_share_it() -> None:
    model = make()
    condition, x = torch.randn(4, 16), torch.randn(4, 16)
    apart = model.denoise(x, torch.full((4,), 7), condition, model.training_noise())
    encoded: list[int] = []
    model.step_mlp.register_forward_hook(lambda module, inputs, output: encoded.append(len(output)))
    shared = model.denoise(x, torch.tensor(7).expand(4), condition, model.training_noise())
    torch.testing.assert_close(shared, apart)
    assert encoded == [1]


@pytest.mark.parametrize("ce_weight", [0.0, 0.5])
def test_the_loss_is_the_squared_error_and_the_weighted_ranking(ce_weight: float) -> None:
    model = make(ce_weight=ce_weight, **NO_DROPOUT)
    steps: list[Any] = []
    losses = model.losses
    model.losses = lambda step: steps.append(step) or losses(step)
    interaction = batch(HISTORIES, [6, 7, 8, 9])
    loss = model.calculate_loss(interaction)
    x_0, x0_hat = steps[0].x_0, steps[0].x0_hat
    plain = (x_0 - x0_hat).square().mean()
    logits = x0_hat @ model.item_embedding.weight[1:].T
    ranking = torch.nn.functional.cross_entropy(logits, interaction["item_id"] - 1)
    torch.testing.assert_close(loss, plain + ce_weight * ranking)
    # The target is not detached: its embedding is pulled too.
    loss.backward()
    assert model.item_embedding.weight.grad[[6, 7, 8, 9]].any(dim=1).all()


def test_a_row_without_its_history_reads_the_trained_vector() -> None:
    model = make(**{**NO_DROPOUT, "guidance_drop": 1.0})
    model.calculate_loss(batch(HISTORIES, [6, 7, 8, 9])).backward()
    assert model.no_history.grad.any()
    assert not model.encoder.blocks[0].attention.value.weight.grad.any()
