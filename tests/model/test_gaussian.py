"""What every model with Gaussian noise can add to its loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from stand_in import Catalogue, batch, settings

from recbole_diffusion.diffusion.flow import FlowProcess
from recbole_diffusion.diffusion.noise import GivenNoise
from recbole_diffusion.diffusion.process import Process
from recbole_diffusion.errors import SettingError
from recbole_diffusion.model.dreamrec import DreamRec

INTERACTION = batch([[1, 2, 3], [4], [5, 6]], [7, 8, 9])
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "guidance_drop": 0.0, "inference_steps": 1}


def make(**changes: Any) -> DreamRec:
    torch.manual_seed(0)
    return DreamRec(settings("DreamRec", **{**NO_DROPOUT, **changes}), Catalogue(40)).double()


def numbers(timestep: list[int]) -> GivenNoise:
    generator = torch.Generator().manual_seed(1)
    values = {"timestep": torch.tensor(timestep), "x_t": torch.randn(3, 16, generator=generator).double()}
    return GivenNoise(values)


def gradient(loss: torch.Tensor, model: DreamRec) -> list[torch.Tensor | None]:
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))


@pytest.mark.parametrize("changes", [{}, {"noise_scale": 0.3}, {"prediction_type": "v"}])
def test_consistency_is_the_squared_difference_of_neighbouring_steps(changes: dict[str, Any]) -> None:
    """With the same noise; at step 0 there is no earlier one; no gradient reaches the earlier prediction."""
    timestep = [0, 15, 4]
    model = make(consistency_weight=0.7, **changes)
    noise = numbers(timestep)
    loss = model.calculate_loss(INTERACTION, noise)

    plain = make(**changes)
    x_0, condition = plain.item_embedding(INTERACTION["item_id"]), plain.encode(plain.history(INTERACTION), noise)
    predictions = []
    for back in (0, 1):
        at = torch.tensor([max(t - back, 0) for t in timestep])
        x_t = plain.process.sample(x_0, at, noise.values["x_t"])
        predictions.append(plain.to_x_0(plain.denoise(plain.noise_scale * x_t, at, condition, noise), x_t, at))
    later, earlier = predictions
    apart = (later - earlier.detach()).square().mean(dim=1)
    expected = plain.calculate_loss(INTERACTION, noise) + 0.7 * (apart[1] + apart[2]) / 3
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(gradient(loss, model), gradient(expected, plain), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("changes", [{}, {"consistency_weight": 1.0, "diffusion": False}])
def test_without_a_weight_or_a_process_nothing_is_predicted_twice(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    denoise = DreamRec.denoise
    monkeypatch.setattr(DreamRec, "denoise", lambda *given: calls.append(1) or denoise(*given))
    make(**changes).calculate_loss(INTERACTION)
    assert len(calls) == 1


class Flowing(DreamRec):
    def make_process(self, config: Any) -> Process:
        return FlowProcess(0.01)


def test_only_a_gaussian_process_has_neighbouring_steps() -> None:
    config = settings("DreamRec", consistency_weight=1.0, inference_steps=1)
    with pytest.raises(SettingError, match="consistency_weight must be 0, as the process of Flowing is not the Gaussi"):
        Flowing(config, Catalogue(40))
