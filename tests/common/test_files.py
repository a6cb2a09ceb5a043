from __future__ import annotations

import os
from pathlib import Path

import pytest

from recbole_diffusion.common.files import atomic_write, read_json, write_json
from recbole_diffusion.errors import UserError


def test_json_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a.json"
    assert read_json(path) == {}
    write_json(path, {"λ": [1, None]})
    assert read_json(path) == {"λ": [1, None]}


def test_the_old_file_stays_where_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(RuntimeError), atomic_write(path) as part:
        part.write_text("half")
        raise RuntimeError
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", [".", "..", "folder", "file/a.json", "a" * 300, ""])
def test_a_path_that_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_json(tmp_path / "folder" / name if name in (".", "..") else tmp_path / name, 1)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


def test_the_content_is_on_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(not (tmp_path / "a.json").exists()))
    write_json(tmp_path / "a.json", 1)
    assert synced == [True]


def test_mistakes_are_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "torn.json").write_text("{")
    with pytest.raises(UserError, match=r"torn\.json: cannot be read"):
        read_json(tmp_path / "torn.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(UserError, match=r"list\.json: must hold a mapping, got list"):
        read_json(tmp_path / "list.json")
    with pytest.raises(UserError, match="cannot be written"):
        write_json(tmp_path / "torn.json" / "a.json", 1)


def test_what_a_killed_writer_has_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    left, fresh, other = (tmp_path / name for name in (".part-1-a.json", ".part-2-b.json", ".1.part"))
    for path in (left, fresh, other):
        path.touch()
    for path in (left, other):
        os.utime(path, (0, 0))
    write_json(tmp_path / "a.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [other.name, fresh.name, "a.json"]
