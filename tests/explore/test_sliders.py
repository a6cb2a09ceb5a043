from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from saved_models import Saved

from recbole_diffusion.errors import SettingError
from recbole_diffusion.explore.sliders import Chosen, chosen, sliders_of
from recbole_diffusion.inference import Recommender


@pytest.mark.parametrize(
    ("model", "keys"),
    [
        ("DiffuRec", ["inference_steps", "noise_scale", "temperature", "inference_seeds"]),
        ("DreamRec", ["inference_steps", "guidance_scale", "noise_scale", "temperature", "inference_seeds"]),
        # A temperature multiplies normal numbers; PreferGrow draws ids, RFMRec nothing.
        ("PreferGrow", ["inference_steps", "guidance_scale", "inference_seeds"]),
        ("RFMRec", ["inference_steps"]),
        ("SASRec", []),
    ],
)
def test_a_model_has_the_sliders_that_act_on_it(
    loaded: Callable[[str], Recommender], model: str, keys: list[str]
) -> None:
    network = loaded(model).model
    sliders = sliders_of(network)
    assert [slider.key for slider in sliders] == keys
    for slider in sliders:
        assert slider.value in slider.stops and slider.stops == sorted(set(slider.stops)) and len(slider.stops) > 3
        # Each stop is a value that the model takes.
        for stop in slider.stops:
            chosen(network, {slider.key: stop})
    if sliders:
        assert sliders[0].stops[-1] == network.process.longest_chain


def test_no_stop_is_a_chain_that_would_not_end(loaded: Callable[[str], Recommender]) -> None:
    """In continuous time there may be any number of steps."""
    assert sliders_of(loaded("RFMRec").model)[0].stops[-1] == 10_000


def test_without_diffusion_there_are_none(saved: Callable[..., Saved]) -> None:
    assert sliders_of(Recommender.load(saved("DiffuRec", diffusion=False).path, device="cpu").model) == []


def test_settings_go_to_options_and_scales(diffurec: Recommender) -> None:
    given = {"inference_steps": 4.0, "noise_scale": 1, "temperature": 2, "inference_seeds": 3, "seed": 7}
    options = {"inference_steps": 4, "temperature": 2.0, "inference_seeds": 3, "seed": 7, "diversify": True}
    assert chosen(diffurec.model, {**given, "diversify": True}) == Chosen(options, {"noise_scale": 1.0})
    # One noise has nothing to cover.
    assert chosen(diffurec.model, {"diversify": True}).options == {"diversify": False}


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("DiffuRec", {"guidance_scale": 1}, "guidance_scale must be one of inference_steps, noise_scale, temperature"),
        ("DiffuRec", {"hidden_size": 1}, "hidden_size must be one of"),
        ("DiffuRec", {"noise_scale": -1}, "noise_scale must be at least 0, got -1"),
        ("DiffuRec", {"inference_steps": 1.5}, "inference_steps must be a whole number, got 1.5"),
        ("DiffuRec", {"seed": "1"}, "seed must be a finite number, got '1'"),
        ("DiffuRec", {"temperature": float("inf")}, "temperature must be a finite number, got inf"),
        ("RFMRec", {"seed": 1}, "seed must be one of inference_steps, got 1"),
        ("SASRec", {"seed": 1}, "seed must be left out: the model has no settings"),
    ],
)
def test_what_a_model_does_not_take_is_named(
    loaded: Callable[[str], Recommender], model: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingError, match=message):
        chosen(loaded(model).model, settings)
