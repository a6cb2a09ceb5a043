"""DreamRec against numbers recorded from the authors' code (dropout off, every random number recorded).

`pytest tests/model/test_dreamrec_parity.py --golden=PATH` checks another recording of that layout, or a folder of them.
The model runs in double and is compared with what was recorded in double, where that was.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import read
from recordings import DoubleFirst, close, parametrize, single_steps
from stand_in import Catalogue, settings

from recbole_diffusion.diffusion import samplers
from recbole_diffusion.diffusion.noise import GivenNoise
from recbole_diffusion.diffusion.process import GaussianProcess
from recbole_diffusion.diffusion.samplers import chain_coefficients
from recbole_diffusion.diffusion.schedules import raw_betas
from recbole_diffusion.model import dreamrec
from recbole_diffusion.model.dreamrec import DreamRec
from recbole_diffusion.model.preferdiff import strided_steps

SCHEDULES = {"linear": "linear_raw", "exp": "exp", "cosine": "cosine_clip", "sqrt": "sqrt"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, "config/diffuser")
    parametrize(metafunc, "at/10", "schedules")


def ours(items: np.ndarray, padding: int) -> torch.Tensor:
    """Their ids, 0 to V - 1 and V for padding, as ours: 1 to V and 0."""
    return torch.tensor(np.where(items == padding, 0, items + 1))


class Recording(DoubleFirst):
    """One recorded run, its weights loaded into our model."""

    @cached_property
    def padding(self) -> int:
        return int(self.size["padding_index"])

    @cached_property
    def table(self) -> list[int]:
        """Rows of their embeddings in the order of ours."""
        return [self.padding, *range(self.padding)]

    @property
    def interaction(self) -> dict[str, torch.Tensor]:
        return {
            "item_id_list": ours(self.data["input/sequence"], self.padding),
            "item_length": torch.tensor(self.data["input/length"]),
            "item_id": ours(self.data["input/target"], self.padding),
        }

    def model(self, **changes: Any) -> DreamRec:
        size = self.size
        values = {
            "hidden_size": int(size["hidden_size"]),
            "MAX_ITEM_LIST_LENGTH": int(size["length"]),
            "denoiser": str(size["diffuser"]),
            "diffusion_steps": int(size["timesteps"]),
            "noise_schedule": SCHEDULES[str(size["schedule"])],
            "guidance_drop": float(size["p"]),
            "guidance_scale": float(size["w"]),
            "inference_steps": int(size["timesteps"]),
            "reverse_sampler": "ddpm",
            "distance": str(size.get("loss_type", "l2")),
        }
        model = DreamRec(settings("DreamRec", **{**values, **changes}), Catalogue(self.padding + 1)).double()
        weights = {name: self.tensor(key) for name, key in self.weight_names().items() if key in self}
        weights["item_embedding.weight"] = weights["item_embedding.weight"][self.table]
        loaded = {name: weights[name].view(value.shape) for name, value in model.named_parameters()}
        model.load_state_dict(loaded, strict=False)
        use_recorded_marginals(self, model.process)
        return model.eval()

    @staticmethod
    def weight_names() -> dict[str, str]:
        """Our names of parameters, and where theirs stand."""
        names = {
            "item_embedding.weight": "item_embeddings.weight",
            "position_embedding.weight": "positional_embeddings.weight",
            "no_history": "none_embedding.weight",
        }
        block = {
            "attention_norm": "ln_1",
            "feed_forward_norm": "ln_2",
            "output_norm": "ln_3",
            "inner_norm": "feed_forward.layer_norm",
            "expand": "feed_forward.w_1",
            "contract": "feed_forward.w_2",
            **{f"attention.{part}": f"mh_attn.linear_{part[0]}" for part in ("query", "key", "value")},
        }
        linear = {
            **{f"encoder.blocks.0.{name}": theirs for name, theirs in block.items()},
            "step_mlp.expand": "step_mlp.1",
            "step_mlp.contract": "step_mlp.3",
            "mix": "diffuser.0",
            "output.1": "diffuser.2",
        }
        parts = ("weight", "bias")
        names |= {f"{name}.{part}": f"{theirs}.{part}" for name, theirs in linear.items() for part in parts}
        # A bias of the keys has no effect, and ours has none.
        del names["encoder.blocks.0.attention.key.bias"]
        return {name: f"weights/{theirs}" for name, theirs in names.items()}

    @property
    def training_noise(self) -> GivenNoise:
        names = {"timestep": "t", "x_t": "noise", "guidance_drop": "uniform_for_null"}
        values = {name: self.tensor(f"forward/{key}") for name, key in names.items()}
        return GivenNoise({**values, "guidance_drop": values["guidance_drop"][:, None]})

    def reverse_noise(self, chain: str) -> GivenNoise:
        values: dict[Any, torch.Tensor] = {"x_T": self.tensor(f"reverse/{chain}/x_T")}
        for index, noise in enumerate(self.tensor(f"reverse/{chain}/noise")):
            values["reverse", int(self.size["timesteps"]) - 1 - index] = noise
        return GivenNoise(values)


@pytest.fixture(scope="module")
def recording(request: pytest.FixtureRequest) -> Recording:
    return Recording(request.param)


@pytest.fixture(scope="module")
def schedules(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    return read(request.param)


def coefficients(process: GaussianProcess) -> Iterator[tuple[str, torch.Tensor]]:
    """Everything recorded of a schedule, by its name there."""
    alphas, abar, steps = 1 - process.betas, process.abar, single_steps(process)
    yield from {
        "betas": process.betas,
        "abar": abar,
        "alphas": alphas,
        "alphas_cumprod": abar,
        "alphas_cumprod_prev": torch.cat([abar.new_ones(1), abar[:-1]]),
        "sqrt_recip_alphas": alphas.rsqrt(),
        "sqrt_alphas_cumprod": abar.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - abar).sqrt(),
        "sqrt_recip_alphas_cumprod": abar.rsqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / abar - 1).sqrt(),
        "posterior_mean_coef1": steps.c1,
        "posterior_mean_coef2": steps.c2,
        "posterior_variance": steps.variance,
    }.items()


def ddim_coefficients(process: GaussianProcess, stride: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Everything recorded of PreferDiff's DDIM, by its name there and in its order, the last step first."""
    steps = strided_steps(process.diffusion_steps, stride)
    chain, abar = chain_coefficients(process, steps, "ddim"), process.abar[steps].flip(0)
    yield from {
        "alphas_cumprod_ddim": abar,
        "alphas_cumprod_ddim_prev": torch.cat([abar.new_ones(1), abar[:-1]]),
        "sqrt_recipm1_alphas_cumprod_ddim": (1 / abar - 1).sqrt(),
        "posterior_ddim_coef1": chain.a.flip(0),
        "posterior_ddim_coef2": chain.b.flip(0),
    }.items()


@pytest.mark.parametrize("steps", [10, 100, 1000, 2000])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_and_every_coefficient(schedules: dict[str, np.ndarray], schedule: str, steps: int) -> None:
    """To 1e-12 in float64. What was recorded in float32 alone was computed in it, and 1 - beta loses beta's digits."""
    if f"at/{steps}" not in schedules:
        pytest.skip("not recorded")
    process, at = GaussianProcess(raw_betas(SCHEDULES[schedule], steps)), schedules[f"at/{steps}"]
    values = [*coefficients(process), *ddim_coefficients(process, int(schedules[f"ddim_step/{steps}"]))]
    exact = 0
    for name, value in values:
        for root, tolerance in (("float64/", 1e-12), ("", 2e-3)):
            recorded = schedules.get(f"{root}{schedule}/{steps}/{name}")
            if recorded is not None:
                value = value if len(recorded) == len(value) else value[at]
                np.testing.assert_allclose(value, recorded, rtol=tolerance, atol=min(tolerance, 1e-6))
                exact += root == "float64/"
                break
    assert exact >= 7


def compare_schedule(recording: DoubleFirst, name: str, value: torch.Tensor, process: GaussianProcess) -> None:
    """In float32 1 - abar has 24 bits after the point, and what is divided by it has no more digits than it."""
    lost = 2.0**-23 / (1 - process.abar[: len(value)].numpy()).min() if name.startswith("posterior") else 0.0
    recording.compare(value, f"schedule/{name}", 1e-12, max(1e-6, lost) * max(1.0, float(value.max())))


def test_recorded_schedule(recording: Recording) -> None:
    process = recording.model().process
    for name, value in coefficients(process):
        compare_schedule(recording, name, value, process)


def test_condition_x_t_output_loss_and_gradients(recording: Recording) -> None:
    model = recording.model()
    read: dict[str, torch.Tensor] = {}
    model.encoder.register_forward_hook(lambda module, inputs, output: read.update(encoded=output))
    model.mix.weight.retain_grad()
    steps: list[Any] = []
    losses = model.losses
    model.losses = lambda step: steps.append(step) or losses(step)
    loss = model.calculate_loss(recording.interaction, recording.training_noise)
    step = steps[0]
    recording.compare(read["encoded"], "forward/encoded", 1e-5)
    if "forward/condition" in recording:
        recording_of = "float64/forward/condition" if "float64/forward/condition" in recording else "forward/condition"
        close(step.condition, model._read(recording.tensor(recording_of)).detach(), 1e-5)
    recording.compare(step.x_0, "forward/x0", 1e-6)
    recording.compare(step.x_t, "forward/x_t", 1e-6)
    recording.compare(step.x0_hat, "forward/x0_hat", 1e-5)
    recording.compare(loss, "forward/loss", 1e-5)
    loss.backward()
    gradients = dict(model.named_parameters())
    theirs_of = {key.removeprefix("weights/"): name for name, key in recording.weight_names().items()}
    compared = 0
    for key in [key for key in recording.data if key.startswith("forward/grad/")]:
        theirs = key.removeprefix("forward/grad/")
        name = theirs_of.get(theirs) or theirs_of[f"{theirs}.weight"]
        gradient = gradients[name].grad
        if name == "item_embedding.weight":
            gradient = gradient[np.argsort(recording.table)]
        recording.compare(gradient.view(recording.data[key].shape), key, 1e-5)
        compared += 1
    assert compared or not any("/grad/" in key for key in recording.data)


@pytest.mark.parametrize(("distance", "key"), [("l1", "forward/loss_l1"), ("huber", "forward/loss_huber")])
def test_other_distances(recording: Recording, distance: str, key: str) -> None:
    loss = recording.model(distance=distance).calculate_loss(recording.interaction, recording.training_noise)
    recording.compare(loss, key, 1e-5)


@torch.no_grad()
def test_an_empty_history(recording: Recording) -> None:
    model = recording.model()
    read: list[torch.Tensor] = []
    model.encoder.register_forward_hook(lambda module, inputs, output: read.append(output))
    empty = {"item_id_list": torch.zeros(2, int(recording.size["length"]), dtype=torch.int64)}
    history = model.history(empty | {"item_length": torch.tensor([1, 1])})
    model.encode(history, GivenNoise({}))
    recording.compare(read[0][0], "forward/condition_of_empty_history", 1e-5)


def use_recorded_marginals(recording: DoubleFirst, process: GaussianProcess) -> None:
    """Noise as a run did that was recorded in float32 alone: by its own coefficients."""
    names = [f"schedule/{name}" for name in ("sqrt_alphas_cumprod", "sqrt_one_minus_alphas_cumprod")]
    if "float64/forward/x_t" not in recording and all(name in recording for name in names):
        marginal = torch.stack([recording.tensor(name) for name in names])
        process._marginal._copies[torch.device("cpu"), torch.float64] = marginal


def use_recorded_steps(recording: DoubleFirst, at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step as a chain does that was recorded in float32 alone: by its own coefficients.

    There 1 - abar has lost digits: the first c1 of `linear` is 0.999834, where it is 1.
    """
    if f"float64/{at}/x" in recording or "schedule/posterior_variance" not in recording:
        return
    names = ("posterior_mean_coef1", "posterior_mean_coef2", "posterior_variance")
    c1, c2, variance = (recording.tensor(f"schedule/{name}").flip(0) for name in names)
    # The last step adds nothing, whatever is recorded as its variance.
    spread = variance.sqrt() * (torch.arange(len(variance)) < len(variance) - 1)
    monkeypatch.setattr(samplers, "chain_coefficients", lambda *_, **__: samplers.ChainCoefficients(c1, c2, spread))
    monkeypatch.setattr(dreamrec, "chain_coefficients", samplers.chain_coefficients)


@pytest.mark.parametrize("chain", ["w", "w0"])
@torch.no_grad()
def test_reverse_chain_and_scores(recording: Recording, chain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at = f"reverse/{chain}"
    if f"{at}/x_T" not in recording:
        pytest.skip("no such chain is recorded")
    use_recorded_steps(recording, at, monkeypatch)
    scale = float(recording.data[f"{at}/guidance"])
    model, noise = recording.model(guidance_scale=scale), recording.reverse_noise(chain)
    steps = model.sample(model.history(recording.interaction), noise).steps
    assert [step.timestep for step in steps] == list(range(int(recording.size["timesteps"])))[::-1]
    recording.compare(torch.stack([step.x0_hat for step in steps]), f"{at}/x0_hat", 1e-4)
    recording.compare(torch.stack([step.x for step in steps]), f"{at}/x", 1e-4)
    recording.compare(steps[-1].x, f"{at}/x_0", 1e-4)
    scores = model.full_sort_predict(recording.interaction, noise=noise)
    # Theirs have the padding behind the items, as one of the candidates.
    recording.compare(scores[:, np.argsort(recording.table)], f"{at}/scores", 1e-4)
    if str(recording.size["diffuser"]) == "mlp1":
        folded = recording.model(guidance_scale=scale, fold_chain=True)
        close(folded.full_sort_predict(recording.interaction, noise=noise), scores.numpy(), 1e-9)
