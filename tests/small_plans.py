"""Comparisons that take seconds, and what the runner leaves for a run of theirs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion.cli import compare as cli
from recbole_diffusion.compare import local
from recbole_diffusion.compare.plan import Plan, Run, make_plan, read_request
from recbole_diffusion.errors import UserError

# The users of ml-100k with few interactions: an epoch takes less than a second.
SMALL = {
    "user_inter_num_interval": "[0,30]",
    "epochs": "2",
    "hidden_size": "16",
    "inner_size": "32",
    "n_layers": "1",
    "n_heads": "2",
    "MAX_ITEM_LIST_LENGTH": "10",
    "show_progress": "False",
}


def small_plan(**settings: str) -> Plan:
    return make_plan(read_request({**SMALL, **settings}, [], "ml-100k"))


def write_wanted(made: Run) -> Path:
    """What the runner leaves for a run before it starts."""
    made.folder.mkdir(parents=True, exist_ok=True)
    description = {"name": made.variant.name, "model": made.variant.model, "dataset": "ml-100k", "seed": made.seed}
    content = {**description, "settings": made.variant.settings, "command": "", "config": made.variant.config}
    (made.folder / "run.json").write_text(json.dumps(content))
    return made.folder


class InThisProcess:
    """Does a run at once, where the runner starts a process for it, which takes seconds; quacks like that process."""

    def __init__(self, run: Run, task: Callable[[Path], int], environment: Mapping[str, str]) -> None:
        with redirect_stderr(io.StringIO()):
            self.code = task(run.folder)

    def poll(self) -> int:
        return self.code


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two models, one of which fails, and an off-switch, with two seeds: settings and folder of the comparison."""
    folder = tmp_path_factory.mktemp("compared")
    # At this learning rate the loss is no number.
    settings = {
        **SMALL,
        "model_list": "DiffuRec,SASRec",
        "seeds": "1,2",
        "SASRec.learning_rate": "1e30",
        "output": str(folder / "out"),
        "test_latex": str(folder / "mine" / "test.tex"),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "start_process", InThisProcess)
        with pytest.raises(UserError, match="2 of 6 runs failed; the first is SASRec, seed 1: "):
            cli.run_settings(settings, [], ["--model_list=DiffuRec,SASRec"])
    return {"settings": settings, "folder": folder / "out"}
