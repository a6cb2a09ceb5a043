from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from two_forms import with_equal_weights

from benchmarks import flops, machine, prefix_form, speed
from recbole_diffusion.cli.exit_codes import run_command
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.model.adrec import ADRec

ITEMS, LENGTHS = 30, np.array([1, 4, 6])
SMALL = {
    "hidden_size": 16,
    "inner_size": 32,
    "n_layers": 2,
    "decoder_layers": 2,
    "n_heads": 2,
    "MAX_ITEM_LIST_LENGTH": 6,
    "gpu_id": "",
}


def both() -> tuple[Any, Any, Any]:
    return with_equal_weights((ADRec, prefix_form.PrefixADRec), SMALL, ITEMS, LENGTHS)


def test_both_forms_are_one_network() -> None:
    every, newest, batch = both()
    history = every.history(batch)
    noise = every.training_noise()
    target = every.targets(history, batch)
    rows, last = torch.arange(len(LENGTHS)), history.length - 1
    assert torch.equal(newest.targets(history, batch), target[rows, last])
    # Noise at the newest place alone, as the prefix form has it.
    timestep = torch.zeros_like(target).index_put((rows, last), torch.tensor([3, 9, 31]))
    x_t = every.embed(target)
    x_t[rows, last] += torch.randn(len(rows), 16)
    found = every.denoise(x_t, timestep, every.encode(history, noise), noise)[rows, last]
    alone = newest.denoise(x_t[rows, last], timestep[rows, last], newest.encode(history, noise), noise)
    assert torch.allclose(found, alone, atol=1e-5)


def test_the_prefix_form_has_the_losses_of_the_newest_place() -> None:
    _, newest, batch = both()
    loss = newest.calculate_loss(batch)
    loss.backward()
    assert loss.isfinite() and newest.decoder.blocks[0].attention.query.weight.grad.abs().sum() > 0
    newest.noise_scale = 0.0
    # Without noise both losses follow from the prediction.
    history = newest.history(batch)
    x_0 = newest.embed(newest.targets(history, batch))
    x0_hat = newest.sample(history, newest.inference_noise(history)).steps[0].x0_hat
    scores = x0_hat @ newest.item_embedding.weight[1:].T
    ce = torch.nn.functional.cross_entropy(scores, batch["item_id"] - 1)
    mse = (x0_hat - x_0).square().mean()
    assert newest.calculate_loss(batch).item() == pytest.approx((ce + mse).item(), rel=1e-4)


def test_the_prefix_form_is_timed_and_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "PEAK_SIZE", {"cpu": 256})
    settings = {**SMALL, "model": f"{prefix_form.__file__}:PrefixADRec", "dataset": "ml-100k"}
    settings |= {"user_inter_num_interval": "[0,24]", "timed_batches": 3, "timed_rounds": 1, "eval_users": 50}
    speed.run([f"--{key}={value}" for key, value in settings.items()])
    figures = json.loads(capsys.readouterr().out)
    assert figures["model"] == "PrefixADRec" and Path(prefix_form.__file__).is_file()
    assert figures["train_targets_per_s"] == figures["train_samples_per_s"]
    assert 0 < figures["train_fraction_of_peak"] < 1


def test_both_forms_are_timed_in_turn(capsys: pytest.CaptureFixture[str]) -> None:
    settings = {**SMALL, "dataset": "ml-100k", "user_inter_num_interval": "[0,24]", "train_batch_size": 64}
    assert run_command(lambda: prefix_form.run([f"--{key}={value}" for key, value in settings.items()])) == 0
    figures = json.loads(capsys.readouterr().out)
    rows = figures["rows"]
    assert rows["prefixes"] > 4 * rows["places"]
    seconds = figures["epoch_s"]
    assert len(seconds["places"]) == len(seconds["prefixes"]) == prefix_form.ROUNDS
    assert min(figures["times_as_quick"]["rounds"]) <= figures["times_as_quick"]["median"]
    assert figures["settings"]["hidden_size"] == 16
    assert run_command(lambda: prefix_form.run(["--help"])) == 0
    assert "in turn" in capsys.readouterr().out


def test_a_target_of_the_prefix_form_needs_more_operations() -> None:
    every, prefixes = (load_config(form, "made-up", None, SMALL) for form in (ADRec, prefix_form.PrefixADRec))
    # A user with seven interactions: a row of six places, or six prefixes.
    row = flops.training_work(every, ITEMS, [6], [6])
    rows = flops.training_work(prefixes, ITEMS, np.arange(1, 7), np.ones(6))
    assert row is not None and rows is not None and row < rows
