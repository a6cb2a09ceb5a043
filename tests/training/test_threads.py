from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from recbole_diffusion.training import threads


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that torch gives two threads, on two cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2}, raising=False)
    threads.free_threads.cache_clear()
    yield
    threads.free_threads.cache_clear()
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two")
@pytest.mark.parametrize(
    ("use", "expected"), [([0, 99, 3, 99], 2), ([90, 0, 5, 0], 1), ([100, 0, 100, 0], 1), ([30, 9, 10, 9], 2)]
)
def test_as_many_threads_as_cores_are_free(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, use: list[float], expected: int
) -> None:
    monkeypatch.setattr(threads.psutil, "cpu_percent", lambda *_, **__: use)
    with caplog.at_level("INFO"):
        threads.use_threads(None)
    assert torch.get_num_threads() == expected
    assert ("threads: 1, as other processes use the cores; --threads=2 takes all" in caplog.text) == (expected == 1)


@pytest.mark.usefixtures("two")
def test_what_the_user_says_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads.psutil, "cpu_percent", lambda *_, **__: [100.0] * 4)
    threads.use_threads(2)
    assert torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    threads.use_threads(None)
    assert torch.get_num_threads() == 2
