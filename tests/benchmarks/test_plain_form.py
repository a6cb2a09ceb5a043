from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import plain_form
from benchmarks.plain import PLAIN_FORMS
from benchmarks.speed import recboles_trainer
from recbole_diffusion.cli.exit_codes import run_command
from recbole_diffusion.errors import SettingError
from recbole_diffusion.host.dataset import build_dataset
from recbole_diffusion.host.loaders import build_loaders
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.training.process import process_as_found

DATA = {"dataset": "ml-100k", "user_inter_num_interval": "[20,30]", "MAX_ITEM_LIST_LENGTH": 6, "gpu_id": ""}
SMALL = {**DATA, "hidden_size": 16, "train_batch_size": 64, "noise_schedule": "cosine"}
BLOCKS = {"inner_size": 32, "n_layers": 1, "n_heads": 2}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BATCHES", "PLAIN_BATCHES", "ROUNDS"):
        monkeypatch.setattr(plain_form, name, 1)
    monkeypatch.setattr(plain_form, "USERS", 100)


def measured(capsys: pytest.CaptureFixture[str], **flags: Any) -> Any:
    assert run_command(lambda: plain_form.run([f"--{key}={value}" for key, value in flags.items()])) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("quick")
def test_the_command_tells_how_often_as_quick(capsys: pytest.CaptureFixture[str]) -> None:
    figures = measured(capsys, **SMALL, **BLOCKS, diffusion_steps=2)
    assert figures["model"] == "DiffuRec"
    trained, evaluated = figures["train_samples_per_s"], figures["eval_users_per_s"]
    ratio = trained["here"] / (sum(trained["plain"]) / 2)
    assert figures["times_as_quick"]["training"] == pytest.approx(ratio, rel=0.02, abs=0.06)
    # By default one step is taken here, and all of T in plain code.
    assert set(figures["times_as_quick"]) == {"training", "evaluation, steps 1", "evaluation, steps 2"}
    assert set(evaluated) == {"here, steps 1", "here, steps 2", "plain, steps 2"}
    ratio = evaluated["here, steps 2"] / (sum(evaluated["plain, steps 2"]) / 2)
    assert figures["times_as_quick"]["evaluation, steps 2"] == pytest.approx(ratio, rel=0.02, abs=0.06)
    assert figures["settings"]["hidden_size"] == 16


@pytest.mark.usefixtures("quick")
def test_a_model_of_sequences_and_a_chain_of_its_own_are_timed(capsys: pytest.CaptureFixture[str]) -> None:
    figures = measured(capsys, model="BBDRec", **SMALL, **BLOCKS, decoder_layers=1, inference_steps=3)
    assert set(figures["eval_users_per_s"]) == {"here, steps 3", "plain, steps 3"}
    figures = measured(
        capsys, model="PreferDiff", **SMALL, n_heads=2, diffusion_steps=20, inference_steps=9, ddim_stride=10
    )
    assert set(figures["eval_users_per_s"]) == {"here, steps 3", "plain, steps 3"}


def test_both_forms_have_the_same_threads_and_plain_code_its_own_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def rates(*_: Any) -> plain_form.Rates:
        seen.append((torch.get_num_threads(), torch.get_float32_matmul_precision()))
        return plain_form.Rates(1.0, {2: 1.0})

    def here(*_: Any) -> plain_form.Rates:
        torch.set_float32_matmul_precision("medium")
        return rates()

    monkeypatch.setattr(plain_form, "_plain", rates)
    monkeypatch.setattr(plain_form, "_here", here)
    with process_as_found():
        torch.set_num_threads(2)
        plain_form.measure([], {**SMALL, **BLOCKS, "diffusion_steps": 2, "threads": 1})
    assert seen == [(1, "highest"), (1, "medium"), (1, "highest")]


def test_each_model_is_timed_in_turn(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_form, "_measure", lambda name, files, settings: {"model": name, **settings})
    figures = measured(capsys, model="all", dataset="ml-100k")
    assert figures == [{"model": name, "dataset": "ml-100k"} for name in PLAIN_FORMS]
    with pytest.raises(SettingError, match=r"model must be one of DiffuRec, .*RFMRec, or all, got 'SASRec'"):
        plain_form.measure([], {"model": "SASRec"})


def test_fmrec_takes_its_authors_steps() -> None:
    settings = {"dataset": "ml-100k", "gpu_id": ""}
    assert PLAIN_FORMS["FMRec"].authors_steps(load_config("FMRec", None, None, settings)) == 30
    assert PLAIN_FORMS["BBDRec"].authors_steps(load_config("BBDRec", None, None, settings)) == 4


def test_rows_are_those_of_the_model() -> None:
    """Both forms of a model that trains on sequences have the same rows, RecBole's as ours."""
    config = load_config(PLAIN_FORMS["ADRec"], None, None, {**DATA, **BLOCKS, "hidden_size": 16})
    train, _, _ = build_loaders(config, build_dataset(config))
    every = train._dataset.inter_feat
    ours = every.materialise()[np.sort(np.concatenate([np.asarray(index) for index in train._index_sampler]))]
    _, loader, _ = recboles_trainer(config, users=None)
    assert len(loader._dataset) == len(every) > 4 * len(ours) > 0
    theirs = plain_form.rows_trained_on(config, loader)._dataset.inter_feat
    for field in ("user_id", "item_id_list", "item_length", "item_id"):
        assert torch.equal(theirs[field], ours[field]), field
