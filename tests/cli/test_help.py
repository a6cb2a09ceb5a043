from __future__ import annotations

import pytest

from recbole_diffusion import __version__
from recbole_diffusion.cli.parsers import SCRIPT
from recbole_diffusion.cli.train import main
from recbole_diffusion.host.registry import PROPERTIES


def test_help_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert f"usage: {SCRIPT}" in out
    example = next(line for line in out.splitlines() if line.startswith("  python"))
    assert example == "  python run_recbole_diffusion.py --model=DiffuRec --dataset=ml-100k"
    for flag in (
        "--config_files",
        "--nproc",
        "--ip",
        "--port",
        "--world_size",
        "--group_offset",
        "--resume",
        "--debug",
    ):
        assert flag in out
    assert main(["-h"]) == 0 and capsys.readouterr().out == out


@pytest.mark.parametrize("argv", [["--help", "--model=DiffuRec"], ["--keys"], ["--keys", "-m", "DiffuRec"]])
def test_keys_of_a_model_come_from_its_yaml(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    out = capsys.readouterr().out
    for name in ("overall.yaml", "model/DiffuRec.yaml"):
        assert (PROPERTIES / name).read_text(encoding="utf-8").strip() in out


@pytest.mark.parametrize("switch", ["--help", "--keys"])
def test_keys_of_a_comparison_come_from_their_yaml(switch: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([switch, "--model_list=DiffuRec,SASRec"]) == 0
    out = capsys.readouterr().out
    assert (PROPERTIES / "compare.yaml").read_text(encoding="utf-8").strip() in out and "overall.yaml" not in out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"recbole-diffusion {__version__}\n"
