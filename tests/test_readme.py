"""What the README shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

from recbole_diffusion.training.run import train_and_test

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    found = [text for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in text]
    assert len(found) == 1
    return found[0]


def test_the_example_model_trains(tmp_path: Path) -> None:
    (tmp_path / "pooled.py").write_text(block("python", "class Pooled"))
    (tmp_path / "Pooled.yaml").write_text(block("yaml", "diffusion_steps"))
    assert "--model=pooled.py:Pooled" in block("sh", "Pooled")
    settings = {"epochs": 3, "user_inter_num_interval": "[0,40]", "show_progress": False}
    outcome = train_and_test("pooled.py:Pooled", "ml-100k", config_dict=settings)
    assert outcome.result["best_valid_score"] > 0


def test_every_file_that_the_readme_names_is_there() -> None:
    named = set(re.findall(r"(?:properties|results|tests)/[\w/.-]+\w", README)) - {"properties/model/NAME.yaml"}
    assert named
    assert [name for name in named if not (Path(__file__).parents[1] / name).exists()] == []
