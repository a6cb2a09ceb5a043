from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recbole_diffusion import __version__
from recbole_diffusion.cli import compare, train
from recbole_diffusion.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[2]
# A finder that knows no RecBole.
HIDDEN = """\
import importlib.util, runpy, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "recbole" else find(name, package)
sys.modules["recbole"] = None
"""


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"], ["help"]])
def test_an_overview(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert err == "" and all(f"\n    {command}" in out for command in COMMANDS)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"recbole-diffusion {__version__}\n"


@pytest.mark.parametrize(("word", "hint"), [("recomend", "; did you mean recommend?"), ("DiffuRec", "")])
def test_a_command_that_is_none(word: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    message = f"{word}: there is no such command; there are {', '.join(COMMANDS)}{hint}"
    assert capsys.readouterr() == ("", f"error: {message}\n")


def test_flags_without_a_command_are_the_scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    trained, compared = [], []
    monkeypatch.setattr(train, "train", lambda args: trained.append(args.settings))
    monkeypatch.setattr(compare, "run_settings", lambda *given: compared.append(given))
    assert main(["--model=DiffuRec"]) == main(["train", "--model=DiffuRec"]) == 0
    assert trained == [{"model": "DiffuRec"}] * 2
    argv = ["--model_list=DiffuRec,SASRec", "-d", "toy"]
    assert main(argv) == main(["compare", *argv]) == 0
    settings = {"model_list": "DiffuRec,SASRec", "dataset": "toy"}
    assert compared == [(settings, [], argv), (settings, [], ["compare", *argv], False)]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_import_wait_for_no_large_library(command: str) -> None:
    code = (
        "import sys; import recbole_diffusion; from recbole_diffusion.cli.main import main\n"
        f"code = main([{command!r}, '--help'])\n"
        "large = {'torch', 'recbole', 'pandas', 'numpy', 'scipy'} & sys.modules.keys()\n"
        "sys.exit(f'{code} {large}' if code or large else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: recbole-diffusion {command}" in done.stdout and f"  recbole-diffusion {command} --" in done.stdout


def test_python_m_is_the_same() -> None:
    done = subprocess.run([sys.executable, "-m", "recbole_diffusion", "--version"], capture_output=True, cwd=ROOT)
    assert done.stdout.decode() == f"recbole-diffusion {__version__}\n"


@pytest.mark.parametrize(
    "argv",
    [
        *(["train"], ["compare", "--model_list=DiffuRec"], ["tune", "--model_list=DiffuRec", "--trials=1"]),
        *(["recommend", "--checkpoint=a.pth", "--history=1"], ["explain", "--checkpoint=a.pth", "--history=1"]),
        *(["--model=SASRec"], ["--keys"]),
    ],
    ids=" ".join,
)
def test_without_recbole_the_first_line_says_what_to_type(argv: list[str]) -> None:
    code = f"{HIDDEN}from recbole_diffusion.cli.main import main; sys.exit(main({argv!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    line = "error: RecBole is not installed; type: pip install --no-deps recbole==1.2.1\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


@pytest.mark.parametrize("name", ["run", "Recommender"])
def test_without_recbole_an_import_says_so_too(name: str) -> None:
    code = f"{HIDDEN}import recbole_diffusion\nfrom recbole_diffusion import {name}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("type: pip install --no-deps recbole==1.2.1")
