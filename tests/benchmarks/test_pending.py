from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import pending
from recbole_diffusion.cli.parsers import compare_parser
from recbole_diffusion.errors import UserError


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


def test_each_comparison_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(
        subprocess, "Popen", lambda command: started.append(command[3:]) or SimpleNamespace(wait=lambda: 75)
    )
    pending.compare_all([Path("plans/first.yaml"), Path("second.yaml")], tmp_path, {"deadline": "5", "jobs": "2"})
    for command in started:
        args = compare_parser().read(command[1:])
        name = Path(args.config_files[0]).stem if args.config_files else ""
        assert args.settings == {"output": str(tmp_path / name), "deadline": "5", "jobs": "2"}
    assert len(started) == 2


@pytest.mark.parametrize("key", ["output", "pack", "deadline", "config_files"])
def test_what_is_missing_is_named(key: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("dataset: ml-100k")
    given = {"config_files": str(tmp_path / "a.yaml"), "output": "o", "pack": "p", "deadline": "1"}
    with pytest.raises(UserError, match=f"--{key} must be given"):
        pending.run([f"--{name}={value}" for name, value in given.items() if name != key])
