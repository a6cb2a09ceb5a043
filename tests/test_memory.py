from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import psutil, torch
from recbole_diffusion.memory import keep_freed_memory
if {keeps}:
    keep_freed_memory()
before = psutil.Process().memory_info().rss
torch.ones(50_000_000).sum()
print(psutil.Process().memory_info().rss - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_freed_memory_is_kept() -> None:
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", SCRIPT.format(keeps=keeps)], capture_output=True, check=True).stdout)
        for keeps in (True, False)
    )
    block = 4 * 50_000_000
    assert given_back < block / 2 < kept
