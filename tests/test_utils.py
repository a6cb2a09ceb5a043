"""What scripts take from `recbole.utils`, under our name."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import recbole.utils

from recbole_diffusion import utils
from recbole_diffusion.config import Config
from recbole_diffusion.errors import SettingError
from recbole_diffusion.model.diffrec import DiffRec

OURS = {"create_dataset", "data_preparation"}


@pytest.fixture(autouse=True)
def logging_as_found(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "argv", ["script.py"])
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    utils._log.close()
    assert (root.handlers, root.level) == (handlers, level)


def test_every_name_of_recboles_is_there() -> None:
    assert set(utils.__all__) == {*recbole.utils.__all__, *OURS}
    assert all(hasattr(utils, name) for name in utils.__all__)


def test_a_name_of_ours_and_of_recboles_means_ours() -> None:
    assert utils.get_model("DiffRec") is DiffRec
    assert utils.get_model("BPR").__module__ == "recbole.model.general_recommender.bpr"
    with pytest.raises(SettingError, match="did you mean SASRec"):
        utils.get_model("SASrec1")


def log_lines(config: Config) -> list[str]:
    return [line for file in sorted(Path(config["log_dir"]).rglob("*.log")) for line in file.read_text().splitlines()]


def test_the_log_goes_to_a_file_until_the_next_one_begins() -> None:
    first = Config("DiffuRec", "ml-100k", config_dict={"log_dir": "first", "n_mixtures": 3})
    second = Config("DiffuRec", "ml-100k", config_dict={"log_dir": "second", "state": "ERROR"})
    root = logging.getLogger()
    before = len(root.handlers)
    utils.init_logger(first)
    root.info("one")
    assert len(root.handlers) == before + 2
    utils.init_logger(second)
    root.info("two")
    root.error("three")
    assert len(root.handlers) == before + 2
    warning, one = log_lines(first)
    assert "n_mixtures" in warning and one.endswith("one")
    (three,) = log_lines(second)
    assert three.endswith("three")


def test_importing_leaves_logging_alone() -> None:
    code = (
        "import logging, recbole_diffusion.quick_start, recbole_diffusion.config\n"
        "assert not logging.getLogger().handlers, logging.getLogger().handlers\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
