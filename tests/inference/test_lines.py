from __future__ import annotations

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recbole_diffusion.errors import UserError
from recbole_diffusion.inference.lines import InputLine, count_lines, input_format, opened, read_lines


def read(text: str | bytes, kind: str) -> list[InputLine]:
    content = text if isinstance(text, bytes) else text.encode()
    return list(read_lines(io.BytesIO(content), "in", kind))


def test_jsonl_holds_objects_or_lists() -> None:
    text = '{"user": "a", "history": ["50", 7]}\n\n["1"]\n{"history": ["2"], "user": 9}'
    assert read(text, "jsonl") == [InputLine(1, "a", ["50", "7"]), InputLine(3, "3", ["1"]), InputLine(4, "9", ["2"])]


def test_csv_separates_items_by_spaces() -> None:
    text = '\ufeffhistory,extra,user\n50 7,x,a\n\n"1  2",,b\n'
    assert read(text, "csv") == [InputLine(2, "a", ["50", "7"]), InputLine(4, "b", ["1", "2"])]
    assert read("history\n50 7\n", "csv") == [InputLine(2, "2", ["50", "7"])]


@pytest.mark.parametrize(
    ("line", "kind", "problem"),
    [
        ("{", "jsonl", "no valid JSON"),
        ('{"histori": []}', "jsonl", "there is no key 'history'; did you mean histori?"),
        ('{"history": "50"}', "jsonl", "the history must be a list of item tokens"),
        ('{"history": [["50"]]}', "jsonl", "the history must be a list of item tokens"),
        ("[true]", "jsonl", "the history must be a list of item tokens"),
        ("[1.5]", "jsonl", "the history must be a list of item tokens"),
        ('{"history": ["1"], "user": []}', "jsonl", "the user must be a text or a number"),
        ('{"history": ["1"], "user": "\\ud800"}', "jsonl", "the user must be written in whole letters"),
        (b'["\xff"]', "jsonl", "in is not written in UTF-8"),
        ("a", "csv", "1 cells, where the header has 2"),
        ("a,1,2", "csv", "3 cells, where the header has 2"),
        ('a,"1', "csv", "no valid csv"),
    ],
)
def test_a_malformed_line_is_told_and_the_others_are_read(line: str | bytes, kind: str, problem: str) -> None:
    good = b"u,7\n" if kind == "csv" else b'{"user": "u", "history": ["7"]}\n'
    header = b"user,history\n" if kind == "csv" else good
    content = header + (line if isinstance(line, bytes) else line.encode()) + b"\n" + good
    lines = read(content, kind)
    bad = [line for line in lines if line.problem]
    assert [(line.number, line.history) for line in bad] == [(2, [])] and problem in str(bad[0].problem)
    assert all(line.user == "u" and line.history == ["7"] for line in lines if not line.problem)
    assert lines[-1].number == 3


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=40))
def test_no_line_stops_the_reading(content: bytes) -> None:
    line = content.replace(b"\n", b" ")
    assert read(line + b'\n["7"]\n', "jsonl")[-1] == InputLine(2, "2", ["7"])
    assert read(b"history\n" + line + b"\n7\n", "csv")[-1] == InputLine(3, "3", ["7"])


def test_a_csv_file_without_histories_is_refused() -> None:
    with pytest.raises(UserError, match=r"in: there is no column history in the header \(there are: user, items\)"):
        read("user,items\na,1\n", "csv")
    with pytest.raises(UserError, match="in: the header is no valid csv "):
        read("user,his\rtory\na,1\n", "csv")


def test_formats_follow_the_name() -> None:
    assert [input_format(name, None) for name in ("a.csv", "b.jsonl", "-")] == ["csv", "jsonl", "jsonl"]
    assert input_format("a.txt", "csv") == "csv"
    with pytest.raises(UserError, match=r"input must end in jsonl or csv, .*got 'a.txt'"):
        input_format("a.txt", None)


def test_files_are_counted_and_missing_ones_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("[1]\n\n[2]\n")
    assert count_lines(str(tmp_path / "a.jsonl")) == 2 and count_lines("-") is None
    with pytest.raises(UserError, match="absent: cannot be read"), opened("absent"):
        pass
