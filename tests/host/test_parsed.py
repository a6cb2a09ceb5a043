from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
from made_data import HEADER, ROWS, load
from pandas.testing import assert_frame_equal

from recbole_diffusion.host import parsed

# Ids that read like holes, a letter of two bytes, holes among text and numbers.
TEXT = "item\tprice\tcolours\nNA\t1.5\tred wine\né\t\t\n007\t-2e-3\tred wine\n\t0.1\tblue\n"


@pytest.fixture(autouse=True)
def of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsed, "SMALLEST", 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "made.item").write_text(TEXT, encoding="utf-8")
    return tmp_path / "made.item"


def parse(path: Path) -> pd.DataFrame:
    types = {"item": str, "price": np.float64, "colours": str}
    return pd.read_csv(path, sep="\t", dtype=types, keep_default_na=False, na_values=[""])


def parse_once(path: Path, read_by: str = "all") -> tuple[pd.DataFrame, bool]:
    """The table, and whether the text was parsed for it."""
    reader = Mock(side_effect=lambda: parse(path))
    return parsed.parse_once(str(path), read_by, reader, logging.getLogger()), reader.called


def test_a_file_is_parsed_once_and_gives_the_same_table(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    first, second = parse_once(path), parse_once(path)
    assert (first[1], second[1]) == (True, False)
    assert second[0]["item"].isna().tolist() == [False, False, False, True]
    assert_frame_equal(first[0], parse(path), check_exact=True)
    assert_frame_equal(second[0], parse(path), check_exact=True)
    [kept] = path.parent.glob("*.npz")
    assert caplog.messages == [f"the parsed columns of {path} are kept in {kept.name} (cache_data=False keeps none)"]


def test_columns_without_a_single_word_are_kept(path: Path) -> None:
    path.write_text("item\tprice\tcolours\ni\t\t\nj\t\t\n")
    parse_once(path)
    assert_frame_equal(parse_once(path)[0], parse(path))


def test_a_file_that_has_changed_is_parsed_anew_whatever_its_time_says(path: Path) -> None:
    parse_once(path)
    times = path.stat()
    path.write_text(TEXT.replace("007", "008"), encoding="utf-8")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    table, called = parse_once(path)
    assert called and table["item"][2] == "008"
    assert not parse_once(path)[1] and len(list(path.parent.glob("*.npz"))) == 1


def test_other_settings_have_a_file_of_their_own(path: Path) -> None:
    assert [parse_once(path, by)[1] for by in ("all", "few", "all", "few")] == [True, True, False, False]


@pytest.mark.parametrize("damage", ["cut", "flipped", "method", "locked", "array", "pickle", "empty"])
def test_what_is_damaged_or_no_such_file_is_written_anew(path: Path, damage: str) -> None:
    parse_once(path)
    [kept] = path.parent.glob("*.npz")
    whole = kept.read_bytes()
    if damage == "cut":
        kept.write_bytes(whole[: len(whole) // 2])
    elif damage == "flipped":
        at = whole.index(b"007")
        kept.write_bytes(whole[:at] + b"1" + whole[at + 1 :])
    elif damage in ("method", "locked"):
        # Where the list of contents says how the first array is packed, and whether by a password.
        at = whole.index(b"PK\1\2") + (10 if damage == "method" else 8)
        kept.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    elif damage == "array":
        with open(kept, "wb") as file:
            np.save(file, np.arange(3))
    elif damage == "pickle":
        with np.load(kept) as arrays:
            arrays = {**arrays, "1 numbers": np.array([print], dtype=object)}
        np.savez(kept, **arrays)
    else:
        kept.write_bytes(b"")
    table, called = parse_once(path)
    assert called
    assert_frame_equal(table, parse(path))
    assert not parse_once(path)[1]


def test_a_folder_that_cannot_be_written_to_costs_the_time_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    refused = OSError(errno.EROFS, "Read-only file system")
    monkeypatch.setattr(parsed.np, "savez", Mock(side_effect=refused))
    assert [parse_once(path)[1] for _ in range(2)] == [True, True]
    assert list(path.parent.iterdir()) == [path] and not caplog.messages


def test_a_small_file_is_parsed_each_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsed, "SMALLEST", path.stat().st_size + 1)
    assert [parse_once(path)[1] for _ in range(2)] == [True, True]
    assert list(path.parent.iterdir()) == [path]


def test_a_dataset_is_the_same_from_its_kept_columns(
    atomic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = atomic(inter=f"{HEADER}\n{ROWS}", item="item_id:token\ttitle:token_seq\ni1\ta b\ni2\t\n")
    settings = {"load_col": None, "cache_data": True}
    first = load(folder, **settings)
    monkeypatch.setattr(pd, "read_csv", Mock(side_effect=AssertionError("parsed again")))
    second = load(folder, **settings)
    assert second.field2id_token["item_id"].tolist() == first.field2id_token["item_id"].tolist()
    for field in ("user_id", "item_id", "timestamp"):
        assert second.inter_feat[field].tolist() == first.inter_feat[field].tolist()
    assert all(map(np.array_equal, second.item_feat["title"], first.item_feat["title"]))
    with pytest.raises(AssertionError, match="parsed again"):
        load(folder, **{**settings, "cache_data": False})
