from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import noise_worth
from recbole_diffusion.cli.exit_codes import run_command

PAIR: dict[str, Any] = {
    **{"first": "DiffuRec", "second": "DiffuRec-off", "difference": 0.01, "low": -0.01, "high": 0.03, "off_mean": 0.05},
    **{"ndcg_significant": False, "equivalent": False, "wilcoxon": 0.5},
}
GAIN = {**PAIR, "ndcg_significant": True, "wilcoxon": 0.02}
RESULTS: dict[str, Any] = {
    "dataset": "ml-100k",
    "seeds": [1, 2, 3],
    "runs": [],
    "eval_args": {"split": {"LS": "valid_and_test"}},
    "history_in_ranking": "both",
    "rows": [
        {"name": "DiffuRec", "seeds": [1, 2, 3], "model": "DiffuRec", "settings": {"data_path": "a", "hidden_size": 8}},
        {"name": "DiffuRec-off", "seeds": [1], "model": "DiffuRec", "settings": {}},
        {"name": "more dropout", "seeds": [1, 2], "model": "DiffuRec", "settings": {}},
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


def changed(seeds: int = 1, test: dict[str, Any] = PAIR, **settings: Any) -> dict[str, Any]:
    """Results of which the row without noise has so many seeds; of one ranking."""
    first, second, control = RESULTS["rows"]
    rows = [{**first, "settings": first["settings"] | settings}, {**second, "seeds": list(range(seeds))}, control]
    return {**RESULTS, "rows": rows, "noise": [test], "history_out": {"noise": []}}


def test_the_same_training_counts_once_by_most_seeds() -> None:
    elsewhere = changed(seeds=3, test=GAIN, data_path="b", history_in_ranking="in")
    chosen = noise_worth.once({"few": changed(), "most": elsewhere, "fewer": changed(seeds=2)})
    assert chosen == {"history in": {"DiffuRec of most": GAIN}}


def test_other_settings_or_data_count_apart() -> None:
    other_data = {**changed(), "dataset": "ml-1m"}
    chosen = noise_worth.once({"a": changed(), "b": changed(hidden_size=16), "c": other_data})
    assert list(chosen["history in"]) == ["DiffuRec of a", "DiffuRec of b", "DiffuRec of c"]


def test_counts_and_what_remains_of_all_pairs() -> None:
    cost = {**GAIN, "difference": -0.01, "wilcoxon": 0.001}
    same = {**PAIR, "equivalent": True}
    text = noise_worth.counts({"history in": {"a": GAIN, "b": cost, "c": PAIR, "d": same}})
    assert [cell.strip() for cell in text.splitlines()[2].split("|")] == ["", "history in", "4", "1", "1", "1", "1", ""]
    # 3 · 0.02 is above 0.05, 4 · 0.001 is not.
    assert text.splitlines()[-1] == "history in, corrected for all 4 pairs: b (costs)"


def test_several_comparisons_give_one_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(RESULTS))
    picture = tmp_path / "noise.webp"
    folders = [str(tmp_path / name) for name in ("a", "b")]
    assert run_command(lambda: noise_worth.run([*folders, f"--output={picture}"])) == 0
    printed = capsys.readouterr().out
    assert picture.read_bytes()[8:12] == b"WEBP" and printed.endswith(f"pairs: none\n\npicture: {picture}\n")


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
    assert run_command(lambda: noise_worth.run([str(tmp_path), f"--output={tmp_path / 'noise.webp'}"])) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert not (tmp_path / "noise.webp").exists()
