from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from test_trainer import make
from torch import nn

from recbole_diffusion.errors import SettingError
from recbole_diffusion.training.frozen import frozen_parameters


def test_names_are_those_of_parameters_and_of_modules() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    found = frozen_parameters(model, ["0", "1.bias"])
    assert [id(parameter) for parameter in found] == [id(model[0].weight), id(model[0].bias), id(model[1].bias)]


def test_a_parameter_that_is_never_trained_stays_so() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].bias.requires_grad_(False)
    assert [id(parameter) for parameter in frozen_parameters(model, ["0"])] == [id(model[0].weight)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["item"],
            "frozen must name parameters of SASRec (item_embedding, position_embedding, trm_encoder, LayerNorm)",
        ),
        (
            ["item_embedding", "position_embedding", "trm_encoder", "LayerNorm"],
            "frozen must leave a parameter to train",
        ),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(SettingError, match=re.escape(message)):
        make(tmp_path, frozen_epochs=1, frozen=names)
    make(tmp_path, frozen=names)


@pytest.mark.parametrize("learner", ["adam", "adamw", "sgd"])
def test_frozen_parameters_do_not_move_at_all_and_are_trained_afterwards(tmp_path: Path, learner: str) -> None:
    run = make(tmp_path, frozen_epochs=2, epochs=4, learner=learner, weight_decay=0.1)
    item = run.trainer.model.item_embedding.weight
    position = run.trainer.model.position_embedding.weight
    seen = [(item.detach().clone(), position.detach().clone())]
    run.fit(on_epoch_end=lambda epoch: seen.append((item.detach().clone(), position.detach().clone())))
    moved = [[not torch.equal(*pair) for pair in zip(a, b, strict=True)] for a, b in pairwise(seen)]
    assert moved == [[False, True], [False, True], [True, True], [True, True]]


def test_nothing_stays_frozen_when_training_ends(tmp_path: Path) -> None:
    run = make(tmp_path, frozen_epochs=9)
    run.fit(saved=False)
    assert all(parameter.requires_grad for parameter in run.trainer.model.parameters())


def test_steps_are_recorded_anew_when_parameters_rejoin(tmp_path: Path) -> None:
    run = make(tmp_path, frozen_epochs=2, epochs=3)
    run.trainer.steps.recording = True
    steps, optimizer = run.trainer.steps, run.trainer.optimizer
    used = []
    run.trainer._train_epoch = lambda *args, **kwargs: used.append(steps.stepper(optimizer)) or 0.5
    run.fit(saved=False)
    assert used[0] is used[1] and used[1] is not used[2]
