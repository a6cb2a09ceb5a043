"""What may be changed of a trained model from answer to answer, and where its slider stops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ..common.setting import table_of
from ..errors import SettingError
from ..host.parsing import LARGEST
from ..model.base import DiffusionRecommender

# What the trained model's scale of the noise is multiplied by, as far as 1 or ten times itself.
FACTORS = (0, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000)
GUIDANCE = (0, 0.5, 1, 1.5, 2, 3, 4, 5, 7, 10)
SEEDS = (1, 2, 4, 8, 16, 32, 64)
TEMPERATURES = (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3, 5)
# Up to here each number of steps has a stop.
SINGLE_STEPS = 16
# Attributes of the model by these names, which it reads anew for each answer.
SCALES = ("guidance_scale", "noise_scale")


class Slider(NamedTuple):
    """A setting with the values at which its slider stops, in order.

    key : str
        As the flag of `recommend` has it.
    title, about : str
    stops : list of float
    value : float
        The trained model's, one of the stops.
    """

    key: str
    title: str
    about: str
    stops: list[float]
    value: float


def sliders_of(model: Any) -> list[Slider]:
    """The sliders of a model: none without a reverse process."""
    if not isinstance(model, DiffusionRecommender) or not model.use_diffusion:
        return []
    longest = model.process.longest_chain
    table = table_of(type(model))
    made = []
    if longest > 1:
        steps = [*range(1, min(longest, SINGLE_STEPS) + 1), *(2**power for power in range(5, 30) if 2**power < longest)]
        made.append(_slider("inference_steps", "Steps", "reverse steps", [*steps, longest], len(model.timesteps)))
    # Without guidance_drop the placeholder that guidance moves away from is not trained.
    if model.guidance_drop:
        about = "weight of the answer with the history over the one without; 0: no guidance"
        made.append(_slider("guidance_scale", "Guidance scale", about, GUIDANCE, model.guidance_scale))
    if "noise_scale" in table:
        base = model.noise_scale or 1.0
        stops = [base * factor for factor in FACTORS if base * factor <= max(1.0, 10 * base)]
        made.append(_slider("noise_scale", "Noise scale", "what x_t is multiplied by", stops, model.noise_scale))
    if model.process.draws == "normal":
        about = "multiplies the start x_T and the noise of the steps; 0: no noise"
        made.append(_slider("temperature", "Temperature", about, TEMPERATURES, 1.0))
    if model.process.draws:
        about = "noises whose answers are averaged; two or more say how sure the model is"
        made.append(_slider("inference_seeds", "Noises", about, SEEDS, model.inference_seeds))
    return made


def _slider(key: str, title: str, about: str, stops: Any, value: float) -> Slider:
    # Short decimals: 0.1 times 0.001 is not quite 0.0001.
    return Slider(key, title, about, sorted({float(f"{stop:.6g}") for stop in (*stops, value)}), value)


class Chosen(NamedTuple):
    """What a request says of a model: options of `recommender.Options`, and settings of `sampling.with_settings`."""

    options: dict[str, Any]
    scales: dict[str, float]


def chosen(model: Any, settings: Mapping[str, Any]) -> Chosen:
    """Read a model's settings of a request: those of its sliders, `seed` and `diversify`.

    Raises
    ------
    SettingError
        For a key that the model does not have, and a value that it cannot take.
    """
    keys = [slider.key for slider in sliders_of(model)]
    known = [*keys, "seed", "diversify"] if "inference_seeds" in keys else keys
    options: dict[str, Any] = {}
    scales: dict[str, float] = {}
    for key, value in settings.items():
        if key not in known:
            must = f"be one of {', '.join(known)}" if known else "be left out: the model has no settings"
            raise SettingError(key, value, must=must)
        if key == "diversify":
            options[key] = bool(value)
            continue
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < LARGEST:
            raise SettingError(key, value, must="be a finite number")
        if key in SCALES:
            table_of(type(model))[key].check(key, value)
            scales[key] = float(value)
        elif key == "temperature":
            options[key] = float(value)
        elif value != int(value):
            raise SettingError(key, value, must="be a whole number")
        else:
            options[key] = int(value)
    # One noise covers nothing.
    seeds = options.get("inference_seeds", getattr(model, "inference_seeds", 1))
    options["diversify"] = options.get("diversify", False) and seeds >= 2
    return Chosen(options, scales)
