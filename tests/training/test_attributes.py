from __future__ import annotations

import importlib
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from recbole.model.sequential_recommender import SASRec
from test_trainer import TRANSFORMER, last_file, make
from torch import nn

from recbole_diffusion.errors import UserError
from recbole_diffusion.training import checkpoint
from recbole_diffusion.training.attributes import Changes, mark, put


class Counting(nn.Module):
    """Has one of each kind of attribute."""

    other_parameter_name = ("cache",)

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.step, self.weight_of = 0, {"a": [torch.zeros(2), 1.0]}
        self.name, self.unchanged = "early", torch.ones(3)
        self.array, self.matrix = np.zeros(3), scipy.sparse.eye(3, format="csr")
        self.tensor = torch.zeros(2)
        self.same = self.tensor
        self.layer.calls = 0
        self.parameters_again = [self.layer.weight]
        self.cache = None

    def train_a_little(self) -> None:
        self.step += 1
        self.weight_of["a"][0] += 1
        self.name = "late"
        self.array[1] = 5
        self.matrix = self.matrix * 2
        self.tensor[1] = 7
        self.layer.calls += 1
        self.cache = 3
        with torch.no_grad():
            self.layer.weight += 1


def test_what_changes_is_saved_and_put_back(tmp_path: Path) -> None:
    model = Counting()
    changes = Changes(model)
    assert changes.look() == [] and changes.names == set()
    model.train_a_little()
    assert changes.look() == []
    saved, unsaved = changes.state()
    assert set(saved) == {"step", "weight_of", "name", "array", "matrix", "tensor", "same", "layer.calls"}
    assert unsaved == []
    checkpoint.save(tmp_path / "a.pth", {"attributes": saved})

    other = Counting()
    place = other.tensor
    put(other, checkpoint.load(tmp_path / "a.pth")["attributes"], torch.device("cpu"))
    assert (other.step, other.name, other.layer.calls, other.cache) == (1, "late", 1, None)
    assert other.tensor is place is other.same and other.tensor.tolist() == [0, 7]
    assert other.weight_of["a"][0].tolist() == [1, 1] and other.weight_of["a"][1] == 1.0
    assert isinstance(other.array, np.ndarray) and other.array.tolist() == [0, 5, 0]
    assert other.matrix.format == "csr" and (other.matrix != model.matrix).nnz == 0
    assert other.parameters_again[0] is other.layer.weight


def test_what_a_checkpoint_held_is_held_by_the_next_one_too() -> None:
    model = Counting()
    changes = Changes(model, known={"step": 4})
    changes.look()
    assert changes.state() == ({"step": 0}, [])


def test_what_no_checkpoint_can_hold_is_named_once() -> None:
    model = Counting()
    model.queue, model.helper, model.seen = deque([1]), object(), {1}
    changes = Changes(model)
    assert changes.look() == []
    model.queue.append(2), model.seen.add(2)
    model.helper = object()
    assert sorted(changes.look()) == ["helper", "queue", "seen"]
    assert changes.look() == []
    assert sorted(changes.state()[1]) == ["helper", "queue", "seen"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (True, 1),
        (torch.zeros(2), torch.zeros(2, 1)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.tensor(0.5), torch.tensor(0.25)),
        (torch.eye(2).to_sparse(), 2 * torch.eye(2).to_sparse()),
        (np.zeros(2), np.array([0.0, -1.0])),
        ([1, [2]], [1, [3]]),
        ({"a": 1}, {"a": 2}),
        (object(), object()),
    ],
)
def test_marks_differ_where_values_do(one: Any, other: Any) -> None:
    assert mark(one) == mark(one) and mark(one) != mark(other)


def test_a_number_that_is_none_equals_itself() -> None:
    assert mark(float("nan")) == mark(float("nan"))
    assert mark(torch.full((2,), torch.nan)) == mark(torch.full((2,), torch.nan))
    assert mark(torch.zeros(0, 3)) == mark(torch.zeros(0, 3))


SIZES = {"mlp_hidden_size": [16], "latent_dimension": 8}


@pytest.mark.parametrize(
    ("model", "settings", "changed"),
    [
        ("DiffRec", {}, {"Lt_count", "Lt_history"}),
        ("LDiffRec", {}, {"Lt_count", "Lt_history", "update_count", "update_count_vae"}),
        ("MultiVAE", SIZES, {"update"}),
        ("SGL", {"embedding_size": 8}, {"sub_graph1", "sub_graph2"}),
    ],
)
def test_models_of_recboles_that_count_are_resumed_exactly(
    tmp_path: Path, model: str, settings: dict[str, Any], changed: set[str]
) -> None:
    # By class, as a name may mean a model of ours.
    network = getattr(importlib.import_module("recbole.model.general_recommender"), model)
    straight = make(tmp_path, network, epochs=4, **settings)
    expected = straight.fit()
    broken = make(tmp_path, network, epochs=2, **settings)
    broken.fit()
    resumed = make(tmp_path, network, epochs=4, **settings)
    resumed.trainer.resume_checkpoint(last_file(broken.trainer), resumed.train)
    assert resumed.fit() == expected
    assert resumed.trainer.train_loss_dict == straight.trainer.train_loss_dict
    there, here = (checkpoint.load(last_file(run.trainer)) for run in (straight, resumed))
    assert set(there["attributes"]) == set(here["attributes"]) == changed
    for name, tensor in there["state_dict"].items():
        assert torch.equal(tensor, here["state_dict"][name])


class Queued(SASRec):
    """Keeps what no checkpoint can hold."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.recent: deque[int] = deque(maxlen=3)

    def calculate_loss(self, interaction: Any) -> Any:
        self.recent.append(len(interaction))
        return super().calculate_loss(interaction)


def test_a_model_that_cannot_be_resumed_exactly_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make(tmp_path, Queued, **TRANSFORMER)
    with caplog.at_level("WARNING"):
        run.fit()
    assert caplog.text.count("this training cannot be resumed: it changes recent, which no checkpoint can hold") == 1
    resumed = make(tmp_path, Queued, epochs=4, **TRANSFORMER)
    with pytest.raises(UserError) as error:
        resumed.trainer.resume_checkpoint(last_file(run.trainer))
    message = f"{last_file(run.trainer)}: cannot be resumed, as training changes recent, which no checkpoint holds"
    assert str(error.value) == message
    resumed.trainer.evaluate(resumed.test, model_file=run.trainer.saved_model_file)
