from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_diffusion.evaluation.environment import commit_of, machine, peak_memory, seconds_since_start, versions


def test_versions_and_machine_are_plain() -> None:
    assert versions()["recbole"] == "1.2.1"
    here = machine(torch.device("cpu"))
    assert json.loads(json.dumps(here)) == here


def test_a_gpu_is_told_of_where_it_was_used_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the one at {device}")
    assert machine(torch.device("cpu"))["gpu"] is None
    assert machine(torch.device("cuda:1"))["gpu"] == "the one at cuda:1"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_commit_is_that_of_the_checkout_that_tracks_the_file(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        named = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        return subprocess.check_output(["git", *named, *arguments], cwd=tmp_path, text=True).strip()

    file = tmp_path / "code.py"
    file.write_text("1")
    assert commit_of(file) is None
    git("init", "--quiet")
    assert commit_of(file) is None
    git("add", "code.py")
    git("commit", "--quiet", "--message=first")
    assert commit_of(file) == git("rev-parse", "HEAD")[:12]
    file.write_text("2")
    assert commit_of(file) == git("rev-parse", "HEAD")[:12] + "-dirty"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems count differently")
def test_peak_memory_keeps_what_was_given_back() -> None:
    before = peak_memory()
    assert before is not None
    size = 300_000_000
    np.ones(size, dtype=np.uint8)
    after = peak_memory()
    assert after is not None and after > size and after >= before


def test_seconds_since_start() -> None:
    assert 0 < seconds_since_start() < 86400
