"""DiffuRec against numbers recorded from the authors' code (dropout off, every draw recorded).

`pytest tests/model/test_diffurec_parity.py --golden=PATH` checks another recording of that layout, or a folder of them
with or without recorded schedules, beta_schedules.npz.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import given_files, name_of, ours, read
from recordings import block_weights, close, single_steps
from stand_in import Catalogue, settings

from recbole_diffusion.diffusion.noise import GivenNoise
from recbole_diffusion.diffusion.schedules import SCHEDULES, is_valid, raw_betas
from recbole_diffusion.model.diffurec import DiffuRec

RECORDED_SCHEDULES = "beta_schedules"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    paths = given_files(metafunc.config)
    # Recordings of other models may stand beside.
    recordings = [path for path in paths if {"betas", "input/target"} <= set(read(path))]
    if "recording" in metafunc.fixturenames:
        metafunc.parametrize("recording", recordings, ids=name_of, indirect=True)
    elif "recorded" in metafunc.fixturenames:
        named = [path for path in paths if name_of(path) == RECORDED_SCHEDULES]
        recorded = read(named[0]) if named else ours(RECORDED_SCHEDULES)
        metafunc.parametrize(("key", "recorded"), recorded.items(), ids=list(recorded))


class Recording:
    """One recorded run, its weights loaded into our model, its rows turned to padding on the right."""

    def __init__(self, path: Path) -> None:
        self.data: dict[str, np.ndarray] = read(path)
        size = {key.split("/")[1]: value[()] for key, value in self.data.items() if key.startswith("config/")}
        self.betas = raw_betas(str(size["noise_schedule"]), int(size["diffusion_steps"]))
        self.size = size
        left = self.data["input/sequence_left_padded"]
        self.length = np.minimum(self.data["input/sequence_length"], left.shape[1])
        # Row b of `order` lists the recorded positions as they stand in ours: items first, then padding.
        self.order = np.stack([np.roll(np.arange(left.shape[1]), n) for n in self.length])
        self.interaction = {
            "item_id_list": torch.tensor(np.take_along_axis(left, self.order, axis=1)),
            "item_length": torch.tensor(self.length),
            "item_id": torch.tensor(self.data["input/target"]),
        }

    @cached_property
    def model(self) -> DiffuRec:
        """Ours with their weights; a schedule that no model takes skips the test."""
        size = self.size
        if not is_valid(self.betas):
            pytest.skip("no model takes this schedule; its betas are checked")
        model = DiffuRec(
            settings(
                "DiffuRec",
                hidden_size=int(size["hidden_size"]),
                inner_size=4 * int(size["hidden_size"]),
                n_layers=int(size["num_blocks"]),
                n_heads=int(size["num_heads"]),
                MAX_ITEM_LIST_LENGTH=int(size["max_len"]),
                diffusion_steps=int(size["diffusion_steps"]),
                inference_steps=int(size["diffusion_steps"]),
                noise_schedule=str(size["noise_schedule"]),
                noise_scale=float(size["lambda_uncertainty"]),
                rescale_timesteps=bool(size["rescale_timesteps"]),
                attention_mask="reference",
                reverse_variance="beta",
            ),
            Catalogue(int(size["n_items_with_padding"])),
        )
        weights = self._weights(int(size["num_blocks"]))
        assert not set(dict(model.named_parameters())) - set(weights)
        model.load_state_dict(weights, strict=False)
        return model.eval()

    def _weights(self, blocks: int) -> dict[str, torch.Tensor]:
        theirs = {
            key.removeprefix("weights/"): torch.tensor(value)
            for key, value in self.data.items()
            if key.startswith("weights/")
        }
        network = "diffu.xstart_model."
        ours = {"item_embedding.weight": theirs["item_embeddings.weight"]}
        for part in ("weight", "bias"):
            ours[f"embedding_norm.{part}"] = theirs[f"LayerNorm.{part}"]
            ours[f"output_norm.{part}"] = theirs[f"{network}norm_diffu_rep.{part}"]
            ours[f"step_mlp.0.{part}"] = theirs[f"{network}time_embed.0.{part}"]
            ours[f"step_mlp.2.{part}"] = theirs[f"{network}time_embed.2.{part}"]
        for index in range(blocks):
            ours |= block_weights(theirs, f"{network}att.transformer_blocks.{index}.", f"encoder.blocks.{index}.")
        return ours

    def moved(self, values: np.ndarray) -> np.ndarray:
        """Values [B, L, d] of the recorded positions, moved to ours."""
        return np.take_along_axis(values, self.order[:, :, None], axis=1)

    def drawn(self, scale: np.ndarray) -> torch.Tensor:
        """The normal draws behind recorded λ [B, L, d]."""
        delta = float(self.data["config/lambda_uncertainty"])
        # With a mean of 0 every λ is 0, whatever was drawn.
        return torch.tensor((self.moved(scale) - delta) / (delta or 1.0), dtype=torch.float32)

    @property
    def training_noise(self) -> GivenNoise:
        """The numbers that training drew."""
        names = {"timestep": "forward/t", "x_t": "forward/noise"}
        values = {name: torch.tensor(self.data[key]) for name, key in names.items()}
        return GivenNoise({**values, "lambda": self.drawn(self.data["forward/lambda"])})

    @property
    def reverse_noise(self) -> GivenNoise:
        """The numbers that the reverse chain drew, the last step first."""
        values: dict[Any, torch.Tensor] = {"x_T": torch.tensor(self.data["reverse/x_T"])}
        for index, step in enumerate(range(len(self.data["betas"]))[::-1]):
            values["lambda", step] = self.drawn(self.data["reverse/lambda"][index])
            values["reverse", step] = torch.tensor(self.data["reverse/noise"][index])
        return GivenNoise(values)


@pytest.fixture(scope="module")
def recording(request: pytest.FixtureRequest) -> Recording:
    return Recording(request.param)


def test_every_schedule_is_recorded() -> None:
    others = {"linear_raw", "cosine_clip", "exp", "beta", "geometric"}  # of DreamRec, ADRec and PreferGrow
    assert {key.split("/")[0] for key in ours(RECORDED_SCHEDULES)} == {*SCHEDULES} - others


def test_raw_schedules(key: str, recorded: np.ndarray) -> None:
    name, steps = key.split("/")
    close(raw_betas(name, int(steps)), recorded, 1e-12)


def test_betas(recording: Recording) -> None:
    close(recording.betas, recording.data["betas"], 1e-12)


def test_posterior(recording: Recording) -> None:
    process, data = recording.model.process, recording.data
    steps = single_steps(process)
    close(process.abar, data["alphas_cumprod"], 1e-12)
    close(steps.c1, data["posterior_mean_coef1"], 1e-12)
    close(steps.c2, data["posterior_mean_coef2"], 1e-12)
    close(steps.variance, data["posterior_variance"], 1e-12)


def test_history_and_x_t(recording: Recording) -> None:
    model, data = recording.model, recording.data
    history = model.history(recording.interaction)
    close(model.embed_history(history), recording.moved(data["forward/history"]), 1e-6)
    x_0 = model.item_embedding(recording.interaction["item_id"])
    timestep = torch.tensor(data["forward/t"])
    close(model.process.sample(x_0, timestep, torch.tensor(data["forward/noise"])), data["forward/x_t"], 1e-6)


def test_x0_hat_and_loss(recording: Recording) -> None:
    model, data = recording.model, recording.data
    seen: list[torch.Tensor] = []
    hook = model.output_norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    loss = model.calculate_loss(recording.interaction, recording.training_noise)
    hook.remove()
    close(seen[0], data["forward/x0_hat"], 1e-5)
    close(loss, data["forward/loss"], 1e-5)


@torch.no_grad()
def test_reverse_chain_and_scores(recording: Recording) -> None:
    model, data = recording.model, recording.data
    steps = model.sample(model.history(recording.interaction), recording.reverse_noise).steps
    assert [step.timestep for step in steps] == list(range(len(data["betas"])))[::-1]
    close(torch.stack([step.x0_hat for step in steps]), data["reverse/x0_hat"], 1e-4)
    close(torch.stack([step.x for step in steps]), data["reverse/x"], 1e-4)
    scores = model.full_sort_predict(recording.interaction, noise=recording.reverse_noise)
    close(scores, data["reverse/scores"], 1e-4)
