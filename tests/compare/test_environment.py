from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch

from recbole_diffusion.compare.environment import machine, peak_memory, seconds_since_start, versions


def test_versions_and_machine_are_plain() -> None:
    assert versions()["recbole"] == "1.2.1"
    told = machine(torch.device("cpu"))
    assert json.loads(json.dumps(told)) == told


def test_a_gpu_is_told_of_where_it_was_used_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the one at {device}")
    assert machine(torch.device("cpu"))["gpu"] is None
    assert machine(torch.device("cuda:1"))["gpu"] == "the one at cuda:1"


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
