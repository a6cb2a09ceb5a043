from __future__ import annotations

from typing import Any

import pytest
from small_plans import SMALL, InThisProcess

from recbole_diffusion.compare import cli, runner


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
        patch.setattr(runner, "_start", InThisProcess)
        cli.run(settings, [], "ml-100k", ["--model_list=DiffuRec,SASRec"])
    return {"settings": settings, "folder": folder / "out"}
