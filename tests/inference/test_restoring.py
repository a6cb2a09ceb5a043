from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from saved_models import Saved

from recbole_diffusion.errors import UserError
from recbole_diffusion.inference import Recommender
from recbole_diffusion.inference.restoring import restore
from recbole_diffusion.inference.trajectory import trace
from recbole_diffusion.quick_start import load_data_and_model
from recbole_diffusion.training import checkpoint

HISTORY = ["50", "286", "258"]


@pytest.fixture
def file(saved: Callable[..., Saved]) -> Path:
    """The checkpoint of a DiffuRec."""
    return saved("DiffuRec").path


@pytest.fixture
def items(diffurec: Recommender) -> list[list[str]]:
    """What that DiffuRec recommends."""
    return diffurec.recommend(HISTORY, topk=5).items.tolist()


def test_loading_reads_no_dataset_and_little_of_recbole(file: Path) -> None:
    code = f"""
import sys, builtins
from recbole_diffusion.inference import Recommender
Recommender.load({str(file)!r}, device="cpu").recommend(["50"])
print(sorted(name for name in ("recbole.data", "recbole.config", "recbole.trainer") if name in sys.modules))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.usefixtures("untouched")
def test_building_leaves_the_generator_alone(file: Path) -> None:
    Recommender.load(file, device="cpu").recommend(HISTORY)


def test_the_best_weights_are_used(tmp_path: Path, file: Path, items: list[list[str]]) -> None:
    state = checkpoint.load(file)
    last = {**state, "best_state_dict": state["state_dict"], "best_other_parameter": state["other_parameter"]}
    last["state_dict"] = {name: torch.zeros_like(tensor) for name, tensor in state["state_dict"].items()}
    checkpoint.save(tmp_path / "a.last.pth", last)
    assert Recommender.load(tmp_path / "a.last.pth").recommend(HISTORY, topk=5).items.tolist() == items


def test_settings_of_inference_may_be_others(file: Path) -> None:
    model = restore(file, checkpoint.load(file), "cpu", settings={"noise_scale": 1, "inference_steps": "20"})
    assert model.noise_scale == 1.0 and len(model.timesteps) == 20


def test_a_setting_without_effect_is_warned_of(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    restore(file, checkpoint.load(file), "cpu", settings={"ddim_eta": 1})
    assert "ddim_eta=1.0 has no effect: DiffuRec does not read it with its other settings" in caplog.messages
    caplog.clear()
    restore(file, checkpoint.load(file), "cpu", settings={"ddim_eta": 1, "reverse_sampler": "ddim"})
    assert not any("ddim_eta" in message for message in caplog.messages)


def test_a_compiled_model_needs_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: Path, items: list[list[str]]
) -> None:
    state = checkpoint.load(file)
    checkpoint.save(tmp_path / "a.pth", {**state, "config": {**state["config"], "compile": True}})
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert Recommender.load(tmp_path / "a.pth", device="cpu").recommend(HISTORY, topk=5).items.tolist() == items


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"hidden_size": 4},
            "hidden_size must be one of the settings that may change after training: guidance_scale, ",
        ),
        ({"noise_scal": 0.1}, "noise_scale, reverse_sampler, reverse_variance, ddim_eta, got 0.1"),
        ({"noise_scale": "much"}, "noise_scale must be a number, got 'much'"),
        ({"noise_scale": -1.0}, "noise_scale must be at least 0, got -1.0"),
        ({"inference_steps": 33}, "inference_steps must be from 1 to diffusion_steps=32, got 33"),
    ],
)
def test_other_settings_are_refused(file: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        Recommender.load(file, settings=settings)


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, {"device": "gpu"}, "device must be cpu, or cuda where there is a GPU, got 'gpu'"),
        ({"model": "BPR"}, {}, "BPR reads no histories; recommending takes a sequential model"),
        ({"model": "FDSA"}, {}, "FDSA cannot be built without its dataset, which no checkpoint holds"),
        ({"model": "Mine"}, {}, "Mine is no model of ours or of RecBole's; say where it stands, model=FILE.py:Mine"),
        ({}, {"model": "SASRec"}, "is of the model DiffuRec"),
        ({"state_dict": {}}, {}, "the weights do not fit DiffuRec: "),
    ],
)
def test_what_cannot_be_built_is_told(
    tmp_path: Path, file: Path, changes: dict[str, Any], arguments: dict[str, str], message: str
) -> None:
    checkpoint.save(tmp_path / "a.pth", {**checkpoint.load(file), **changes})
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        Recommender.load(tmp_path / "a.pth", **arguments)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_names_no_code_to_run(tmp_path: Path, file: Path) -> None:
    evil, trace = tmp_path / "evil.py", tmp_path / "trace"
    evil.write_text(f"open({str(trace)!r}, 'w')\nfrom recbole_diffusion.model.diffurec import DiffuRec\n")
    for name in (f"{evil}:DiffuRec", "os.path", ""):
        checkpoint.save(tmp_path / "a.pth", {**checkpoint.load(file), "model": name})
        for read in (Recommender.load, load_data_and_model, checkpoint.load_model):
            with pytest.raises(UserError, match="is no name of a model") as caught:
                read(tmp_path / "a.pth")
            assert "\n" not in str(caught.value)
    assert not trace.exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, file: Path, value: float) -> None:
    state = checkpoint.load(file)
    state["state_dict"]["item_embedding.weight"][5, 0] = value
    checkpoint.save(tmp_path / "a.pth", state)
    with pytest.raises(UserError, match=r"item_embedding\.weight holds NaN or infinity"):
        Recommender.load(tmp_path / "a.pth")


def test_scores_that_are_no_numbers_are_no_table(tmp_path: Path, file: Path) -> None:
    state = checkpoint.load(file)
    state["state_dict"] = {name: tensor.fill_(3e38) for name, tensor in state["state_dict"].items()}
    checkpoint.save(tmp_path / "a.pth", state)
    recommender = Recommender.load(tmp_path / "a.pth")
    with pytest.raises(UserError, match="the scores are NaN or infinite"):
        recommender.recommend(HISTORY)
    with pytest.raises(UserError, match="the reverse process ends in NaN or infinity"):
        trace(recommender.model, torch.tensor([1, 2]), 3)


def test_a_part_that_is_missing_or_of_another_type_is_named(tmp_path: Path, file: Path) -> None:
    state = checkpoint.load(file)
    for key in checkpoint.MODEL_FORM:
        for changed in ({**state, key: 7}, {name: value for name, value in state.items() if name != key}):
            checkpoint.save(tmp_path / "a.pth", changed)
            with pytest.raises(UserError, match=f"damaged, as its {key} is missing or of another form"):
                Recommender.load(tmp_path / "a.pth")


@pytest.mark.parametrize(("key", "value"), [("MAX_ITEM_LIST_LENGTH", [1]), ("hidden_size", "x")])
def test_settings_of_the_model_are_checked(tmp_path: Path, file: Path, key: str, value: Any) -> None:
    state = checkpoint.load(file)
    checkpoint.save(tmp_path / "a.pth", {**state, "config": {**state["config"], key: value}})
    with pytest.raises(UserError, match=f"{key} must be a whole number, got"):
        Recommender.load(tmp_path / "a.pth")


def test_a_model_of_the_users_own(tmp_path: Path, file: Path, items: list[list[str]]) -> None:
    text = "from recbole_diffusion.model.diffurec import DiffuRec\n\n\nclass Mine(DiffuRec):\n    pass\n"
    (tmp_path / "mine.py").write_text(text)
    checkpoint.save(tmp_path / "a.pth", {**checkpoint.load(file), "model": "Mine"})
    mine = Recommender.load(tmp_path / "a.pth", model=f"{tmp_path / 'mine.py'}:Mine")
    assert mine.recommend(HISTORY, topk=5).items.tolist() == items


@pytest.mark.parametrize("model", ["Pop", "SASRec"])
def test_models_that_do_not_diffuse(saved: Callable[..., Saved], model: str) -> None:
    recommender = Recommender.load(saved(model).path, device="cpu")
    given = recommender.recommend([["50", "258"], ["1"]], topk=3, exclude_seen=False)
    assert given.items.shape == (2, 3) and given.certainty is None
    with pytest.raises(UserError, match=f"inference_seeds=4: {model} has no reverse process"):
        recommender.recommend(["50"], inference_seeds=4)
    with pytest.raises(UserError, match=f"diversify=True: {model} has no reverse process"):
        recommender.recommend(["50"], diversify=True)
    assert not torch.is_anomaly_enabled()


def test_half_of_the_best_weights_is_none(tmp_path: Path, file: Path) -> None:
    checkpoint.save(tmp_path / "a.pth", {**checkpoint.load(file), "best_state_dict": {}, "best_other_parameter": None})
    with pytest.raises(UserError, match="damaged, as its best_other_parameter is missing or of another form"):
        Recommender.load(tmp_path / "a.pth")
