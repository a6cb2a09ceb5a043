from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import machine, speed
from recbole_diffusion.cli.exit_codes import run_command

SMALL = {
    "dataset": "ml-100k",
    "user_inter_num_interval": "[0,24]",
    "hidden_size": "16",
    "inner_size": "32",
    "n_layers": "1",
    "n_heads": "2",
    "timed_rounds": "1",
    "timed_batches": "3",
    "gpu_id": "",
}
ASKED = {
    "train_samples_per_s",
    "train_targets_per_s",
    "train_tokens_per_s",
    "eval_users_per_s",
    "eval_steps",
    "matmul_peak_gflops",
    "train_fraction_of_peak",
    "eval_fraction_of_peak",
    "peak_rss_mb",
    "versions",
    "device",
    "model",
    "dataset",
    "settings",
    "train_epoch_s",
}


@pytest.fixture(autouse=True)
def small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PEAK_SIZE", {"cpu": 256})


def flags(**changes: Any) -> list[str]:
    return [f"--{key}={value}" for key, value in {**SMALL, **changes}.items()]


def measured(capsys: pytest.CaptureFixture[str], **changes: Any) -> tuple[dict[str, Any], str]:
    assert run_command(lambda: speed.run(flags(**changes))) == 0
    printed = capsys.readouterr()
    return json.loads(printed.out), printed.err


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert run_command(lambda: speed.run(arguments)) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1, printed.err
    return printed.err


@pytest.mark.parametrize("model", ["DiffuRec", "DiffRec"])
def test_one_json_object_that_agrees_with_itself(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    figures, log = measured(capsys, model=model, inference_steps=2)
    assert set(figures) >= ASKED
    assert (figures["model"], figures["dataset"], figures["eval_steps"]) == (model, "ml-100k", 2)
    assert figures["settings"]["hidden_size"] == 16
    flops_per_s = figures["train_mflop_per_sample"] * 1e6 * figures["train_samples_per_s"]
    expected = flops_per_s / (figures["matmul_peak_gflops"] * 1e9)
    assert figures["train_fraction_of_peak"] == pytest.approx(expected, rel=0.05, abs=1e-4)
    assert figures["train_tokens_per_s"] > figures["train_samples_per_s"] > 0
    assert figures["eval_fraction_of_peak"] > 0 and figures["peak_rss_mb"] > 50
    assert "2dV a user" in log and "4kd²" in log and "V = " in log
    assert list(tmp_path.iterdir()) == []


UNREAD = {
    "DreamRec": ("n_layers", "n_heads", "inner_size"),
    "PreferDiff": ("inner_size",),
    "PreferGrow": ("inner_size",),
}


@pytest.mark.parametrize("model", ["DreamRec", "PreferDiff", "ADRec", "BBDRec", "FMRec", "RFMRec", "PreferGrow"])
def test_every_model_of_the_family_is_counted(capsys: pytest.CaptureFixture[str], model: str) -> None:
    unread = UNREAD.get(model, ())
    words = [word for word in flags(model=model, eval_users=200) if word[2:].split("=")[0] not in unread]
    words += ["--decoder_depth=0"] if model == "FMRec" else []
    assert run_command(lambda: speed.run(words)) == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out)
    assert set(figures) >= ASKED
    assert 0 < figures["train_fraction_of_peak"] < 1 and 0 < figures["eval_fraction_of_peak"] < 1
    places = figures["train_targets_per_s"] / figures["train_samples_per_s"]
    assert places > 3 if model in ("ADRec", "BBDRec", "RFMRec") else places == pytest.approx(1)
    assert "operations needed" in printed.err and "d = 16" in printed.err and "None" not in printed.err
    assert "Warning" not in printed.err and "has no effect" not in printed.err


def test_recboles_own_path_stands_beside_ours(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    figures, log = measured(capsys, model="SASRec")
    theirs = {"train_samples_per_s", "train_epoch_s", "eval_users_per_s", "train_tokens_per_s"}
    extra = {"recbole_train_samples_per_s_without_anomaly_detection"}
    assert set(figures) >= ASKED | extra | {f"recbole_{name}" for name in theirs}
    rows = [figures[f"{by}train_epoch_s"] * figures[f"{by}train_samples_per_s"] for by in ("", "recbole_")]
    # Both epochs have the same rows.
    assert rows[0] == pytest.approx(rows[1], rel=0.1)
    assert "Warning" not in log
    assert not torch.is_anomaly_enabled()
    assert list(tmp_path.iterdir()) == []


def test_any_model_of_recboles_is_timed_with_and_without_anomaly_detection(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    time_training = speed.time_training

    def spy(trainer: Any, *arguments: Any) -> Any:
        seen.append((type(trainer).__module__.split(".")[0], torch.is_anomaly_enabled()))
        return time_training(trainer, *arguments)

    monkeypatch.setattr(speed, "time_training", spy)
    figures, log = measured(capsys, model="GRU4Rec", embedding_size=16)
    # Nor is there a formula for this model.
    assert figures["train_fraction_of_peak"] is None and figures["eval_fraction_of_peak"] is None
    assert figures["train_samples_per_s"] > 0 and "no formula" in log
    assert seen == [("recbole_diffusion", False), ("recbole", True), ("recbole", False)]


def test_a_part_of_the_users_and_bfloat16(capsys: pytest.CaptureFixture[str]) -> None:
    figures, _ = measured(capsys, model="DiffuRec", eval_users=30, eval_batch_size=16, enable_amp=True)
    assert 30 <= figures["eval_users"] < 48
    assert figures["settings"]["dtype"] == "bfloat16" and figures["matmul_peak_gflops_amp"] > 0


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "timed_rounds must be a positive whole number, got '0'" in mistake(
        capsys, *flags(model="DiffuRec", timed_rounds=0)
    )
    assert "eval_users must be a positive whole number, got 'x'" in mistake(
        capsys, *flags(model="DiffuRec", eval_users="x")
    )
    assert "model must be sequential, got 'BPR'" in mistake(capsys, *flags(model="BPR"))
    assert "DiffuRek" in mistake(capsys, *flags(model="DiffuRek"))
    assert "model must be the name of a model, such as DiffuRec, got None" in mistake(capsys)
    assert "--scale" in mistake(capsys, "--quick", "--model=DiffuRec")
    occupied = tmp_path / "file"
    occupied.touch()
    arguments = ("--scale", "--quick", "--model=DiffuRec")
    assert "output must be a folder" in mistake(capsys, *arguments, f"--output={occupied}")
    assert "masked histories" in mistake(capsys, "--scale", "--model=BERT4Rec")


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: speed.run(["--help"])) == 0
    text = capsys.readouterr().out
    assert all(f"--{flag}" in text for flag in (*speed.NUMBERS, "scale", "quick", "output"))
