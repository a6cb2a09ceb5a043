"""Tiny models, trained once on the few users of ml-100k with the fewest interactions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from recbole_diffusion.inference import Recommender
from recbole_diffusion.training.run import train_and_test

SMALL = {
    "user_inter_num_interval": "[0,30]",
    "epochs": 1,
    "hidden_size": 16,
    "inner_size": 32,
    "n_layers": 1,
    "n_heads": 2,
    # Far above the published value, so that the noise shows.
    "noise_scale": 0.3,
    "show_progress": False,
    "log_dir": None,
    "tensorboard_dir": None,
}


class Saved(NamedTuple):
    """A checkpoint, and what its test gave."""

    path: Path
    test_result: dict[str, float]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Saved]:
    """Train a model of that name, once a session."""
    done: dict[str, Saved] = {}

    def train(model: str, **changes: Any) -> Saved:
        key = f"{model}{changes}"
        if key not in done:
            folder = str(tmp_path_factory.mktemp(model))
            given = {**SMALL, "checkpoint_dir": folder, **changes}
            known = {k: v for k, v in given.items() if model == "DiffuRec" or k != "noise_scale"}
            outcome = train_and_test(model, "ml-100k", config_dict=known)
            assert outcome.model_file is not None
            done[key] = Saved(outcome.model_file, outcome.result["test_result"])
        return done[key]

    return train


@pytest.fixture(scope="session")
def loaded(saved: Callable[..., Saved]) -> Callable[[str], Recommender]:
    """A recommender of that model, loaded once a session; it has no state that a test could change."""
    done: dict[str, Recommender] = {}

    def load(model: str) -> Recommender:
        if model not in done:
            done[model] = Recommender.load(saved(model).path, device="cpu")
        return done[model]

    return load


@pytest.fixture
def diffurec(loaded: Callable[[str], Recommender]) -> Recommender:
    return loaded("DiffuRec")


@pytest.fixture
def untouched() -> Iterator[None]:
    """Torch's global generator is where it was, after the test."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)
