from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from recbole_diffusion.compare.environment import machine, peak_memory, seconds_since_start, versions


def test_versions_and_machine_are_plain() -> None:
    assert versions()["recbole"] == "1.2.1"
    assert json.loads(json.dumps(machine())) == machine()


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
