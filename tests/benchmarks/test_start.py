from __future__ import annotations

import json

import pytest

from benchmarks import start
from recbole_diffusion.cli.exit_codes import run_command

SMALL = ["--user_inter_num_interval=[0,24]", "--hidden_size=16", "--inner_size=32", "--n_layers=1", "--n_heads=2"]


def test_one_json_object(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "ROUNDS", 1)
    assert run_command(lambda: start.run(["--model=DiffuRec", "--dataset=ml-100k", *SMALL])) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["seconds"] == [figures["median_s"]] and figures["median_s"] > 0


def test_a_command_that_fails_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: start.run(["--model=DiffuRec", "--epochs=no"])) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: no step was made: error: epochs must be a whole number")
