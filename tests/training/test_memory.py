from __future__ import annotations

import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from recbole_diffusion.training import memory
from recbole_diffusion.training.memory import FreedMemory

# Each case has a process of its own, a child of one that imports torch for all of them.
SCRIPT = """
import os, sys, psutil, torch
from recbole_diffusion.training.memory import FreedMemory, keep_freed_memory
for case in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        allowed, kept = (word == "True" for word in case.split())
        if allowed:
            keep_freed_memory()
        memory = FreedMemory(kept=kept)
        before = psutil.Process().memory_info().rss
        torch.ones(50_000_000).sum()
        memory.after_step()
        print(psutil.Process().memory_info().rss - before, flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""
CASES = [(True, True), (True, False), (False, True)]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc alone is asked to keep memory")
def test_freed_memory_is_kept_where_both_the_process_and_the_trainer_say_so() -> None:
    command = [sys.executable, "-c", SCRIPT, *(f"{allowed} {kept}" for allowed, kept in CASES)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    block = 4 * 50_000_000
    found = dict(zip(CASES, map(int, done.stdout.split()), strict=True))
    assert {case: held > block / 2 for case, held in found.items()} == {case: all(case) for case in CASES}, found


class FakeLibrary:
    """Counts what the C library is asked for."""

    def __init__(self) -> None:
        self.trims = 0

    def mallopt(self, option: int, value: int) -> None:
        """Take no notice."""

    def malloc_trim(self, pad: int) -> None:
        """Count."""
        self.trims += 1


def test_memory_goes_back_once_more_than_twice_a_steps_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    library, now = FakeLibrary(), SimpleNamespace(rss=0)
    monkeypatch.setattr(memory, "_may_be_kept", True)
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: library)
    monkeypatch.setattr(memory.psutil, "Process", lambda: SimpleNamespace(memory_info=lambda: now))
    freed = FreedMemory(kept=True)
    # What a step needs is what is held after one that began with nothing kept: 100, and from the fifth on 130.
    trims = []
    for rss in (100, 150, 200, 201, 130, 260, 261, 90, 260, 261):
        now.rss = rss
        freed.after_step()
        trims.append(library.trims - 1)
    assert trims == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    freed.give_back()
    assert library.trims == 5


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_may_be_kept", True)
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: pytest.fail("asked for"))
    FreedMemory(kept=True).after_step()
    FreedMemory(kept=True).give_back()
