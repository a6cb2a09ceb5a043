from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import noise_worth
from recbole_diffusion.cli.exit_codes import run_command

PAIR = {"first": "DiffuRec", "second": "DiffuRec-off", "difference": 0.01, "low": -0.01, "high": 0.03, "off_mean": 0.05}
RESULTS = {
    "dataset": "ml-100k",
    "eval_args": {"split": {"LS": "valid_and_test"}},
    "history_in_ranking": "both",
    "rows": [
        {"name": "DiffuRec", "seeds": [1, 2, 3]},
        {"name": "DiffuRec-off", "seeds": [1]},
        {"name": "more dropout", "seeds": [1, 2]},
    ],
    # Of the two tests the second is against a control.
    "noise": [PAIR, {**PAIR, "second": "more dropout", "difference": 0.03}],
    "history_out": {"noise": [{**PAIR, "difference": 0.02}]},
}


def test_a_line_names_model_data_and_seeds() -> None:
    assert noise_worth.rows_of(RESULTS) == {
        "DiffuRec, ml-100k, 1 seed": {"history in": PAIR, "history out": {**PAIR, "difference": 0.02}}
    }


def test_a_split_by_time_is_named() -> None:
    by_time = {**RESULTS, "eval_args": {"split": {"GTS": [0.8, 0.9]}}}
    assert list(noise_worth.rows_of(by_time)) == ["DiffuRec, ml-100k split by time, 1 seed"]


def test_several_comparisons_give_one_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(RESULTS))
    picture = tmp_path / "noise.png"
    folders = [str(tmp_path / name) for name in ("a", "b")]
    assert run_command(lambda: noise_worth.run([*folders, f"--output={picture}"])) == 0
    assert picture.read_bytes().startswith(b"\x89PNG") and capsys.readouterr().out == f"picture: {picture}\n"


@pytest.mark.parametrize(
    ("results", "message"),
    [
        (None, "got one without results.json"),
        ({**RESULTS, "noise": [], "history_out": {"noise": []}}, "and its -off row"),
    ],
)
def test_mistakes_are_one_line(
    results: object, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if results is not None:
        (tmp_path / "results.json").write_text(json.dumps(results))
    assert run_command(lambda: noise_worth.run([str(tmp_path), f"--output={tmp_path / 'noise.png'}"])) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert not (tmp_path / "noise.png").exists()
