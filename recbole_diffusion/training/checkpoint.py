"""Checkpoints of tensors and plain data only, read by torch's safe loader and written whole or not at all."""

from __future__ import annotations

import copy
import errno
import functools
import os
import random
import zipfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import numpy as np
import scipy  # which loads its parts on first use: `recommend` needs none
import torch
from torch import Tensor, nn

from ..common.files import atomic_write, check_form, malformed, save_tensors
from ..common.plain import plain
from ..common.version import __version__
from ..errors import SettingError, UserError
from ..host.registry import THEIRS
from ..host.table import changeable, rename, with_protocol
from ..host.titles import read_titles

FORMAT = 1
PACKED = "packed as"
# What a checkpoint must hold so that its model can be used, and so that its training can go on.
_ABSENT = type(None)
MODEL_FORM: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "dataset": (str,),
    "config": (dict,),
    "item_tokens": (list,),
    "user_tokens": (list,),
    "state_dict": (dict,),
    "other_parameter": (dict,),
    "best_state_dict": (dict, _ABSENT),
    "best_other_parameter": (dict, _ABSENT),
    "average": (dict, _ABSENT),
    "item_titles": (list, _ABSENT),
}
TRAINING_FORM: dict[str, tuple[type, ...]] = {
    "steps": (int,),
    "scaler": (dict,),
    "optimizer": (dict,),
    "attributes": (dict,),
    "unsaved_attributes": (list,),
    "epoch": (int,),
    "best_epoch": (int, _ABSENT),
    "cur_step": (int,),
    "best_valid_score": (int, float),
    "best_valid_result": (dict, _ABSENT),
    "train_loss": (dict,),
    "random": (dict,),
    "loader_random": (list,),
}


def last_path(best: str | Path) -> Path:
    """Where the last state stands beside the best one."""
    return Path(best).with_suffix(".last.pth")


def unique_path(folder: str | Path, model: str, dataset: str) -> Path:
    """A name for a run's best checkpoint that no other run uses, in a folder that is made where it is not there.

    Returns
    -------
    Path
        `<folder>/<model>-<dataset>-<time>-<unique>.pth`

    Raises
    ------
    UserError
        Where the folder cannot be written to.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: no checkpoint can be written there ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder}: no checkpoint can be written there ({os.strerror(errno.EACCES)})")
    return folder / f"{model}-{dataset}-{datetime.now():%b-%d-%Y_%H-%M-%S}-{uuid4().hex[:8]}.pth"


def save(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint under another name and rename it, so that `path` is whole at any moment.

    Raises
    ------
    TypeError
        If the state holds what `plain` refuses.
    UserError
        If the file cannot be written; an older checkpoint of that name stays.
    """
    path = Path(path)
    content = plain({"format": FORMAT, "version": __version__, **state})
    with atomic_write(path) as part:
        save_tensors(content, part)


def newest(path: str | Path) -> Path:
    """The checkpoint that a path means: of a folder, the best state of the run that wrote there last.

    Raises
    ------
    UserError
        If there is none in the folder.
    """
    if not Path(path).is_dir():
        return Path(path)
    # A hidden one is half of a checkpoint whose writing was killed.
    found = [file for file in Path(path).glob("[!.]*.pth") if not file.name.endswith(".last.pth")]
    if not found:
        raise UserError(f"{path}: no checkpoint is in this folder; train a model first, or name the file")
    return max(found, key=lambda file: (file.stat().st_mtime_ns, file.name))


def load(path: str | Path, mapped: bool = False) -> dict[str, Any]:
    """Read a checkpoint by torch's safe loader, all tensors on the CPU; `mapped`, they are read where they are used.

    Raises
    ------
    UserError
        If it is missing, damaged, truncated, of another program, or of a newer version.
    """
    try:
        _require_whole(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except OSError as error:
        raise UserError(f"{path}: the checkpoint cannot be read ({error.strerror})") from error
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: not a checkpoint of recbole-diffusion, or a truncated one") from error
    if not isinstance(state, dict) or not isinstance(state.get("format"), int):
        raise UserError(f"{path}: not a checkpoint of recbole-diffusion")
    if state["format"] > FORMAT:
        writer = state.get("version")
        raise UserError(f"{path}: written by recbole-diffusion {writer}, newer than this one ({__version__})")
    return state


def _require_whole(path: str | Path) -> None:
    """Refuse a file of which a byte is another than was written; torch's reader looks at no sum."""
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise UserError(f"{path}: the checkpoint is damaged: {damaged} in it does not have the sum it was written with")


def load_model(path: str | Path, mapped: bool = False) -> dict[str, Any]:
    """Read a checkpoint that holds a model, as `load` does.

    Raises
    ------
    UserError
        Where `load` refuses it, or a part is missing or of another type.
    """
    state = load(path, mapped)
    check_form(str(path), state, MODEL_FORM)
    if not state["model"].removeprefix(THEIRS).isidentifier():
        # Else a checkpoint could name a file, whose code would run.
        name = state["model"]
        raise UserError(f"{path}: {name!r} is no name of a model; a class of your own is named by model=FILE.py:CLASS")
    for key in ("item_tokens", "user_tokens"):
        if not state[key] or not all(isinstance(token, str) for token in state[key]):
            raise malformed(str(path), key)
    if state["item_titles"] is not None and len(state["item_titles"]) != len(state["item_tokens"]):
        raise malformed(str(path), "item_titles")
    if (state["best_state_dict"] is None) != (state["best_other_parameter"] is None):
        raise malformed(str(path), "best_other_parameter")
    for key in ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD"):
        if not isinstance(state["config"].get(key), str):
            raise malformed(str(path), f"config.{key}")
    for key in ("state_dict", "best_state_dict", "average"):
        if not all(isinstance(value, Tensor) for value in (state[key] or {}).values()):
            raise malformed(str(path), key)
    return state


def pack(value: Any) -> Any:
    """Turn NumPy arrays and SciPy matrices into plain data that `unpack` turns back, in collections too."""
    if scipy.sparse.issparse(value):
        entries = value.tocoo()
        kind = "sparse matrix" if isinstance(value, scipy.sparse.spmatrix) else "sparse array"
        content = {"row": entries.row, "col": entries.col, "data": entries.data, "shape": list(value.shape)}
        return {PACKED: kind, "format": value.format, **content}
    if isinstance(value, np.ndarray):
        return {PACKED: "matrix" if isinstance(value, np.matrix) else "array", "data": np.asarray(value)}
    if isinstance(value, list | tuple):
        parts = [pack(v) for v in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    if isinstance(value, dict):
        return {k: pack(v) for k, v in value.items()}
    return value


def unpack(value: Any, device: torch.device | str) -> Any:
    """What `pack` was given, in memory of its own, with its tensors on `device`."""
    if isinstance(value, Tensor):
        return value.to(device, copy=True)
    if isinstance(value, list | tuple):
        parts = [unpack(v, device) for v in value]
        return tuple(parts) if isinstance(value, tuple) else parts
    if not isinstance(value, dict):
        return value
    if PACKED not in value:
        return {k: unpack(v, device) for k, v in value.items()}
    data: Any = value["data"].numpy().copy()
    if value[PACKED] == "array":
        return data
    if value[PACKED] == "matrix":
        return np.asmatrix(data)
    build = {"sparse matrix": scipy.sparse.coo_matrix, "sparse array": scipy.sparse.coo_array}[value[PACKED]]
    where = (value["row"].numpy(), value["col"].numpy())
    return build((data, where), shape=tuple(value["shape"])).asformat(value["format"])


def weights(model: Any) -> dict[str, Any]:
    """What a model has learnt: its `state_dict` and RecBole's `other_parameter`, as plain data.

    NumPy arrays and SciPy matrices in `other_parameter` (EASE's, ItemKNN's) are packed so that `set_weights`
    gives back what they were. Modules in it (SASRecF's) are left out: their weights are in the `state_dict`.
    """
    other = {k: pack(v) for k, v in model.other_parameter().items() if not isinstance(v, nn.Module)}
    return {"state_dict": plain(model.state_dict()), "other_parameter": plain(other, "other_parameter")}


def weights_copy(model: Any) -> dict[str, Any]:
    """As `weights`, in memory of its own on the CPU: training goes on without changing it."""
    return copy.deepcopy(weights(model))


def best_weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """The best weights that a checkpoint holds, in the form of `weights`: with `ema_decay`, the averaged ones."""
    if state["best_state_dict"] is not None:
        return {key: state[f"best_{key}"] for key in ("state_dict", "other_parameter")}
    average = state["average"] or {}
    return {"state_dict": {**state["state_dict"], **average}, "other_parameter": state["other_parameter"]}


def set_weights(model: Any, learnt: Mapping[str, Any], device: torch.device | str) -> None:
    """Put what `weights` gave into a model on `device`."""
    model.load_state_dict(learnt["state_dict"])
    model.load_other_parameter(unpack(learnt["other_parameter"], device))


def use_best(path: str | Path, state: Mapping[str, Any], model: Any, device: torch.device | str) -> None:
    """Put the best weights of a checkpoint into a model on `device`.

    Raises
    ------
    UserError
        Where they do not fit the model, or are no numbers.
    """
    use_weights(path, best_weights(state), model, device)


def use_weights(path: str | Path, learnt: Mapping[str, Any], model: Any, device: torch.device | str) -> None:
    """As `set_weights`, for weights that come from a file.

    Raises
    ------
    UserError
        Where they do not fit the model, or are no numbers.
    """
    try:
        set_weights(model, learnt, device)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: the weights do not fit {type(model).__name__}: {reason}") from error
    for name, parameter in model.named_parameters():
        if not bool(parameter.detach().isfinite().all()):
            raise UserError(f"{path}: the checkpoint is damaged: {name} holds NaN or infinity")


def random_state() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's global generators, as plain data and tensors."""
    name, keys, *rest = cast(tuple[Any, ...], np.random.get_state(legacy=True))
    return {
        "python": random.getstate(),
        "numpy": (name, keys.astype(np.int64), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put back what `random_state` gave, before or after a checkpoint."""
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.asarray(keys).astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    for device, cuda in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda, device)


def _tokens(dataset: Any) -> dict[str, list[str]]:
    names = {"item_tokens": dataset.iid_field, "user_tokens": dataset.uid_field}
    return {key: [str(token) for token in dataset.field2id_token[field]] for key, field in names.items()}


def tokens(dataset: Any) -> dict[str, list[str] | None]:
    """What the internal ids of items and users stand for, by internal id.

    With the items' titles where the dataset has an `.item` file with a column of names, else None; one that cannot be
    read is no reason to lose a training.
    """
    names = _tokens(dataset)
    file = Path(dataset.dataset_path) / f"{dataset.dataset_name}.item"
    titles = _titles(file, dataset.config["encoding"], dataset.iid_field, dataset.config["field_separator"])
    return {**names, "item_titles": [titles.get(token, "") for token in names["item_tokens"]] if titles else None}


# Needed at every epoch.
@functools.lru_cache(maxsize=1)
def _titles(path: Path, encoding: str | None, item_column: str, separator: str) -> dict[str, str]:
    try:
        return read_titles(path, None, encoding, item_column, separator) if path.is_file() else {}
    except UserError:
        return {}


def require_catalogue(path: str | Path, state: Mapping[str, Any], dataset: Any) -> None:
    """Refuse a checkpoint whose internal ids stand for other items, or users that the model knows, than the dataset's.

    Raises
    ------
    UserError
        Saying how many there are on either side.
    """
    from recbole.utils import ModelType

    here = _tokens(dataset)
    # A sequential model knows no users; the others have an embedding for each.
    for name in ("item",) if dataset.config["MODEL_TYPE"] == ModelType.SEQUENTIAL else ("item", "user"):
        saved, present = state[f"{name}_tokens"], here[f"{name}_tokens"]
        if saved != present:
            other = "others than" if len(saved) == len(present) else "not"
            counts = f"it knows {len(saved) - 1} {name}s, {other} the {len(present) - 1} of this dataset"
            raise UserError(f"{path}: the checkpoint is of another catalogue: {counts}")


def trained_with(state: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """The settings that a checkpoint of `config`'s model was trained with, under the names of today."""
    settings, _ = rename(state["config"], config.model_class, config.plain())
    return with_protocol(settings)


def require_model(
    path: str | Path, state: Mapping[str, Any], model: nn.Module, config: Any, resume: bool = False
) -> None:
    """Refuse a checkpoint of another model, or of the same with other settings or tensors of other shapes.

    Parameters
    ----------
    resume : bool
        Whether training is to go on, which takes the same data, split and seed; to use the weights, the settings of the
        model are enough.

    Raises
    ------
    UserError
        Naming the models, or the first setting or tensor that differs.
    """
    if state["model"] != config["model"]:
        raise SettingError("model", config["model"], must=f"be {state['model']}, as in {path}")
    settings, free = config.plain(), changeable(config.model_class, resume)
    trained = trained_with(state, config)
    for key, value in settings.items():
        if key not in free and trained.get(key, value) != value:
            raise SettingError(key, value, must=f"be {trained[key]!r}, as in {path}")
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    saved = {name: list(tensor.shape) for name, tensor in state["state_dict"].items()}
    if shapes != saved:
        tensor = next(name for name in (*shapes, *saved) if shapes.get(name) != saved.get(name))
        there, here = saved.get(tensor, "absent"), shapes.get(tensor, "absent")
        raise UserError(f"{path}: the checkpoint does not fit the model: {tensor} is {there} there and {here} here")
