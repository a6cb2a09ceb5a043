from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import pending
from recbole_diffusion.errors import OutOfTime, UserError


def test_what_is_done_is_packed_with_what_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, left = tmp_path / "a" / "runs" / "Pop" / "1", tmp_path / "b" / "runs" / "Pop" / "1"
    for folder in (done, left):
        folder.mkdir(parents=True)
        for name in ("log.txt", "model.pth"):
            (folder / name).write_text("x")
    (done / "record.json").write_text("{}")
    (left / "large.pth").write_text("x" * 20)
    monkeypatch.setattr(pending, "LARGEST_CHECKPOINT", 10)
    pending.pack(tmp_path, tmp_path.parent / "pack.tar.xz")
    with tarfile.open(tmp_path.parent / "pack.tar.xz") as packed:
        names = {member.name for member in packed}
    folder = "runs/Pop/1"
    assert names == {
        *(f"a/{folder}/{n}" for n in ("log.txt", "record.json")),
        *(f"b/{folder}/{n}" for n in ("log.txt", "model.pth")),
    }


def test_each_comparison_has_a_folder_of_its_own_and_what_is_left_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    started: list[list[str]] = []

    def start(command: list[str]) -> SimpleNamespace:
        started.append(command[4:])
        return SimpleNamespace(wait=lambda: 75 * (len(started) - 1), terminate=lambda: None)

    monkeypatch.setattr(subprocess, "Popen", start)
    files = [tmp_path / "first.yaml", tmp_path / "second.yaml"]
    for file in files:
        file.write_text("dataset: ml-100k")
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(pending, "pack", lambda folder, archive: None)
    with pytest.raises(
        OutOfTime, match=r"p\.tar\.xz is written; not all is done: first.yaml with 75, second.yaml with 75"
    ):
        pending.run([f"--config_files={files[0]} {files[1]}", "--output=out", "--pack=p.tar.xz", "--deadline=5"])
    assert started == [[f"--config_files={file}", f"--output=out/{file.stem}", "--deadline=5"] for file in files]


def test_files_of_one_name_are_refused(tmp_path: Path) -> None:
    files = [tmp_path / "a.yaml", tmp_path / "b" / "a.yaml"]
    files[1].parent.mkdir()
    for file in files:
        file.write_text("dataset: ml-100k")
    with pytest.raises(UserError, match="each file must have a name of its own"):
        pending.run([f"--config_files={files[0]} {files[1]}", "--output=o", "--pack=p", "--deadline=1"])


@pytest.mark.parametrize("key", ["output", "pack", "deadline", "config_files"])
def test_what_is_missing_is_named(key: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("dataset: ml-100k")
    given = {"config_files": str(tmp_path / "a.yaml"), "output": "o", "pack": "p", "deadline": "1"}
    with pytest.raises(UserError, match=f"--{key} must be given"):
        pending.run([f"--{name}={value}" for name, value in given.items() if name != key])
