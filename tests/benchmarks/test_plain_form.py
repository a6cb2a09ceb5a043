from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from two_forms import with_equal_weights

from benchmarks import plain_form
from recbole_diffusion.cli.exit_codes import run_command
from recbole_diffusion.diffusion.noise import GivenNoise
from recbole_diffusion.model.diffurec import DiffuRec

ITEMS, LENGTHS, LONGEST, WIDTH = 30, np.array([1, 4, 6]), 6, 16
SMALL = {
    "hidden_size": WIDTH,
    "inner_size": 32,
    "n_layers": 2,
    "n_heads": 2,
    "MAX_ITEM_LIST_LENGTH": LONGEST,
    "inference_steps": 32,
    # So large that the noise counts.
    "noise_scale": 0.5,
    "gpu_id": "",
}


def both() -> tuple[Any, Any, Any]:
    return with_equal_weights((DiffuRec, plain_form.PlainDiffuRec), SMALL, ITEMS, LENGTHS)


def given_noise() -> GivenNoise:
    rows = len(LENGTHS)
    shapes = {"x_t": (rows, WIDTH), "x_T": (rows, WIDTH), "reverse": (rows, WIDTH), "lambda": (rows, LONGEST, WIDTH)}
    normals = {name: torch.randn(shape) for name, shape in shapes.items()}
    return GivenNoise({**normals, "timestep": torch.tensor([3, 9, 31])})


def test_both_forms_have_the_same_loss_and_gradients() -> None:
    here, plain, batch = both()
    noise = given_noise()
    losses = [model.calculate_loss(batch, noise) for model in (here, plain)]
    torch.testing.assert_close(losses[1], losses[0])
    for loss in losses:
        loss.backward()
    for (name, parameter), other in zip(here.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(other.grad, parameter.grad, atol=1e-6, rtol=1e-4, msg=name)


def test_both_forms_have_the_same_scores() -> None:
    here, plain, batch = both()
    noise = given_noise()
    with torch.no_grad():
        scores = [model.eval().full_sort_predict(batch, noise) for model in (here, plain)]
    torch.testing.assert_close(scores[1], scores[0], atol=1e-5, rtol=1e-5)


def test_the_command_tells_how_often_as_quick(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BATCHES", "PLAIN_BATCHES", "ROUNDS"):
        monkeypatch.setattr(plain_form, name, 1)
    monkeypatch.setattr(plain_form, "USERS", 100)
    monkeypatch.setattr(plain_form, "STEPS", (1, 2))
    flags = {**SMALL, "dataset": "ml-100k", "user_inter_num_interval": "[20,30]", "train_batch_size": 64}
    del flags["inference_steps"]
    assert run_command(lambda: plain_form.run([f"--{key}={value}" for key, value in flags.items()])) == 0
    figures = json.loads(capsys.readouterr().out)
    trained = figures["train_samples_per_s"]
    ratio = trained["here"] / (sum(trained["plain"]) / 2)
    assert figures["times_as_quick"]["training"] == pytest.approx(ratio, rel=0.02, abs=0.06)
    assert set(figures["times_as_quick"]) == {"training", "evaluation, steps 1", "evaluation, steps 2"}
    assert figures["settings"]["hidden_size"] == WIDTH
