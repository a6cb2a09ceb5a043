from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from made_data import HEADER, ROWS, load

from recbole_diffusion.errors import UserError
from recbole_diffusion.host import atomic_files


@pytest.mark.parametrize("encoding", [None, "utf_8", "U8"])
def test_ids_are_read_as_they_are_written(atomic: Callable[..., str], encoding: str | None) -> None:
    ids = ["NA", "null", "None", "nan", '"open', "a b", "é", "007", "a\x85b"]
    rows = "".join(f"{user}\t{item}\t{i}\r\n" for user in ids[:4] for i, item in enumerate(ids))
    path = atomic(inter=f"\ufeff{HEADER}\r\n{rows}")
    dataset = load(path, encoding=encoding)
    assert set(dataset.field2token_id["user_id"]) == {"[PAD]", *ids[:4]}
    assert set(dataset.field2token_id["item_id"]) == {"[PAD]", *ids}
    assert len(dataset.inter_feat) == 36
    assert dataset.inter_feat["timestamp"].max() == 8


def test_a_separator_at_the_end_of_the_rows_shifts_nothing(atomic: Callable[..., str]) -> None:
    dataset = load(atomic(inter=HEADER + "\n" + ROWS.replace("\n", "\t\n") + "\t\n"))
    assert dataset.field2id_token["user_id"].tolist() == ["[PAD]", "u0", "u1", "u2"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        (HEADER, "there is a header, but no row below it"),
        (f"{HEADER}\n", "there is a header, but no row below it"),
        ("user_id\titem_id:token\nu\ti\n", "'user_id' in the header has no type"),
        (f"{HEADER}\tx:number\n{ROWS}", "'x:number' in the header: the type must be one of token, float"),
        (f"{HEADER}\titem_id:token\n{ROWS}", "the header names item_id twice"),
        (HEADER.replace("item_id", "itemid") + f"\n{ROWS}", "no column item_id .*did you mean itemid"),
        (
            HEADER.replace("timestamp", "timestmp") + f"\n{ROWS}",
            "no column timestamp .*did you mean timestmp",
        ),
        (
            HEADER.replace("timestamp:float", "timestamp:token") + f"\n{ROWS}",
            "timestamp must be timestamp:float, got timestamp:token",
        ),
        (
            HEADER.replace("user_id:token", "user_id:float") + f"\n{ROWS}",
            "user_id must be user_id:token, got user_id:float",
        ),
        (f"{HEADER}\nu\ti\t1\n\nu\tj\tsoon\n", r"timestamp is float, but no number in line 4 \('soon'\)$"),
        (f"{HEADER}\nu\ti\t1\n\ti\t2\nu\t\t3\n", "user_id is empty in line 3; drop_incomplete_rows=True drops"),
        (f"{HEADER}\nNA\ti\t1\nv\tNA\t2\nu\t\t3\n", "item_id is empty in line 4; drop_incomplete_rows=True drops"),
        (f"{HEADER}\nu\ti\t1\nv\tj\tnan\n", r"timestamp is empty in line 3 \('nan'\)$"),
        (f"{HEADER}\n" + "u\t\t1\n" * 5, "item_id is empty in line 2, line 3, line 4, and more; drop_incomplete_rows"),
        (f"{HEADER}\nu\ti\tx\t1\nv\tj\t2\n", "line 2 has 4 cells, the header 3"),
        (f"{HEADER}\nu\ti\t1\nv\tj\t2\tx\t\n", "line 3 has 5 cells, the header 3"),
        (f"{HEADER}\nu\ti\t1\nv\tj\tinf\n", r"timestamp is infinite in line 3 \('inf'\)"),
        (f"{HEADER}\nu\ti\t1e999\nv\tj\t1\n", r"timestamp is infinite in line 2 \('1e999'\)"),
        (f"{HEADER}\nu\ti\t1\nv\tj\t \n", r"timestamp is float, but no number in line 3 \(' '\)$"),
        (f"{HEADER}\nu\ti\t1\nv\tj\t1_000\n", r"timestamp is float, but no number in line 3 \('1_000'\)$"),
        (f"{HEADER}\nu\ti\t1\nv\tj\t-nan\n", r"timestamp is float, but no number in line 3 \('-nan'\)$"),
        (f"{HEADER}\nu\ti\t1\nv\tj\0\t1\n", "line 3 holds a NUL$"),
        (f"{HEADER}\nu\n", "item_id is empty in line 2; drop_incomplete_rows=True drops"),
    ],
)
def test_mistakes_in_a_file_are_told_in_one_line(atomic: Callable[..., str], text: str, complaint: str) -> None:
    path = atomic(inter=text)
    with pytest.raises(UserError, match=complaint) as raised:
        load(path)
    assert "made.inter" in str(raised.value) and "\n" not in str(raised.value)


def test_rows_without_an_id_are_dropped_where_that_is_set(
    atomic: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    items = "".join(f"i{item}\t2\n" for item in range(1, 6))
    path = atomic(inter=f"{HEADER}\n{ROWS}\n\ti1\t1\nu1\t\t2\n\t\t\n", item=f"item_id:token\tprice:float\n{items}\t3\n")
    dataset = load(path, load_col=None, drop_incomplete_rows=True)
    assert sorted(dataset.inter_feat["user_id"].tolist()) == sorted([1, 2, 3] * 5)
    assert len(dataset.item_feat) == dataset.item_num == 6
    assert [message.split(": ")[-1] for message in caplog.messages if "drop_incomplete_rows" in message] == [
        "dropped 3 of 18 rows, without user_id or item_id",
        "dropped 1 of 6 rows, without item_id",
    ]


def test_dropping_rows_keeps_what_else_must_hold(atomic: Callable[..., str]) -> None:
    with pytest.raises(UserError, match=r"made\.inter: no row has user_id and item_id$"):
        load(atomic(inter=f"{HEADER}\n\ti\t1\nu\t\t2\n"), drop_incomplete_rows=True)
    with pytest.raises(UserError, match=r"column timestamp is empty in line 2$"):
        load(atomic(inter=f"{HEADER}\nu\ti\t\n"), drop_incomplete_rows=True)


def test_further_mistakes_in_files(atomic: Callable[..., str], tmp_path: Path) -> None:
    path = atomic(
        inter=f"{HEADER}\tv:float_seq\n" + ROWS.replace("\n", "\t1 2\n") + "\t1 two\n", item="item:token\nx\n"
    )
    with pytest.raises(UserError, match=r"v is float_seq, but not of numbers in line 16 \('1 two'\)"):
        load(path, load_col={"inter": "*"})
    with pytest.raises(UserError, match=r"made\.item: there is no column item_id"):
        load(path, load_col={"item": "*"})
    with pytest.raises(
        UserError, match=r"no column rating, which load_col names \(there are: user_id, item_id, timestamp, v\)"
    ):
        load(path, load_col={"inter": ["user_id", "item_id", "timestamp", "rating"]})
    (tmp_path / "data/made/made.inter").write_bytes(HEADER.encode() + b"\nu\xe9\ti\t1\n")
    with pytest.raises(UserError, match="set `encoding`"):
        load(path)
    assert load(path, encoding="latin-1").field2id_token["user_id"].tolist() == ["[PAD]", "ué"]


def test_a_file_that_may_not_be_read_is_named(atomic: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    path = atomic(inter=f"{HEADER}\n{ROWS}")
    refused = PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(atomic_files, "open", Mock(side_effect=refused), raising=False)
    with pytest.raises(UserError, match=r"made\.inter: cannot be read \(Permission denied\)$"):
        load(path)


@pytest.mark.parametrize("cell", ["NA", "1 nan", "1 inf 2", "1 two"])
def test_a_sequence_of_floats_holds_finite_numbers(atomic: Callable[..., str], cell: str) -> None:
    rows = ROWS.replace("\n", "\t1 2\n")
    path = atomic(inter=f"{HEADER}\tv:float_seq\n{rows}\t{cell}\n")
    with pytest.raises(UserError, match=rf"v is float_seq, but not of numbers in line 16 \('{cell}'\)$"):
        load(path, load_col={"inter": "*"})


@pytest.mark.parametrize("cell", [" 1", "1 ", "+1", "1.", "1e0", "1E+0", ".1e1"])
def test_numbers_are_read_in_any_form(atomic: Callable[..., str], cell: str) -> None:
    dataset = load(atomic(inter=f"{HEADER}\nu\ti\t0\nu\tj\t{cell}\nu\tk\t2\n"))
    assert dataset.inter_feat["timestamp"].tolist() == [0, 1, 2]


def test_a_long_row_is_found_in_any_block(atomic: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    for block in (1, 7, 16, 1000):
        monkeypatch.setattr(atomic_files, "BLOCK", block)
        load(atomic(inter=f"{HEADER}\n{ROWS}"))
        with pytest.raises(UserError, match="line 17 has 4 cells"):
            load(atomic(inter=f"{HEADER}\n{ROWS}\nu\ti\t1\tx\n"))


def test_a_separator_of_several_characters_is_no_pattern(atomic: Callable[..., str]) -> None:
    text = f"{HEADER}\n{ROWS}".replace("\t", "||")
    assert len(load(atomic(inter=text), field_separator="||").inter_feat) == 15


def test_an_empty_history_of_a_pre_split_file_is_named(atomic: Callable[..., str], tmp_path: Path) -> None:
    header = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
    path = atomic()
    for part in ("train", "valid", "test"):
        text = header + "u\ta b\tc\n" + ("v\t\ta\n" if part == "valid" else "")
        (tmp_path / "data" / "made" / f"made.{part}.inter").write_text(text)
    settings = {"benchmark_filename": ["train", "valid", "test"]}
    with pytest.raises(UserError, match=r"made\.valid\.inter: column item_id_list is empty in line 3; drop_incomplete"):
        load(path, **settings)
    assert len(load(path, **settings, drop_incomplete_rows=True).inter_feat) == 3
