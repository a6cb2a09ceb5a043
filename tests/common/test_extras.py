from __future__ import annotations

import configparser
import re
import sys
from pathlib import Path

import pytest

from recbole_diffusion.common.extras import EXTRAS, require_extra
from recbole_diffusion.errors import UserError


def test_the_table_is_that_of_setup_cfg() -> None:
    metadata = configparser.ConfigParser()
    metadata.read(Path(__file__).parents[2] / "setup.cfg", encoding="utf-8")
    stated = {
        extra: tuple(name for name in re.findall(r"^[\w-]+", text, re.MULTILINE) if name != "recbole-diffusion")
        for extra, text in metadata["options.extras_require"].items()
        if extra in EXTRAS
    }
    assert stated == EXTRAS


def test_what_is_installed_passes() -> None:
    require_extra("compare", "A comparison")


def test_what_is_missing_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    # Python's own sign that a module cannot be imported; find_spec reads it too.
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(UserError, match=r'^A comparison needs rich: pip install "recbole-diffusion\[compare\]"$'):
        require_extra("compare", "A comparison")
