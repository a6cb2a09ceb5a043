from __future__ import annotations

from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState

from recbole_diffusion.compare import study as studies
from recbole_diffusion.errors import UserError
from recbole_diffusion.host.registry import PROPERTIES
from recbole_diffusion.host.settings import load_config


@pytest.mark.parametrize("content", ["a: 3", "a: []", "a: {low: 1}", "a: {low: 1, high: 2, step: 1}"])
def test_a_space_in_another_form(tmp_path: Path, content: str) -> None:
    (tmp_path / "Mine.yaml").write_text(content)
    with pytest.raises(UserError, match=r"must be a list or \{low"):
        studies.read_space("Mine", str(tmp_path))


@pytest.mark.parametrize(
    "choice", ["{low: few, high: 2}", "{low: True, high: 2}", "{low: 3, high: 2}", "{low: 0, high: 2, log: True}"]
)
def test_a_range_that_is_none(tmp_path: Path, choice: str) -> None:
    (tmp_path / "Mine.yaml").write_text(f"a: {choice}")
    with pytest.raises(
        UserError, match=r"a must have rising numbers low and high in \S*Mine\.yaml, above 0 with log, got"
    ):
        studies.read_space("Mine", str(tmp_path))


@pytest.mark.parametrize("model", [file.stem for file in sorted((PROPERTIES / "tune").glob("*.yaml"))])
def test_every_end_of_a_space_can_be_run(model: str) -> None:
    for key, choice in studies.read_space(model).items():
        for value in choice if isinstance(choice, list) else (choice["low"], choice["high"]):
            config = load_config(model, "ml-100k", None, {key: value})
            assert config[key] == value and not config.warnings


def test_published_ceilings_are_inside_of_the_spaces() -> None:
    for model in ("SASRec", "SASRecPlus", "BSARec", "BERT4Rec", "LightSANs"):
        space = studies.read_space(model)
        assert space["learning_rate"]["low"] <= 1e-4 and space["hidden_dropout_prob"]["high"] >= 0.6


def test_kinds_of_ranges() -> None:
    space = {"a": ["x", "y"], "b": {"low": 1, "high": 9}, "c": {"low": 0.1, "high": 10.0, "log": True}}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    points = [studies.suggest(study.ask(), space) for _ in range(200)]
    assert {point["a"] for point in points} == {"x", "y"}
    assert {point["b"] for point in points} == set(range(1, 10))
    below = sum(point["c"] < 1 for point in points)
    assert 70 < below < 130


def curves(trials: int, epochs: int, seed: int) -> list[list[float]]:
    """Scores of trials after each epoch; some are no numbers."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(trials, 1)) + 0.3 * rng.normal(size=(trials, epochs))
    scores[rng.random(scores.shape) < 0.02] = np.nan
    return scores.tolist()


def pruned_after(pruner: optuna.pruners.BasePruner, scores: list[list[float]], direction: str, every: int) -> list[int]:
    """How many epochs each trial has under a pruner, with a validation every so many of them."""
    study = optuna.create_study(direction=direction, pruner=pruner)
    found = []
    for curve in scores:
        trial, had = study.ask(), len(curve)
        for epochs in range(every, len(curve) + 1, every):
            trial.report(curve[epochs - 1], epochs)
            if trial.should_prune():
                had = epochs
                break
        study.tell(
            trial, 0.0 if had == len(curve) else None, optuna.trial.TrialState.PRUNED if had < len(curve) else None
        )
        found.append(had)
    return found


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize(("least", "factor", "every"), [(1, 2, 1), (2, 3, 1), (3, 2, 2), (1, 4, 3)])
def test_halving_decides_as_optunas(direction: str, least: int, factor: int, every: int) -> None:
    for seed in range(3):
        scores = curves(24, 20, seed)
        optunas = optuna.pruners.SuccessiveHalvingPruner(min_resource=least, reduction_factor=factor)
        mine = pruned_after(studies.Halving(least, factor), scores, direction, every)
        assert mine == pruned_after(optunas, scores, direction, every)
        assert least <= min(mine) < 20 in mine


def test_a_trial_that_was_broken_off_competes_with_none() -> None:
    study = optuna.create_study(direction="maximize", pruner=studies.Halving(1, 2))
    for state in (TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL):
        trial = study.ask()
        trial.report(0.5, 1)
        assert not trial.should_prune()
        study.tell(trial, 0.5 if state == TrialState.COMPLETE else None, state)
    trial = study.ask()
    trial.report(0.4, 1)
    assert trial.should_prune()
    for _ in range(2):
        # Two of four, of those that count.
        trial = study.ask()
        trial.report(0.5, 1)
        assert not trial.should_prune()
        study.tell(trial, 0.5)
