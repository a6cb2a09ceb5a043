from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recbole_diffusion import __version__
from recbole_diffusion.cli import train as cli
from recbole_diffusion.cli.main import COMMANDS, main


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_an_overview(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert err == "" and all(f"\n  {command} " in out for command in COMMANDS)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"recbole-diffusion {__version__}\n"


@pytest.mark.parametrize(("argv", "hint"), [(["recomend"], "; did you mean recommend?"), (["--model=DiffuRec"], "")])
def test_a_command_that_is_none(argv: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    wanted = f"{argv[0]}: no such command; one of train, compare, recommend, explain is wanted{hint}"
    assert capsys.readouterr() == ("", f"error: {wanted}\n")


def test_training_is_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(cli, "main", lambda argv: calls.append(list(argv)) or 7)
    assert main(["train", "--model=DiffuRec"]) == 7
    assert main(["compare", "--model_list=DiffuRec,SASRec", "-d", "toy"]) == 7
    assert calls == [["--model=DiffuRec"], ["--model_list=DiffuRec,SASRec", "-d", "toy"]]


def test_a_comparison_is_of_several_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--dataset=toy"]) == 2
    assert capsys.readouterr().err == "error: compare: the models are wanted, as in --model_list=DiffuRec,SASRec\n"


@pytest.mark.parametrize("command", ["recommend", "explain"])
def test_the_help_of_a_command(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "recbole_diffusion.cli.main", command, "--help"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0 and done.stderr == ""
    assert f"usage: recbole-diffusion {command}" in done.stdout and "--checkpoint" in done.stdout
