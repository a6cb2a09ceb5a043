from __future__ import annotations

from pathlib import Path

import pytest

from recbole_diffusion.cli import parsers


@pytest.mark.parametrize(
    ("parser", "flags"),
    [
        (parsers.recommend_parser(), ["checkpoint", "titles", "input", "output"]),
        (parsers.explain_parser(), ["checkpoint", "titles", "output"]),
        (parsers.evaluate_parser(), ["checkpoint", "ranks", "output"]),
        (parsers.report_parser(), ["output"]),
    ],
)
def test_a_path_behind_an_equals_sign_may_begin_at_home(
    parser: parsers.Parser, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    more = {"report": ["a"], "explain": ["--history=1"]}.get(parser.prog.split()[-1], [])
    args = parser.read([*(f"--{flag}=~/a" for flag in flags), *more])
    assert {getattr(args, flag) for flag in flags} == {str(tmp_path / "a")}


def test_two_models_may_lie_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    args = parsers.explore_parser().read(["--checkpoint=~/a", "--checkpoint=b"])
    assert args.checkpoint == [str(tmp_path / "a"), "b"]
