from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from recbole_diffusion.errors import UserError
from recbole_diffusion.host.titles import read_titles
from recbole_diffusion.training import checkpoint


@pytest.mark.parametrize(
    ("text", "column", "titles"),
    [
        ('item_id:token\tmovie_title:token_seq\n1\tA "B\n2\t\nNA\tnan\n', None, {"1": 'A "B', "2": "", "NA": "nan"}),
        ("name:token\titem_id:token\ttitle:token\nx\t1\ty\n", None, {"1": "y"}),
        ("name:token\titem_id:token\ttitle:token\nx\t1\ty\n", "name", {"1": "x"}),
        ('\ufeffid,artistName,n\n7,"a, b",1\n', None, {"7": "a, b"}),
        ("id,what\n7,x\n", "what", {"7": "x"}),
        ("item_id:token\tcategories:token_seq\n1\ta b\n", None, {}),
        (",title\n7,x\n", None, {"7": "x"}),
        ("id,title,id\n7,x,8\n", None, {"7": "x"}),
        ("id,title\n7,a\x1b[2Jb\u200dc\n", None, {"7": "a [2Jb\u200dc"}),
        ("id,title\n", None, {}),
        ("", None, {}),
    ],
)
def test_titles_by_token(tmp_path: Path, text: str, column: str | None, titles: dict[str, str]) -> None:
    path = tmp_path / "a"
    path.write_text(text, encoding="utf-8")
    assert read_titles(path, column) == titles


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"id,title\n1,a\n", "there is no column name (there are: id, title)"),
        (b"id,name\n1,\xff\n", "the titles cannot be read"),
        (b'id,name\n1,"a\n', "the titles cannot be read"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(f"{path}: {message}")) as caught:
        read_titles(path, "name")
    assert "\n" not in str(caught.value)


def test_the_datasets_own_column_of_items_comes_first(tmp_path: Path) -> None:
    (tmp_path / "a.item").write_text("app_name:token_seq\tgenres:token_seq\tproduct_id:token\nA B\tx\t1\n")
    assert read_titles(tmp_path / "a.item", item_column="product_id") == {"1": "A B"}


def test_a_checkpoint_reads_titles_by_the_datasets_own_names(atomic: Callable[..., str]) -> None:
    path = atomic("made", item="name:token_seq\tgenres:token_seq\tproduct_id:token\nseven\tx\t7\nnine\ty\t9\n")
    dataset = SimpleNamespace(
        iid_field="product_id",
        uid_field="user_id",
        field2id_token={"product_id": ["[PAD]", "9", "7"], "user_id": ["[PAD]", "u"]},
        dataset_path=f"{path}/made",
        dataset_name="made",
        config={"encoding": None, "field_separator": "\t"},
    )
    assert checkpoint.tokens(dataset)["item_titles"] == ["", "nine", "seven"]


def test_titles_in_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.item").write_bytes("item_id:token\tname:token\n1\té\n".encode("latin-1"))
    assert read_titles(tmp_path / "a.item", encoding="latin-1") == {"1": "é"}


@pytest.mark.parametrize("encoding", ["utf_8", "U8", "utf-8-sig"])
def test_a_byte_order_mark_is_none_of_the_first_name(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.item").write_text("\ufeffname:token\titem_id:token\né\t1\n", encoding="utf-8")
    assert read_titles(tmp_path / "a.item", "name", encoding) == {"1": "é"}


@pytest.mark.parametrize("encoding", ["utf-16", "ascii"])
def test_titles_that_are_not_in_the_encoding_are_told(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.item").write_text("item_id:token\tname:token\n1\té\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"a\.item: the titles cannot be read"):
        read_titles(tmp_path / "a.item", encoding=encoding)


@pytest.mark.parametrize(
    ("item", "titles"),
    [
        ("item_id:token\ttitle:token\n7\tseven\n9\tnine\n", ["", "seven", ""]),
        ("item_id:token\tprice:float\n7\t1\n", None),
        (None, None),
        ("item_id:token\ttitle:token\n7\t\ud800seven\n", None),
        ('item_id:token|title:token\n7|"seven, 7\n', ["", '"seven, 7', ""]),
    ],
)
def test_a_checkpoint_keeps_the_titles_that_its_dataset_has(
    atomic: Callable[..., str], item: str | None, titles: list[str] | None
) -> None:
    folder = Path(atomic("made", inter="")) / "made"
    if item is not None:
        (folder / "made.item").write_bytes(item.encode("utf-8", "surrogatepass"))
    ids = {"item_id": ["[PAD]", "7", "8"], "user_id": ["[PAD]", "u"]}
    settings: dict[str, Any] = {"encoding": None, "field_separator": "|"}
    dataset = SimpleNamespace(
        iid_field="item_id",
        uid_field="user_id",
        field2id_token=ids,
        dataset_path=str(folder),
        dataset_name="made",
        config=settings,
    )
    kept = checkpoint.tokens(dataset)
    assert kept == {"item_tokens": ids["item_id"], "user_tokens": ids["user_id"], "item_titles": titles}
