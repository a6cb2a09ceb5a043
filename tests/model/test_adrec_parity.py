"""ADRec against numbers recorded from the authors' code (dropout off, every random number recorded).

`pytest tests/model/test_adrec_parity.py --golden=PATH` checks another recording of that layout, or a folder of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import ours
from recordings import Numbers, block_weights, close, parametrize, single_steps
from stand_in import Catalogue, settings

from recbole_diffusion.diffusion.geodesic import GeodesicProcess
from recbole_diffusion.diffusion.noise import GivenNoise
from recbole_diffusion.diffusion.samplers import chain_coefficients
from recbole_diffusion.diffusion.schedules import is_valid, raw_betas
from recbole_diffusion.model.adrec import ADRec
from recbole_diffusion.model.base import TrainingStep

MARK = "weights/hist_norm.weight"
FIRST_QUERY = "diffu.ag_encoder.transformer_blocks.0.attention.linear_layers.0.weight"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, MARK)
    if "schedule" in metafunc.fixturenames:
        parametrize_schedules(metafunc)


def parametrize_schedules(metafunc: pytest.Metafunc) -> None:
    recorded = {
        key.removeprefix("schedules/"): value
        for key, value in ours("adrec_reference").items()
        if key.startswith("schedules/") and key != "schedules/pw_lin/10"  # which needs more than 10 steps
    }
    metafunc.parametrize(("schedule", "recorded"), recorded.items(), ids=list(recorded))


class Recording(Numbers):
    """One recorded run, or an option of it, and our model with its weights."""

    def __init__(self, path: Path, option: str = "", dtype: torch.dtype = torch.float32, **changes: Any) -> None:
        super().__init__(path, option)
        self.dtype = dtype
        self.interaction["item_id"] = torch.tensor(self.data["input/last_target"])
        size = self.size
        self.steps = int(size["diffusion_steps"])
        if not is_valid(raw_betas(str(size["noise_schedule"]), self.steps)):
            pytest.skip("no model takes this schedule; its betas are checked")
        self.guided = float(size["cfg_scale"]) != 1
        self.attends = str(size["dif_decoder"]) == "att"
        self.mse_weight = float(size["loss_scale"])
        self.model = ADRec(
            settings(
                "ADRec",
                **{
                    "hidden_size": int(size["hidden_size"]),
                    "inner_size": 4 * int(size["hidden_size"]),
                    "n_layers": int(size["encoder_blocks"]),
                    "decoder_layers": int(size["decoder_blocks"]),
                    "decoder": "attention" if self.attends else "mlp",
                    "n_heads": int(size["num_heads"]),
                    "MAX_ITEM_LIST_LENGTH": int(size["max_len"]),
                    "diffusion_steps": self.steps,
                    "inference_steps": self.steps,
                    "noise_schedule": str(size["noise_schedule"]),
                    "rescale_timesteps": bool(size["rescale_timesteps"]),
                    "noise_scale": float(size["lambda_uncertainty"]),
                    "shared_timestep": not size["independent"],
                    "causal": bool(size["is_causal"]),
                    "guidance_drop": 0.3 if self.guided else 0.0,
                    "guidance_scale": float(size["cfg_scale"]) - 1,
                    "geodesic": bool(size["geodesic"]),
                    "mse_weight": self.mse_weight,
                    "attention_mask": "counted",
                    "reverse_variance": "beta",
                    **changes,
                },
            ),
            Catalogue(int(size["n_items_with_padding"])),
        )
        weights = self.weights()
        assert not set(dict(self.model.named_parameters())) ^ set(weights)
        self.model.load_state_dict(weights, strict=False)
        self.model.to(dtype).eval()

    def weights(self) -> dict[str, torch.Tensor]:
        """Theirs under our names."""
        theirs = self.theirs
        ours = {"item_embedding.weight": theirs["item_embedding.weight"]}
        for part in ("weight", "bias"):
            ours[f"embedding_norm.{part}"] = theirs[f"hist_norm.{part}"]
            for layer in (0, 2):
                ours[f"step_mlp.{layer}.{part}"] = theirs[f"diffu.net.time_embed.{layer}.{part}"]
            if not self.attends:
                for layer in (0, 2, 3):
                    ours[f"decoder.{layer}.{part}"] = theirs[f"diffu.net.decoder.{layer}.{part}"]
        for index in range(int(self.size["encoder_blocks"])):
            block = f"diffu.ag_encoder.transformer_blocks.{index}."
            ours |= block_weights(theirs, block, f"encoder.blocks.{index}.")
        for index in range(int(self.size["decoder_blocks"]) if self.attends else 0):
            block = f"diffu.net.decoder.transformer_blocks.{index}."
            ours |= block_weights(theirs, block, f"decoder.blocks.{index}.")
        return ours

    def widened(self, values: np.ndarray) -> torch.Tensor:
        """Values [B, L, ...] of the recorded positions, moved to ours, cut to the places that ours has."""
        places = self.model.history(self.interaction).items.shape[1]
        moved = self.moved(values)
        # A place of padding stands behind the longest history, also where that is full.
        moved = np.concatenate([moved, np.zeros_like(moved[:, :1])], axis=1)[:, :places]
        return self.given(moved)

    def given(self, values: np.ndarray) -> torch.Tensor:
        values = torch.tensor(values)
        return values.to(self.dtype) if values.is_floating_point() else values

    @property
    def training_noise(self) -> GivenNoise:
        """The numbers that training drew."""
        data = self.data
        t = data.get("forward/t_drawn", data["forward/t"])
        values = {
            "timestep": self.given(t) if t.ndim == 1 else self.widened(t),
            "x_t": self.widened(data["forward/noise"]),
        }
        if "forward/condition_draw" in data:
            # They drop a row above 0.7, ours below 0.3.
            values["guidance_drop"] = 1 - self.given(data["forward/condition_draw"])[:, None]
        return GivenNoise(values)

    @property
    def reverse_noise(self) -> GivenNoise:
        """The numbers that inference drew, the last step first."""
        values: dict[Any, torch.Tensor] = {"x_T": self.given(self.data["reverse/start"])}
        for index, step in enumerate(range(self.steps)[::-1]):
            values["reverse", step] = self.given(self.data["reverse/noise"][index])
        return GivenNoise(values)

    def forward(self) -> tuple[torch.Tensor, TrainingStep]:
        """Loss of the recorded batch, and what it was made of."""
        seen: list[TrainingStep] = []
        losses = self.model.losses
        self.model.losses = lambda step: (seen.append(step), losses(step))[1]  # type: ignore[method-assign]
        loss = self.model.calculate_loss(self.interaction, self.training_noise)
        del self.model.losses
        return loss, seen[0]

    def check_places(self, key: str, actual: torch.Tensor, tolerance: float) -> None:
        """Compare values [B, L, ...] at the items; what stands on padding is not the same place."""
        if key in self.data:
            theirs, ours = self.moved(self.data[key]), actual.detach().numpy()
            real = [np.arange(values.shape[1]) < self.length[:, None] for values in (ours, theirs)]
            close(ours[real[0]], theirs[real[1]], tolerance)

    def parameters(self) -> dict[str, torch.Tensor]:
        """Those whose gradients were recorded, under their names."""
        model = self.model
        return {
            "item_embedding.weight": model.item_embedding.weight,
            "hist_norm.weight": model.embedding_norm.weight,
            "diffu.net.time_embed.0.weight": model.step_mlp[0].weight,
            FIRST_QUERY: model.encoder.blocks[0].attention.query.weight,
        }

    def check_gradient(self, key: str, loss: torch.Tensor, tolerance: float) -> None:
        ours = self.parameters()
        gradient = torch.autograd.grad(loss, list(ours.values()), retain_graph=True)
        for name, value in zip(ours, gradient, strict=True):
            self.check(f"{key}/{name}", value, tolerance)


@pytest.fixture(scope="module")
def recording(request: pytest.FixtureRequest) -> Recording:
    return Recording(request.param)


def check_forward(recording: Recording, part: str, tolerance: float) -> None:
    loss, step = recording.forward()
    recording.check_places(f"{part}forward/x_0", step.x_0, min(tolerance, 1e-6))
    recording.check_places(f"{part}forward/x_t", step.x_t, min(tolerance, 1e-6))
    recording.check_places(f"{part}forward/output", step.x0_hat, tolerance)
    model = recording.model
    losses = {}
    for name, weights in {"ce": (1.0, 0.0), "diffusion": (0.0, 1.0)}.items():
        model.ce_weight, model.mse_weight = weights
        losses[name] = step.batch.loss(model.losses(step).rows)
        recording.check(f"{part}forward/loss_{name}", losses[name], tolerance)
    model.ce_weight, model.mse_weight = 1.0, recording.mse_weight
    recording.check(f"{part}forward/loss_total", loss, tolerance)
    recording.check_gradient(f"{part}gradient/ce", losses["ce"], tolerance)
    recording.check_gradient(f"{part}gradient/diffusion", recording.mse_weight * losses["diffusion"], tolerance)
    recording.check_gradient(f"{part}gradient/total", loss, tolerance)


@torch.no_grad()
def check_reverse(recording: Recording, part: str, tolerance: float) -> None:
    if f"{part}reverse/scores" not in recording.data:
        return
    model = recording.model
    steps = model.sample(model.history(recording.interaction), recording.reverse_noise).steps
    assert [step.timestep for step in steps] == list(range(recording.steps))[::-1]
    recording.check(f"{part}reverse/x0_hat", torch.stack([step.x0_hat for step in steps]), tolerance)
    recording.check(f"{part}reverse/x", torch.stack([step.x for step in steps]), tolerance)
    scores = model.full_sort_predict(recording.interaction, noise=recording.reverse_noise)
    recording.check(f"{part}reverse/scores", scores, tolerance)


def test_named_schedules(schedule: str, recorded: np.ndarray) -> None:
    name, steps = schedule.split("/")
    close(raw_betas(name, int(steps)), recorded, 1e-12)


def test_schedule(recording: Recording) -> None:
    process: Any = recording.model.process
    process = process.gaussian if isinstance(process, GeodesicProcess) else process
    steps = single_steps(process)
    theirs = {
        "betas": process.betas,
        "alphas_cumprod": process.abar,
        "alphas_cumprod_prev": torch.cat([process.abar.new_ones(1), process.abar[:-1]]),
        "sqrt_alphas_cumprod": process.abar.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - process.abar).sqrt(),
        "posterior_mean_coef1": steps.c1,
        "posterior_mean_coef2": steps.c2,
        "posterior_variance": steps.variance,
        "t_scaled": torch.arange(recording.steps) * recording.model.step_mlp.scale,
    }
    for name, value in theirs.items():
        recording.check(f"schedule/{name}", value, 1e-12 if name != "t_scaled" else 1e-9)
    # Of the last step nothing is added, so its variance is not used.
    spread = chain_coefficients(process, range(recording.steps)[::-1], reverse_variance="beta").s.flip(0)
    close(2 * spread[1:].log(), recording.data["schedule/log_variance_used"][1:], 1e-12)


def test_history_condition_and_mixture(recording: Recording) -> None:
    model = recording.model
    _, step = recording.forward()
    embedded = model.embedding_norm(model.item_embedding(step.history.items))
    recording.check_places("forward/history", embedded, 1e-6)
    recording.check_places("forward/encoder", model.encode(step.history, step.noise).encoded, 1e-5)
    recording.check_places("forward/condition", step.condition.encoded, 1e-5)
    recording.check_places("forward/step_embedding", model.step_mlp(model.steps)[step.timestep], 1e-5)
    recording.check_places("forward/mixed", model.mixed(step.condition.encoded, step.x_t, step.timestep), 1e-5)


def test_losses_and_gradients(recording: Recording) -> None:
    check_forward(recording, "", 1e-5)


def test_chain_and_scores(recording: Recording) -> None:
    check_reverse(recording, "", 1e-4)


@torch.no_grad()
def test_all_places_of_a_step(recording: Recording) -> None:
    """Training's form of the network, given what inference gives place by place."""
    model = recording.model
    if "reverse/first_step_output" not in recording.data or recording.guided:
        pytest.skip("not recorded for this form")
    history = model.history(recording.interaction)
    rows, last = torch.arange(len(history.length)), history.length - 1
    earlier = torch.nn.functional.pad(history.items[:, 1:], (0, 1))
    x = model.embed(earlier).index_put((rows, last), recording.given(recording.data["reverse/start"]))
    timestep = torch.zeros_like(earlier).index_put((rows, last), torch.tensor(recording.steps - 1))
    condition = model.encode(history, recording.reverse_noise)
    output = model.denoise(x, timestep, condition, recording.reverse_noise)
    recording.check_places("reverse/first_step_output", output, 1e-5)
    alone = model.denoise(x[rows, last], timestep[rows, last], condition, recording.reverse_noise)
    close(alone, output[rows, last].numpy(), 1e-5)


@pytest.mark.parametrize("pcgrad", [False, True], ids=["plain", "pcgrad"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_merged_gradients(recording: Recording, pcgrad: bool, dtype: torch.dtype) -> None:
    """Their wrapper takes the mean of both losses' gradients, hence the weights of one half."""
    half = {"ce_weight": 0.5, "mse_weight": 0.5 * recording.mse_weight}
    merged = Recording(recording.path, dtype=dtype, pcgrad=pcgrad, **half)
    loss, _ = merged.forward()
    part, tolerance = ("", 1e-5) if dtype == torch.float32 else ("float64/", 1e-9)
    key = f"{part}gradient/merged_{'pcgrad' if pcgrad else 'plain'}"
    merged.check_gradient(key, loss, tolerance)
    every = torch.autograd.grad(loss, list(merged.model.parameters()), allow_unused=True)
    norm = torch.stack([part.square().sum() for part in every if part is not None]).sum().sqrt()
    merged.check(f"{key}/norm_of_all", norm, 1e-5)


def test_in_double_precision(recording: Recording) -> None:
    if not any(key.startswith("float64/") for key in recording.data):
        pytest.skip("nothing was recorded in float64")
    double = Recording(recording.path, dtype=torch.float64)
    check_forward(double, "float64/", 1e-9)
    check_reverse(double, "float64/", 1e-9)


def test_options(recording: Recording) -> None:
    failed = {}
    for name in recording.options:
        option = Recording(recording.path, name)
        try:
            check_forward(option, "", 1e-5)
            check_reverse(option, "", 1e-4)
        except AssertionError as error:
            failed[name] = str(error)
    assert not failed, "\n".join(f"{name}: {error}" for name, error in failed.items())
