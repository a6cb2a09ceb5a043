from __future__ import annotations

import os
import random
import resource
import shutil
import threading
import time
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from killing import workers
from recbole.utils import ModelType
from torch import nn

from recbole_diffusion.common.plain import plain
from recbole_diffusion.errors import UserError
from recbole_diffusion.training import checkpoint


class Colour(Enum):
    RED = 1


def one_line(error: pytest.ExceptionInfo[UserError], path: Path) -> bool:
    return "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(0.5), 0.5),
        (np.int32(7), 7),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (Colour.RED, "Colour.RED"),
        (torch.device("cpu"), "cpu"),
        (torch.float32, "torch.float32"),
        (Path("a/b"), "a/b"),
        ({np.int64(1): (np.float32(2), [None])}, {1: (2.0, [None])}),
    ],
)
def test_plain_turns_scalars_and_names_into_pythons(value: Any, expected: Any) -> None:
    result = plain(value)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "int32", "uint8", "uint32", "bool"])
def test_arrays_are_saved_as_tensors(tmp_path: Path, dtype: str) -> None:
    array = np.array([[0, 1], [2, 3]]).astype(dtype)
    array.flags.writeable = False
    checkpoint.save(tmp_path / "a.pth", {"array": array})
    loaded = checkpoint.load(tmp_path / "a.pth")["array"]
    assert torch.is_tensor(loaded)
    np.testing.assert_array_equal(loaded.numpy(), array)


def test_plain_names_where_something_else_stands() -> None:
    with pytest.raises(TypeError, match=r"state\['a'\]\[1\] is a object"):
        plain({"a": [0, object()]})


plain_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda parts: st.lists(parts) | st.dictionaries(st.text() | st.integers(), parts) | st.lists(parts).map(tuple),
    max_leaves=20,
)


@settings(max_examples=40, deadline=None)
@given(content=plain_data)
def test_plain_data_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, content: Any) -> None:
    path = tmp_path_factory.mktemp("plain") / "a.pth"
    checkpoint.save(path, {"content": content})
    assert checkpoint.load(path)["content"] == content


def test_a_view_is_saved_without_what_it_looks_into(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pth", {"row": torch.zeros(1000, 1000)[0]})
    assert (tmp_path / "a.pth").stat().st_size < 20_000
    assert checkpoint.load(tmp_path / "a.pth")["row"].shape == (1000,)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file") as error:
        checkpoint.load(tmp_path / "none.pth")
    assert one_line(error, tmp_path / "none.pth")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "a.pth"
    checkpoint.save(path, {"tensor": torch.arange(10_000)})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match="truncated") as error:
        checkpoint.load(path)
    assert one_line(error, path)


@pytest.mark.parametrize(
    "content", [{"state_dict": {}}, [1, 2], {"config": SimpleNamespace(model="SASRec")}, {"format": "1"}]
)
def test_a_file_of_another_program_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "a.pth"
    torch.save(content, path)
    with pytest.raises(UserError, match="not a checkpoint of recbole-diffusion") as error:
        checkpoint.load(path)
    assert one_line(error, path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    checkpoint.save(path, {"format": checkpoint.FORMAT + 1, "version": "9.9"})
    with pytest.raises(UserError, match=r"9\.9") as error:
        checkpoint.load(path)
    assert one_line(error, path)


@pytest.mark.parametrize(("free", "why"), [(0, "No space left on device"), (2**30, "")])
def test_a_full_disk_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, why: str
) -> None:
    # The limit on a file's size stands for the disk, of which only the rest is made up.
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    path = tmp_path / "a.pth"
    checkpoint.save(path, {"epoch": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot be written") as error:
            checkpoint.save(path, {"epoch": 2, "tensor": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert one_line(error, path) and why in str(error.value)
    assert checkpoint.load(path)["epoch"] == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_deleted_in_training_is_made_again(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "none" / "a.pth", {"epoch": 1})
    assert checkpoint.load(tmp_path / "none" / "a.pth")["epoch"] == 1


def test_an_impossible_folder_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "none").touch()
    with pytest.raises(UserError, match="cannot be written") as error:
        checkpoint.save(tmp_path / "none" / "a.pth", {})
    assert one_line(error, tmp_path / "none" / "a.pth")


WRITER = """
import itertools, torch
from recbole_diffusion.training import checkpoint
def work(path):
    for number in itertools.count():
        checkpoint.save(path, {"number": number, "tensor": torch.full((500_000,), number)})
"""


def test_a_writer_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.pth" for number in range(4)]
    with workers(WRITER, paths) as writers:
        for path in paths:
            writers.wait_for(path.exists)
            time.sleep(random.uniform(0, 0.1))
            writers.kill()
            state = checkpoint.load(path)
            assert bool((state["tensor"] == state["number"]).all())


def test_names_taken_at_once_all_differ_and_leave_no_file(tmp_path: Path) -> None:
    taken: list[Path] = []
    threads = [
        threading.Thread(target=lambda: taken.append(checkpoint.unique_path(tmp_path / "new", "DiffRec", "ml-100k")))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(taken)) == 16
    assert all(path.name.startswith("DiffRec-ml-100k-") and path.suffix == ".pth" for path in taken)
    assert list((tmp_path / "new").iterdir()) == []


def test_a_folder_without_write_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Permission bits do not stop root.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError) as error:
        checkpoint.unique_path(tmp_path, "M", "d")
    assert one_line(error, tmp_path) and "Permission denied" in str(error.value)


def test_a_checkpoint_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as error:
        checkpoint.unique_path(tmp_path / "file", "M", "d")
    assert one_line(error, tmp_path / "file")


def draws() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), float(torch.rand(()))]


def test_random_states_go_on_after_a_checkpoint(tmp_path: Path) -> None:
    draws()
    checkpoint.save(tmp_path / "a.pth", {"random": checkpoint.random_state()})
    expected = draws()
    assert draws() != expected
    checkpoint.set_random_state(checkpoint.load(tmp_path / "a.pth")["random"])
    assert draws() == expected


class Model(nn.Module):
    """Has one of each kind of thing that RecBole's models keep beside their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.other: dict[str, Any] = {}

    def other_parameter(self) -> dict[str, Any]:
        return self.other

    def load_other_parameter(self, other: dict[str, Any]) -> None:
        self.other = other


@pytest.mark.filterwarnings("ignore:the matrix subclass")
def test_other_parameters_come_back_as_what_they_were(tmp_path: Path) -> None:
    dense = np.array([[0.0, 1.5], [2.5, 0.0]], dtype=np.float32)
    model = Model()
    model.other = {
        "array": dense,
        "matrix": np.asmatrix(dense),
        "csr": scipy.sparse.csr_matrix(dense),
        "lil": scipy.sparse.lil_matrix(dense),
        "coo": scipy.sparse.coo_array(dense),
        "tensor": model.layer(torch.ones(2)),
        "none": None,
        "ripples": {1: [(torch.tensor([1, 2]), [3])]},
        "module": model.layer,
    }
    checkpoint.save(tmp_path / "a.pth", checkpoint.weights(model))
    other = Model()
    checkpoint.set_weights(other, checkpoint.load(tmp_path / "a.pth"), "cpu")

    assert torch.equal(other.layer.weight, model.layer.weight)
    assert set(other.other) == set(model.other) - {"module"}
    for name in ("array", "matrix", "csr", "lil", "coo"):
        assert type(other.other[name]) is type(model.other[name])
        restored = other.other[name]
        restored = restored.toarray() if scipy.sparse.issparse(restored) else np.asarray(restored)
        assert restored.dtype == np.float32
        np.testing.assert_array_equal(restored, dense)
    assert torch.equal(other.other["tensor"], model.other["tensor"])
    assert other.other["none"] is None
    assert torch.equal(other.other["ripples"][1][0][0], torch.tensor([1, 2]))


def test_a_copy_of_weights_does_not_change_with_the_model() -> None:
    model = Model()
    model.other = {"tensor": torch.zeros(3)}
    kept = checkpoint.weights_copy(model)
    weight = model.layer.weight.detach().clone()
    with torch.no_grad():
        model.layer.weight += 1
        model.other["tensor"] += 1
    checkpoint.set_weights(model, kept, "cpu")
    assert torch.equal(model.layer.weight, weight)
    model.other["tensor"] += 1
    assert torch.equal(kept["other_parameter"]["tensor"], torch.zeros(3))


def test_the_umask_decides_who_may_read_a_checkpoint(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        checkpoint.save(tmp_path / "a.pth", {})
    finally:
        os.umask(before)
    assert (tmp_path / "a.pth").stat().st_mode & 0o777 == 0o644


def test_a_folder_stands_for_its_newest_best_state(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint is in this folder"):
        checkpoint.newest(tmp_path)
    for age, name in enumerate(("new.last.pth", "new.pth", "old.pth", "old.last.pth")):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    (tmp_path / ".1.half.pth").touch()
    assert checkpoint.newest(tmp_path) == tmp_path / "new.pth"
    assert checkpoint.newest(tmp_path / "old.pth") == tmp_path / "old.pth"


@pytest.mark.parametrize("kind", [ModelType.SEQUENTIAL, ModelType.GENERAL])
def test_other_users_matter_to_models_that_know_users(kind: ModelType) -> None:
    tokens = {"item": ["[PAD]", "i"], "user": ["[PAD]", "u", "v"]}
    dataset = SimpleNamespace(iid_field="item", uid_field="user", field2id_token=tokens, config={"MODEL_TYPE": kind})
    same = {"item_tokens": tokens["item"], "user_tokens": tokens["user"]}
    checkpoint.require_catalogue("a.pth", same, dataset)
    with pytest.raises(UserError, match="it knows 2 items, not the 1 of this dataset"):
        checkpoint.require_catalogue("a.pth", {**same, "item_tokens": ["[PAD]", "i", "j"]}, dataset)
    others = {**same, "user_tokens": ["[PAD]", "u", "w"]}
    if kind == ModelType.SEQUENTIAL:
        checkpoint.require_catalogue("a.pth", others, dataset)
    else:
        with pytest.raises(UserError, match="it knows 2 users, others than the 2 of this dataset"):
            checkpoint.require_catalogue("a.pth", others, dataset)


def test_a_changed_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    checkpoint.save(path, {"names": ["a", "b"] * 20, "tensor": torch.arange(50.0)})
    whole, content = checkpoint.load(path), path.read_bytes()
    drawn, refused = random.Random(0), 0
    for _ in range(300):
        place, bit = drawn.randrange(len(content)), 1 << drawn.randrange(8)
        path.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
        try:
            state = checkpoint.load(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            refused += 1
        else:
            # Between the parts of the file there is padding.
            assert state["names"] == whole["names"] and torch.equal(state["tensor"], whole["tensor"])
    assert 50 < refused < 300
