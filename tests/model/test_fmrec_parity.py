"""FMRec against numbers recorded from the authors' code (dropout off, every random number recorded).

`pytest tests/model/test_fmrec_parity.py --golden=PATH` checks another recording of that layout, or a folder of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recordings import Numbers, block_weights, close, parametrize
from stand_in import Catalogue, settings

from recbole_diffusion.diffusion.noise import GivenNoise
from recbole_diffusion.model.base import TrainingStep
from recbole_diffusion.model.fmrec import FMRec

NETWORK = "fm.xstart_model."
MARK = f"weights/{NETWORK}norm_fm_rep.weight"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    parametrize(metafunc, MARK)


class Recording(Numbers):
    """One recorded run, or an option of it, and our model with its weights."""

    def __init__(self, path: Path, option: str = "", dtype: torch.dtype = torch.float32) -> None:
        super().__init__(path, option)
        self.dtype = dtype
        self.interaction["item_id"] = torch.tensor(self.data["input/target"])
        size = self.size
        self.steps = int(size["sampling_steps"])
        self.model = FMRec(
            settings(
                "FMRec",
                parents=("DiffuRec",),
                hidden_size=int(size["hidden_size"]),
                inner_size=4 * int(size["hidden_size"]),
                n_layers=int(size["num_blocks"]),
                n_heads=int(size["num_heads"]),
                MAX_ITEM_LIST_LENGTH=int(size["max_len"]),
                inference_steps=self.steps,
                step_sampler=str(size["sampling_method"]),
                mode_scale=float(size["s_modsamp"]),
                logit_mean=float(size["m_logNorm"]),
                logit_std=float(size["s_logNorm"]),
                time_eps=float(size["eps"]),
                mse_weight=float(size["weight_mse"]),
                ce_weight=float(size["weight_ce"]),
                decoder_weight=float(size["weight_decoder"]),
                decoder_depth=int(size["last"]),
                decoder_sizes=[int(number) for number in size["decoder_hidden"]],
                zeros_ratio=float(size["mask_ratio"]),
                noise_scale=float(size["lambda_uncertainty"]),
                attention_mask="reference",
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
        ours = {"item_embedding.weight": theirs["item_embeddings.weight"]}
        for part in ("weight", "bias"):
            ours[f"embedding_norm.{part}"] = theirs[f"LayerNorm.{part}"]
            ours[f"output_norm.{part}"] = theirs[f"{NETWORK}norm_fm_rep.{part}"]
            for layer in (0, 2):
                ours[f"step_mlp.{layer}.{part}"] = theirs[f"{NETWORK}time_embed.{layer}.{part}"]
            for layer in range(0, 2 * len(self.size["decoder_hidden"]) + 1, 2):
                ours[f"history_decoder.{layer}.{part}"] = theirs[f"{NETWORK}decoder.{layer}.{part}"]
        for index in range(int(self.size["num_blocks"])):
            ours |= block_weights(theirs, f"{NETWORK}att.transformer_blocks.{index}.", f"encoder.blocks.{index}.")
        return ours

    def given(self, values: np.ndarray) -> torch.Tensor:
        return torch.tensor(values).to(self.dtype)

    def lambdas(self, recorded: np.ndarray) -> torch.Tensor:
        """The normal numbers behind recorded λ [B, L, d]."""
        delta = float(self.size["lambda_uncertainty"])
        # With a mean of 0 every λ is 0, whatever was drawn.
        return self.given((self.moved(recorded).astype(np.float64) - delta) / (delta or 1.0))

    @property
    def training_noise(self) -> GivenNoise:
        """The numbers that training drew."""
        data, items = self.data, self.interaction["item_id_list"]
        in_history = np.zeros((len(items), int(self.size["n_items_with_padding"])))
        np.put_along_axis(in_history, items.numpy(), 1, axis=1)
        in_history[:, 0] = 0
        zeros = (in_history == 0).sum()
        # An index among the zeros as a uniform number; what they did not draw is not read.
        number = max(1, int(np.ceil(float(self.size["mask_ratio"])))) * items.numel()
        uniform = np.zeros(number)
        uniform[: len(data["forward/zero_draws"])] = (data["forward/zero_draws"] + 0.5) / zeros
        times = data["forward/t_draw"]
        if self.size["sampling_method"] == "logit_normal":
            times = (times - self.size["m_logNorm"]) / self.size["s_logNorm"]
        return GivenNoise(
            {
                "timestep": self.given(times),
                "x_t": self.given(data["forward/z0"]),
                "lambda": self.lambdas(data["forward/lambda"]),
                "history_zeros": torch.tensor(uniform),
            }
        )

    @property
    def reverse_noise(self) -> GivenNoise:
        """The numbers that inference drew."""
        values: dict[Any, torch.Tensor] = {"x_T": self.given(self.data["reverse/start"])}
        for index in range(self.steps):
            values["lambda", index] = self.lambdas(self.data["reverse/lambda"][index])
        return GivenNoise(values)

    def forward(self) -> tuple[torch.Tensor, TrainingStep]:
        """Loss of the recorded batch, and what it was made of."""
        seen: list[TrainingStep] = []
        losses = self.model.losses
        self.model.losses = lambda step: (seen.append(step), losses(step))[1]  # type: ignore[method-assign]
        loss = self.model.calculate_loss(self.interaction, self.training_noise)
        del self.model.losses
        return loss, seen[0]


@pytest.fixture(scope="module")
def recording(request: pytest.FixtureRequest) -> Recording:
    return Recording(request.param)


def check_forward(recording: Recording, part: str, tolerance: float) -> torch.Tensor:
    loss, step = recording.forward()
    model = recording.model
    recording.check(f"{part}forward/t", step.timestep, tolerance)
    recording.check(f"{part}forward/x_t", step.x_t, min(tolerance, 1e-6))
    recording.check(f"{part}forward/x0_hat", step.x0_hat, tolerance)
    recording.check(f"{part}forward/encoded", step.output.encoded, tolerance)
    if model.weights["decoder"]:
        recording.check(f"{part}forward/decoded", model.history_decoder(step.output.encoded), tolerance)
        decoder = model.decoder_loss(step.output.encoded, step.batch)
        recording.check(f"{part}forward/loss_decoder", decoder, tolerance)
    recording.check(f"{part}forward/loss_mse", (step.x0_hat - step.x_0).square().mean(), tolerance)
    ce = model.ranking_loss(step.x0_hat, step.target, step.interaction).mean()
    recording.check(f"{part}forward/loss_ce", ce, tolerance)
    recording.check(f"{part}forward/loss_total", loss, tolerance)
    return loss


def check_gradient(recording: Recording, loss: torch.Tensor, part: str, tolerance: float) -> None:
    model, d = recording.model, recording.model.hidden_size
    query = model.encoder.blocks[0].attention.query.weight
    ours = {
        "item_embeddings.weight": model.item_embedding.weight,
        "LayerNorm.weight": model.embedding_norm.weight,
        f"{NETWORK}time_embed.0.weight": model.step_mlp[0].weight,
        f"{NETWORK}att.transformer_blocks.0.attention.linear_layers.0.weight": query,
    }
    if model.weights["decoder"]:
        ours[f"{NETWORK}decoder.0.weight"] = model.history_decoder[0].weight
    gradient = torch.autograd.grad(loss, list(ours.values()))
    assert query.shape == (d, d)
    for name, value in zip(ours, gradient, strict=True):
        recording.check(f"{part}gradient/total/{name}", value, tolerance)


@torch.no_grad()
def check_reverse(recording: Recording, part: str, tolerance: float) -> None:
    if f"{part}reverse/scores" not in recording.data:
        pytest.skip("no chain was recorded")
    if recording.size["eps"] != recording.size["eps_reverse"]:
        pytest.skip("ours has one time_eps for training and inference")
    model = recording.model
    steps = model.sample(model.history(recording.interaction), recording.reverse_noise).steps
    recording.check(f"{part}reverse/x0_hat", torch.stack([step.x0_hat for step in steps]), tolerance)
    recording.check(f"{part}reverse/x", torch.stack([step.x for step in steps]), tolerance)
    scores = model.full_sort_predict(recording.interaction, noise=recording.reverse_noise)
    recording.check(f"{part}reverse/scores", scores, tolerance)


def test_times(recording: Recording) -> None:
    if recording.size["eps"] == recording.size["eps_reverse"]:
        times = np.array(recording.model.timesteps)
        recording.check("schedule/t_grid", times, 1e-12)
        recording.check("schedule/t_grid_scaled", times * recording.model.step_mlp.scale, 1e-9)
    recording.check("schedule/train_t_factor", recording.model.step_mlp.scale, 1e-9)


def test_history_and_mixture(recording: Recording) -> None:
    model, data = recording.model, recording.data
    _, step = recording.forward()
    history = model.history(recording.interaction)
    close(model.embed_history(history), recording.moved(data["forward/history"]), 1e-6)
    recording.check("forward/step_embedding", model.step_mlp(step.timestep), 1e-5)
    mixed = model.mixed(step.x_t, step.timestep, step.condition, recording.training_noise)
    close(mixed, recording.moved(data["forward/mixed"]), 1e-5)


def test_losses_and_gradient(recording: Recording) -> None:
    check_gradient(recording, check_forward(recording, "", 1e-5), "", 1e-5)


def test_chain_and_scores(recording: Recording) -> None:
    check_reverse(recording, "", 1e-4)


def test_in_double_precision(recording: Recording) -> None:
    if not any(key.startswith("float64/") for key in recording.data):
        pytest.skip("nothing was recorded in float64")
    double = Recording(recording.path, dtype=torch.float64)
    check_gradient(double, check_forward(double, "float64/", 1e-9), "float64/", 1e-9)
    check_reverse(double, "float64/", 1e-9)


def test_options(recording: Recording) -> None:
    for name in recording.options:
        option = Recording(recording.path, name)
        check_forward(option, "", 1e-5)
        if "reverse/scores" in option.data:
            check_reverse(option, "", 1e-4)
