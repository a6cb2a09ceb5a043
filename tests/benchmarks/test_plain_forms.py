"""Each plain form against its model: with equal weights and random numbers, equal losses, gradients and scores."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from two_forms import with_equal_weights

from benchmarks.plain import PLAIN_FORMS
from benchmarks.plain.parts import PlainForm
from recbole_diffusion.common.setting import table_of
from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.errors import SettingError
from recbole_diffusion.host.registry import PROPERTIES, find_model
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.model.layers import Dropout

PUBLISHED = tuple((PROPERTIES / "model").glob("*-published.yaml"))
ITEMS, LENGTHS, LONGEST, WIDTH = 30, np.array([1, 4, 6, 2, 5]), 6, 16
# Those that a model has of them.
SMALL = {
    "hidden_size": WIDTH,
    "inner_size": 24,
    "n_layers": 2,
    "decoder_layers": 2,
    "n_heads": 2,
    "decoder_depth": 1,
    "decoder_sizes": [8],
    "initializer_range": 0.5,
    "diffusion_steps": 12,
    "noise_schedule": "cosine",
    "inference_steps": 5,
    # So large that x_t and the step count, and no loss hides another.
    "noise_scale": 0.5,
    "step_encoding_scale": 0.5,
    "embedding_noise": 0.1,
    "rounding_weight": 1.0,
    "zeros_ratio": 1.5,
    "bridge_variance": 2.0,
    "velocity_weight": 2.0,
}
VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "DiffuRec": (
        {"reverse_variance": "beta", "step_sampler": "lossaware"},
        {"diffusion_steps": 32, "noise_schedule": "trunc_lin", "inference_steps": 32},
    ),
    "DiffRec": ({"reverse_sampler": "ddim", "similarity_temperature": 0.5},),
    "FMRec": ({"decoder_weight": 0.0},),
    "DreamRec": ({"denoiser": "mlp2", "ce_weight": 0.5, "reverse_sampler": "ddpm"}, {"fold_chain": True}),
    "PreferDiff": ({"ddim_stride": 3, "distance": "l2", "ce_weight": 0.5},),
    "PreferGrow": ({"prior": "point"}, {"prior": "hybrid", "hybrid_share": 0.9}),
    "ADRec": ({"reverse_variance": "beta", "mse_weight": 3.0},),
}
CASES = [(name, changes) for name in PLAIN_FORMS for changes in ({}, *VARIANTS.get(name, ()))]
every_form = pytest.mark.parametrize(("name", "changes"), CASES, ids=[f"{name}-{len(more)}" for name, more in CASES])


class NamedNoise(Noise):
    """Numbers that depend on name, step and shape alone, so that both forms are given the same."""

    def __init__(self, step: int = 0) -> None:
        self.step = step

    def at(self, step: int) -> Noise:
        return NamedNoise(step)

    def normal(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        seed = zlib.crc32(f"{name},{self.step}".encode())
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def both(name: str, **changes: Any) -> tuple[Any, Any, Any]:
    model = find_model(name)
    table = table_of(model)
    small = {key: value for key, value in SMALL.items() if key in table}
    settings = {**small, "MAX_ITEM_LIST_LENGTH": LONGEST, "gpu_id": "", **changes}
    torch.manual_seed(1)
    return with_equal_weights((model, PLAIN_FORMS[name]), settings, ITEMS, LENGTHS)


def uneven(x: torch.Tensor, probability: float) -> torch.Tensor:
    """In place of dropout: the larger the probability the more, and a LayerNorm does not undo it."""
    return x * (1 + probability * torch.linspace(-1, 1, x.shape[-1]) ** 2)


@every_form
def test_losses_gradients_and_places_of_dropout_are_equal(
    name: str, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dropout, "forward", lambda self, x: uneven(x, self.probability))
    monkeypatch.setattr(PlainForm, "dropped", lambda self, x, probability: uneven(x, probability))
    chances = {"hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.4, "embedding_dropout_prob": 0.7}
    table = table_of(find_model(name))
    here, plain, batch = both(name, **{key: p for key, p in chances.items() if key in table}, **changes)
    losses = [model.train().calculate_loss(batch, NamedNoise()) for model in (here, plain)]
    torch.testing.assert_close(losses[1], losses[0])
    for loss in losses:
        loss.backward()
    trained = 0
    for (key, parameter), other in zip(here.named_parameters(), plain.parameters(), strict=True):
        if parameter.grad is None:
            assert other.grad is None, key
            continue
        torch.testing.assert_close(
            other.grad, parameter.grad, atol=1e-6, rtol=1e-4, msg=lambda m, key=key: f"{key}: {m}"
        )
        trained += 1
    assert trained > 5
    # What a step sampler learns.
    for key, value in here.state_dict().items():
        torch.testing.assert_close(plain.state_dict()[key], value, atol=1e-5, rtol=1e-5, msg=key)


@pytest.fixture
def double() -> Iterator[None]:
    """In double, where the order of a sum hardly counts: in single, processors differ by what a chain makes of it."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@every_form
def test_scores_are_equal_after_the_whole_chain(name: str, changes: dict[str, Any], double: None) -> None:
    here, plain, batch = both(name, **changes)
    assert plain.timesteps == here.timesteps and len(here.timesteps) > 4
    with torch.no_grad():
        scores = [model.eval().full_sort_predict(batch, NamedNoise()) for model in (here, plain)]
    assert scores[0].std(dim=0)[1:].min() > 1e-3, "a score must depend on the history"
    assert scores[0].dtype == torch.float64
    torch.testing.assert_close(scores[1][:, 1:], scores[0][:, 1:], atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("name", PLAIN_FORMS)
def test_padding_changes_no_score(name: str) -> None:
    """RecBole's batches are padded to the full length, ours to the longest history."""
    # λ is drawn for each place of a batch.
    changes = {"noise_scale": 0.0} if name in ("DiffuRec", "FMRec") else {}
    here, plain, batch = both(name, MAX_ITEM_LIST_LENGTH=LONGEST + 3, **changes)
    padded = {**batch.interaction, plain.ITEM_SEQ: F.pad(batch[plain.ITEM_SEQ], (0, 3))}
    with torch.no_grad():
        pairs = ((here, batch), (plain, padded))
        scores = [model.eval().full_sort_predict(rows, NamedNoise()) for model, rows in pairs]
    torch.testing.assert_close(scores[1][:, 1:], scores[0][:, 1:], atol=1e-5, rtol=1e-5)


def test_settings_that_a_plain_form_has_not_are_refused() -> None:
    for name, key, value in [
        ("PreferDiff", "objective", "sdpo"),
        ("ADRec", "decoder", "mlp"),
        ("DiffuRec", "loss_type", "BPR"),
    ]:
        with pytest.raises(SettingError, match=f"{key}.*plain form"):
            both(name, **{key: value})


@pytest.mark.parametrize("name", sorted(file.stem.removesuffix("-published") for file in PUBLISHED))
def test_published_settings_have_a_plain_form(name: str) -> None:
    form = PLAIN_FORMS[name]
    mask = {"attention_mask": "keys"} if "attention_mask" in table_of(form) else {}
    config = load_config(form, "made-up", [f"{PROPERTIES}/model/{name}-published.yaml"], {**mask, "gpu_id": ""})
    form.check_settings(config)
