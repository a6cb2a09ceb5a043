from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from small_plans import SMALL

from recbole_diffusion.cli.main import main

SEVERAL = "--model_list=DiffuRec,SASRec"


@pytest.fixture
def tuned(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would be tuned."""
    calls: list[Any] = []
    monkeypatch.setattr("recbole_diffusion.compare.tune.tune_all", lambda request: calls.append(request) or "the table")
    return calls


@pytest.mark.parametrize("command", ["compare", "tune"])
def test_several_models_must_be_named(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--dataset=toy"]) == 2
    message = f"error: {command} needs the models, as in --model_list=DiffuRec,SASRec\n"
    assert capsys.readouterr().err == message


def test_tuning_needs_its_trials(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", SEVERAL]) == 2
    assert capsys.readouterr().err == "error: tune needs the number of trials, as in --trials=8\n"


@pytest.mark.parametrize(
    ("argv", "module", "message"),
    [
        (["compare", SEVERAL], "plotly", 'a comparison needs plotly: pip install "recbole-diffusion[compare]"'),
        (["tune", SEVERAL, "--trials=2"], "optuna", 'tuning needs optuna: pip install "recbole-diffusion[tune]"'),
    ],
)
def test_an_extra_that_is_missing_is_named(
    argv: list[str], module: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert main(argv) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


def test_models_and_trials_may_stand_in_a_file(tuned: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text("variants: {a: {model: DiffuRec}}\ntrials: 3\ndataset: toy\n")
    assert main(["tune", "--config_files=mine.yaml"]) == 0
    assert capsys.readouterr() == ("the table\n", "")
    assert (tuned[0].own["trials"], tuned[0].dataset) == (3, "toy")


def test_the_script_tunes_where_trials_are_set(tuned: list[Any]) -> None:
    assert main([SEVERAL, "--trials=2"]) == 0
    assert tuned[0].own["trials"] == 2


def test_trials_of_compare_are_said_to_be_tunes(tuned: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", SEVERAL, "--trials=2"]) == 0
    assert len(tuned) == 1 and capsys.readouterr().err == "--trials tunes: this is recbole-diffusion tune\n"


def test_train_takes_one_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", SEVERAL]) == 2
    message = "train takes one model; for several there are recbole-diffusion compare and tune"
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize(
    ("command", "flags", "absent"),
    [("compare", ["--against", "--jobs"], "--trials"), ("tune", ["--trials", "--cluster"], "--against")],
)
def test_help_has_the_settings_of_the_command(
    command: str, flags: list[str], absent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {flag} VALUE" in out for flag in ["--model_list", *flags]) and f"\n  {absent} VALUE" not in out


def test_a_deadline_ends_the_command_with_a_line_and_a_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    small = [f"--{key}={value}" for key, value in SMALL.items()]
    # Minutes from the start of this process, which are over.
    late = ["--dataset=ml-100k", "--deadline=0.001", *small]
    assert main(["compare", "--model_list=Pop,SASRec", "--seeds=1,2", *late]) == 75
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "deadline: 4 of 4 runs are left; the same command goes on with them"
    assert main(["train", "--model=SASRec", *late]) == 75
    assert capsys.readouterr().err.splitlines()[-1] == "deadline: no time is left"
    assert main(["train", "--model=SASRec", "--deadline=soon"]) == 2
    assert "deadline must be minutes such as 15" in capsys.readouterr().err
