from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recbole_diffusion.errors import UserError
from recbole_diffusion.inference.certainty import Certainty
from recbole_diffusion.inference.results import Recommendations
from recbole_diffusion.inference.writing import FileOutput, output_format

KINDS = ("csv", "jsonl", "parquet")


def lot(first: int, rows: int = 2, measured: bool = True) -> Recommendations:
    """Made up recommendations of two items to users `u{first}` and on; of the last user's, one is missing."""
    items = np.array([[f"{row}", 'a,"ü'] for row in range(rows)], dtype=object)
    scores = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2) / 3
    items[-1, 1], scores[-1, 1] = None, np.nan
    figures: Any = [scores, scores, scores, scores[:, 0], scores[:, 0]]
    users = [f"u{first + row}" for row in range(rows)]
    return Recommendations(users, items, scores, items.copy(), Certainty(*figures) if measured else None)


def write(path: Path, kind: str, lots: list[int], resume: bool = False, command: str = "same") -> FileOutput:
    """Write the lots that are not there yet."""
    output = FileOutput(str(path), kind, command, resume)
    for number in lots[output.progress.done // 2 :]:
        output.write(lot(number), 2 * (lots.index(number) + 1), 0)
    return output


def read(path: Path, kind: str) -> pd.DataFrame:
    if kind == "parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path, dtype={"item": str}) if kind == "csv" else pd.read_json(path, lines=True)


@pytest.mark.parametrize("kind", KINDS)
def test_files_hold_what_was_written_and_nothing_else_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "new" / f"a.{kind}"
    output = write(path, kind, [0, 2])
    assert not path.exists()
    output.finish()
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
@pytest.mark.parametrize("rest", [b"", b"half a line", b"u9,1,x,0.5\n"])
def test_what_was_broken_off_is_gone_on_with(tmp_path: Path, kind: str, rest: bytes) -> None:
    whole, broken = tmp_path / f"whole.{kind}", tmp_path / f"broken.{kind}"
    write(whole, kind, [0, 2, 4]).finish()
    write(broken, kind, [0, 2])
    with open(f"{broken}.part", "ab") as part:
        part.write(rest)
    with pytest.raises(UserError, match="of a run that was broken off; --resume goes on with it"):
        write(broken, kind, [0, 2, 4])
    with pytest.raises(UserError, match="of other options, another input or another checkpoint"):
        write(broken, kind, [0, 2, 4], resume=True, command="other")
    output = write(broken, kind, [0, 2, 4], resume=True)
    output.finish()
    assert broken.read_bytes() == whole.read_bytes()
    assert write(broken, kind, [], resume=True).complete


def test_a_run_that_broke_off_before_its_first_lot_begins_again(tmp_path: Path) -> None:
    (tmp_path / "a.csv.part").write_text("user,ra")
    write(tmp_path / "a.csv", "csv", [0], resume=True).finish()
    write(tmp_path / "b.csv", "csv", [0]).finish()
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_part_that_lost_its_end_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", "csv", [0])
    (tmp_path / "a.csv.part").write_text("user")
    with pytest.raises(UserError, match="shorter than it was"):
        write(tmp_path / "a.csv", "csv", [0], resume=True)


def test_a_first_lot_without_answers_does_not_cost_the_header(tmp_path: Path) -> None:
    output = FileOutput(str(tmp_path / "a.csv"), "csv", "", resume=False)
    output.write(lot(0, rows=1).reordered(np.array([], dtype=int)), 1, 1)
    output.write(lot(0), 3, 1)
    output.finish()
    assert read(tmp_path / "a.csv", "csv").columns[:4].tolist() == ["user", "rank", "item", "score"]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_to_write_is_an_empty_file(tmp_path: Path, kind: str) -> None:
    FileOutput(str(tmp_path / "a"), kind, "", resume=False).finish()
    assert os.listdir(tmp_path) == ["a"]


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    output = write(path, "csv", [0])

    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            UserError, match=r"No space left on device\); 2 inputs are answered in .*\.part, and --resume"
        ):
            output.write(lot(2), 4, 0)
    write(path, "csv", [0, 2], resume=True).finish()
    assert read(path, "csv")["user"].tolist() == ["u0", "u0", "u1", "u2", "u2", "u3"]


def test_formats_follow_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [output_format(name, None) for name in ("a.csv", "b.jsonl", "c.parquet", "-")] == [*KINDS, "jsonl"]
    with pytest.raises(UserError, match=r"output='a.txt': one of csv, jsonl, parquet is wanted"):
        output_format("a.txt", None)
    with pytest.raises(UserError, match="parquet is written to files only"):
        output_format("-", "parquet")
    monkeypatch.setattr("recbole_diffusion.inference.writing.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install pyarrow"):
        output_format("a.parquet", None)
