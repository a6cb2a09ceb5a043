from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from saved_models import Saved

from benchmarks import exploring
from recbole_diffusion.cli.exit_codes import run_command


def test_one_json_object(saved: Callable[..., Saved], capsys: pytest.CaptureFixture[str]) -> None:
    flags = [*[f"--checkpoint={saved('DiffuRec').path}"] * 2, "--timed_users=5"]
    capsys.readouterr()
    assert run_command(lambda: exploring.run(flags)) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["models"], figures["users"]) == (2, 5)
    assert 0 < figures["lists_ms"]["median"] <= figures["lists_ms"]["95 %"]
    assert figures["start_s"] > 0 and figures["process_ms"]["median"] > 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--timed_users=3"], "timed_users must be above 3, got 3"),
        ([], "the explorer did not start"),
    ],
)
def test_mistakes_are_said(flags: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: exploring.run(["--checkpoint=absent.pth", *flags])) == 2
    out, err = capfd.readouterr()
    assert out == "" and message in err
    assert list(Path().iterdir()) == []
