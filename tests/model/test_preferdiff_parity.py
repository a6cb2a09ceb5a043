"""PreferDiff against numbers recorded from the authors' code (dropout off, every random number recorded).

`pytest tests/model/test_preferdiff_parity.py --golden=PATH` checks another recording of that layout, or a folder of
them. The model runs in double and is compared with what was recorded in double, where that was.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from recordings import DoubleFirst, close, parametrize
from stand_in import Catalogue, settings
from test_dreamrec_parity import (
    SCHEDULES,
    coefficients,
    compare_schedule,
    ddim_coefficients,
    use_recorded_marginals,
    use_recorded_steps,
)

from recbole_diffusion.diffusion.noise import GivenNoise
from recbole_diffusion.model.base import TrainingStep
from recbole_diffusion.model.losses import distances
from recbole_diffusion.model.preferdiff import PreferDiff

CHAINS = [f"{sampler}/{scale}" for sampler in ("ddim", "ddpm") for scale in ("w", "w0")]
# What each of the recorded runs with one thing changed has changed.
OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"distance": name} for name in ("l1", "l2", "huber", "cosine")},
    "lamda1": {"reconstruction_weight": 1.0},
    "lamda0": {"reconstruction_weight": 0.0},
    "cosine_gamma1_lamda0.6": {"distance": "cosine", "preference_scale": 1.0, "reconstruction_weight": 0.6},
    "l2_gamma1_lamda0.6": {"distance": "l2", "preference_scale": 1.0, "reconstruction_weight": 0.6},
    "negh": {"objective": "negh"},
    "neg_sample": {"objective": "neg_sample"},
    "sampled_negatives": {},
    "sdpo": {"objective": "sdpo", "distance": "l2"},
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, "config/lamda")


class Recording(DoubleFirst):
    """One recorded run, its weights loaded into our model."""

    @property
    def interaction(self) -> dict[str, torch.Tensor]:
        return {
            "item_id_list": torch.tensor(self.data["input/sequence"]),
            "item_length": torch.tensor(self.data["input/length"]),
            "item_id": torch.tensor(self.data["input/target"]),
        }

    def model(self, **changes: Any) -> PreferDiff:
        size = self.size
        distance = str(size["loss_type"])
        objective = "sdpo" if distance == "sdpo" else str(size["mode"])
        values = {
            "hidden_size": int(size["hidden_size"]),
            "n_layers": int(size["layer_num"]),
            "n_heads": int(size["num_heads"]),
            "MAX_ITEM_LIST_LENGTH": int(size["max_seq_length"]),
            "diffusion_steps": int(size["timesteps"]),
            "noise_schedule": SCHEDULES[str(size["beta_sche"])],
            "guidance_drop": float(size["p"]),
            "guidance_scale": float(size["w"]),
            "inference_steps": int(size["timesteps"]),
            "ddim_stride": int(size["ddim_step"]),
            "distance": "l2" if objective == "sdpo" else distance,
            "objective": objective,
            "reconstruction_weight": float(size["lamda"]),
            "preference_scale": float(size["gamma"]),
            "negatives": int(size["neg_samples"]) if str(size["sample_func"]) == "random" else None,
        }
        items = len(self.data["weights/item_embeddings.weight"])
        model = PreferDiff(
            settings("PreferDiff", parents=("DreamRec",), **{**values, **changes}), Catalogue(items)
        ).double()
        weights = {name: self.tensor(key) for name, key in self.weight_names().items()}
        loaded = {name: weights[name].view(value.shape) for name, value in model.named_parameters()}
        model.load_state_dict(loaded, strict=False)
        use_recorded_marginals(self, model.process)
        return model.eval()

    def weight_names(self) -> dict[str, str]:
        """Our names of parameters, and where theirs stand."""
        names = {
            "item_embedding.weight": "item_embeddings.weight",
            "position_embedding.weight": "positional_embeddings.weight",
            "no_history": "none_embedding.weight",
        }
        linear = {"step_mlp.expand": "step_nn.1", "step_mlp.contract": "step_nn.3", "mix": "denoise_nn.0"}
        for index in range(int(self.size["layer_num"])):
            block = {
                "attention_norm": "ln_1",
                "feed_forward_norm": "ln_2",
                "output_norm": "ln_3",
                "inner_norm": "feed_forward.layer_norm",
                "expand": "feed_forward.w_1",
                "contract": "feed_forward.w_2",
                **{f"attention.{part}": f"mh_attn.linear_{part[0]}" for part in ("query", "key", "value")},
            }
            linear |= {f"encoder.blocks.{index}.{name}": f"layers.{index}.{theirs}" for name, theirs in block.items()}
        parts = ("weight", "bias")
        names |= {f"{name}.{part}": f"{theirs}.{part}" for name, theirs in linear.items() for part in parts}
        return {name: f"weights/{theirs}" for name, theirs in names.items()}

    def training_noise(self, at: str = "forward") -> GivenNoise:
        """The numbers that the run under the key `at` drew."""
        names = {
            "timestep": "t",
            "x_t": "noise",
            "x_t_negative": "noise_negative",
            "guidance_drop": "uniform_for_null",
            "other_history": "other_condition_row",
        }
        values = {name: self.tensor(f"{at}/{key}") for name, key in names.items() if f"{at}/{key}" in self}
        values["guidance_drop"] = values["guidance_drop"][:, None]
        if f"{at}/columns" in self:
            columns = self.tensor(f"{at}/columns")
            chances = torch.zeros(len(columns), len(columns) - 1)
            values["negatives"] = chances.scatter(1, columns, 1.0)
        return GivenNoise(values)

    def reverse_noise(self, chain: str) -> GivenNoise:
        values: dict[Any, torch.Tensor] = {"x_T": self.tensor(f"reverse/{chain}/x_T")}
        if f"reverse/{chain}/noise" in self:
            for index, noise in enumerate(self.tensor(f"reverse/{chain}/noise")):
                values["reverse", int(self.size["timesteps"]) - 1 - index] = noise
        return GivenNoise(values)


@pytest.fixture(scope="module")
def recording(request: pytest.FixtureRequest) -> Recording:
    return Recording(request.param)


def watched(model: PreferDiff) -> dict[str, Any]:
    """What the loss of a model sees and makes, filled when it is computed."""
    seen: dict[str, Any] = {}
    losses, centroid = model.losses, model.centroid

    def record(name: str, value: Any) -> Any:
        seen[name] = value
        return value

    model.losses = lambda step: losses(record("step", step))
    model.centroid = lambda step: record("negative", centroid(step))
    model.encoder.register_forward_hook(lambda module, inputs, output: seen.update(encoded=output))
    return seen


def test_recorded_schedule(recording: Recording) -> None:
    process = recording.model().process
    values = [*coefficients(process), *ddim_coefficients(process, int(recording.size["ddim_step"]))]
    for name, value in values:
        compare_schedule(recording, name, value, process)


def test_condition_x_t_outputs_losses_and_gradients(recording: Recording) -> None:
    model = recording.model()
    seen, noise = watched(model), recording.training_noise()
    loss = model.calculate_loss(recording.interaction, noise)
    step: TrainingStep = seen["step"]
    recording.compare(seen["encoded"], "forward/encoded", 1e-5)
    root = "float64/" if "float64/forward/condition" in recording else ""
    if f"{root}forward/condition" in recording:
        close(step.condition, model._read(recording.tensor(f"{root}forward/condition")).detach(), 1e-5)
    recording.compare(step.x_0, "forward/x0", 1e-6)
    recording.compare(step.x_t, "forward/x_t", 1e-6)
    recording.compare(step.x0_hat, "forward/x0_hat", 1e-5)
    if "negative" in seen:
        x_0, x0_hat = seen["negative"]
        recording.compare(x_0, "forward/x0_negative", 1e-6)
        recording.compare(x0_hat, "forward/x0_hat_negative", 1e-5)
        x_t = model.process.sample(x_0, step.timestep, noise.values["x_t_negative"])
        recording.compare(x_t, "forward/x_t_negative", 1e-6)
    if "forward/x0_hat_other_condition" in recording:
        other = step.condition[noise.values["other_history"]]
        recording.compare(model.denoise(step.x_t, step.timestep, other, noise), "forward/x0_hat_other_condition", 1e-5)
    compare_losses(recording, "forward", loss, model, seen)
    loss.backward()
    compare_gradients(recording, "forward", model)


def compare_losses(recording: Recording, at: str, loss: torch.Tensor, model: PreferDiff, seen: dict[str, Any]) -> None:
    """The loss and its two terms: how far the target, and the preference or the centroid's distance."""
    recording.compare(loss, f"{at}/loss", 1e-5)
    if "negative" in seen:
        step = seen["step"]
        positive = distances(step.x_0, step.x0_hat, model.distance).mean()
        negative = distances(*seen["negative"], model.distance).mean()
        recording.compare(positive, f"{at}/loss_positive", 1e-5)
        recording.compare(negative, f"{at}/loss_negative", 1e-5)


def compare_gradients(recording: Recording, at: str, model: PreferDiff) -> None:
    ours = {key.removeprefix("weights/"): name for name, key in recording.weight_names().items()}
    gradients = dict(model.named_parameters())
    for key in [key for key in recording.data if key.startswith(f"{at}/grad/")]:
        theirs = key.removeprefix(f"{at}/grad/")
        gradient = gradients[ours.get(theirs) or ours[f"{theirs}.weight"]].grad
        recording.compare(gradient.view(recording.data[key].shape), key, 1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_other_losses(recording: Recording, name: str) -> None:
    at = f"options/{name}"
    if f"{at}/loss" not in recording:
        pytest.skip("not recorded")
    changes = dict(OPTIONS[name])
    if name == "sampled_negatives":
        changes["negatives"] = recording.data[f"{at}/columns"].shape[1]
    model = recording.model(**changes)
    seen = watched(model)
    noise = recording.training_noise(at if f"{at}/t" in recording else "forward")
    loss = model.calculate_loss(recording.interaction, noise)
    compare_losses(recording, at, loss, model, seen)
    loss.backward()
    compare_gradients(recording, at, model)


@pytest.mark.parametrize("chain", CHAINS)
@torch.no_grad()
def test_reverse_chain_and_scores(recording: Recording, chain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at = f"reverse/{chain}"
    if f"{at}/x_T" not in recording:
        pytest.skip("no such chain is recorded")
    changes: dict[str, Any] = {"guidance_scale": float(recording.data[f"{at}/guidance"])}
    if chain.startswith("ddpm"):
        changes |= {"reverse_sampler": "ddpm", "ddim_stride": None}
        use_recorded_steps(recording, at, monkeypatch)
    model, noise = recording.model(**changes), recording.reverse_noise(chain)
    given: list[int] = []
    denoise = model.denoise
    model.denoise = lambda x_t, timestep, *rest: given.append(int(timestep[0])) or denoise(x_t, timestep, *rest)
    made = model.sample(model.history(recording.interaction), noise).steps
    if f"{at}/t_told" in recording:
        passes = 2 if model.guidance_scale else 1
        np.testing.assert_array_equal(given[::passes], recording.data[f"{at}/t_told"])
    recording.compare(torch.stack([step.x0_hat for step in made]), f"{at}/x0_hat", 1e-4)
    recording.compare(torch.stack([step.x for step in made]), f"{at}/x", 1e-4)
    recording.compare(made[-1].x, f"{at}/x_0", 1e-4)
    scores = model.full_sort_predict(recording.interaction, noise=noise)
    recording.compare(scores, f"{at}/scores", 1e-4)
    folded = recording.model(fold_chain=True, **changes)
    close(folded.full_sort_predict(recording.interaction, noise=noise), scores.numpy(), 1e-9)
    if f"{at}/top5" in recording:
        np.testing.assert_array_equal(scores[:, 1:].topk(5).indices + 1, recording.data[f"{at}/top5"])
