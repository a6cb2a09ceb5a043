from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_data import SMALL_RUN

from benchmarks import steps
from recbole_diffusion.errors import UserError
from recbole_diffusion.training import checkpoint
from recbole_diffusion.training.run import train_and_test


def line(count: int, low: float) -> steps.Line:
    return steps.Line(count, 0.1, 0.2, 0.0, low + 0.01, low, low + 0.02, 1.0)


def test_fewest_steps_are_those_whose_lower_bound_is_tolerated() -> None:
    assert steps.fewest([line(1, -0.03), line(2, -0.019), line(4, -0.05), line(32, 0.0)]) == 2
    assert steps.fewest([line(1, -0.03), line(32, 0.0)]) == 32


def test_equal_ranks_lose_nothing_and_worse_ones_lose_what_they_lose() -> None:
    whole = np.tile(np.random.default_rng(0).integers(1, 30, 400), (3, 1))
    same, worse = (
        steps.lines_of([1, 32], [whole, whole], [0.1, 1.0])[0],
        steps.lines_of([1, 32], [np.where(np.arange(400) % 2, whole, 1000), whole], [0.1, 1.0])[0],
    )
    assert [same.loss, same.low, same.high] == pytest.approx([0, 0, 0], abs=1e-12)
    assert worse.loss == pytest.approx(-0.5, abs=0.1)
    assert worse.low < worse.loss < worse.high < -0.3


def test_a_trained_model_is_measured_with_each_number_of_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {**SMALL_RUN, "epochs": 1, "diffusion_steps": 12, "inference_steps": 3, "checkpoint_dir": str(tmp_path)}
    trained = train_and_test("DiffRec", "ml-100k", None, settings)
    steps.run([f"--checkpoint={trained.model_file}", "--steps=1,3,50", "--noise_seeds=2020,7", f"--output={tmp_path}"])
    (result,) = json.loads((tmp_path / "steps.json").read_text())["results"]
    assert [entry["steps"] for entry in result["lines"]] == [1, 3, 12]
    assert result["noise_seeds"] == [7, 2020]
    assert (tmp_path / "steps.png").stat().st_size > 1000
    assert "| 12 " in capsys.readouterr().out
    # Of the run's own noise and steps, the accuracy is that of the run.
    alone = steps.measure(steps.read(str(trained.model_file), {}), [3], [2020])[0]
    assert alone.ndcg == pytest.approx(trained.result["test_result"]["ndcg@10"], abs=1e-6)
    assert len(list(tmp_path.glob("*.pth"))) == 2


@pytest.mark.parametrize("model", ["RFMRec", "FMRec"])
def test_a_flow_is_measured_against_the_longest_chain_that_was_asked_for(tmp_path: Path, model: str) -> None:
    depth = {"decoder_depth": 0} if model == "FMRec" else {}
    settings = {**SMALL_RUN, **depth, "noise_scale": 1.0, "epochs": 1, "checkpoint_dir": str(tmp_path)}
    trained = train_and_test(model, "ml-100k", None, settings)
    steps.run([f"--checkpoint={trained.model_file}", "--steps=1,4", "--noise_seeds=1", f"--output={tmp_path}"])
    (result,) = json.loads((tmp_path / "steps.json").read_text())["results"]
    assert [entry["steps"] for entry in result["lines"]] == [1, 4]
    assert result["lines"][0]["ndcg"] != result["lines"][1]["ndcg"]


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--checkpoint must name a trained model"):
        steps.run([])
    trained = train_and_test("Pop", "ml-100k", None, {**SMALL_RUN, "checkpoint_dir": str(tmp_path)})
    for argument, message in (
        ("steps=0,3", "steps must be positive whole numbers"),
        ("output=x", "Pop has no reverse steps"),
    ):
        with pytest.raises(UserError, match=message):
            steps.run([f"--checkpoint={trained.model_file}", f"--{argument}"])
    state = torch.load(trained.model_file, weights_only=True)
    assert checkpoint.load(trained.model_file).keys() == state.keys()
