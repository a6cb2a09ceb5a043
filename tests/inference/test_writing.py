from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_diffusion.errors import UserError
from recbole_diffusion.inference.certainty import Certainty
from recbole_diffusion.inference.results import Recommendations
from recbole_diffusion.inference.writing import open_output, output_format

KINDS = ("csv", "jsonl", "parquet")


def part(first: int, rows: int = 2) -> Recommendations:
    """Made up recommendations of two items to users `u{first}` and on; of the last user's, one is missing."""
    items = np.array([[f"{row}", 'a,"ü'] for row in range(rows)], dtype=object)
    scores = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2) / 3
    items[-1, 1], scores[-1, 1] = None, np.nan
    figures: Any = [scores, scores, scores, scores[:, 0], scores[:, 0]]
    users = [f"u{first + row}" for row in range(rows)]
    return Recommendations(users, items, scores, items.copy(), Certainty(*figures))


def read(path: Path, kind: str) -> pd.DataFrame:
    if kind == "parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, dtype={"item": str}) if kind == "csv" else pd.read_json(path, lines=True)


@pytest.mark.parametrize("kind", KINDS)
def test_files_hold_what_was_written_and_nothing_else_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "new" / f"a.{kind}"
    with open_output(str(path), kind) as write:
        write(part(0))
        write(part(2))
        assert not path.exists()
    assert os.listdir(path.parent) == [path.name]
    table = read(path, kind)
    if kind == "jsonl":
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert [record["user"] for record in records] == ["u0", "u1", "u2", "u3"]
        assert records[0]["items"] == ["0", 'a,"ü'] and records[1]["items"] == ["1"]
        assert records[1]["scores"] == pytest.approx([2 / 3]) and len(records[1]["share"]) == 1
    else:
        assert table["user"].tolist() == ["u0", "u0", "u1", "u2", "u2", "u3"]
        assert table["item"].tolist() == ["0", 'a,"ü', "1"] * 2
        assert table["rank"].tolist() == [1, 2, 1] * 2
        np.testing.assert_allclose(table["score"], [0, 1 / 3, 2 / 3] * 2, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_is_broken_off_leaves_the_older_file(tmp_path: Path, kind: str, error: type[BaseException]) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_text("old")
    with pytest.raises(error), open_output(str(path), kind) as write:
        write(part(0))
        raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("kind", KINDS)
def test_a_first_part_without_answers_does_not_cost_the_header(tmp_path: Path, kind: str) -> None:
    with open_output(str(tmp_path / "a"), kind) as write:
        write(part(0, rows=1).reordered(np.array([], dtype=int)))
        write(part(0))
    table = read(tmp_path / "a", kind)
    assert table.columns[0] == "user" and set(table["user"]) == {"u0", "u1"}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_write_is_an_empty_file(tmp_path: Path, kind: str) -> None:
    with open_output(str(tmp_path / "a"), kind):
        pass
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_takes_one_line(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    message = r"a: cannot be written \(No space left on device\)"
    with pytest.raises(UserError, match=message), open_output(str(tmp_path / "a"), kind) as write:
        write(part(0))
    assert os.listdir(tmp_path) == []


def test_formats_follow_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [output_format(name, None) for name in ("a.csv", "b.jsonl", "c.parquet", "-")] == [*KINDS, "jsonl"]
    with pytest.raises(UserError, match=r"output must end in one of csv, jsonl, parquet, .* got 'a.txt'"):
        output_format("a.txt", None)
    with pytest.raises(UserError, match="output_format must be csv or jsonl for stdout"):
        output_format("-", "parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"parquet output needs pyarrow: pip install \"recbole-diffusion\[parquet\]\""):
        output_format("a.parquet", None)
