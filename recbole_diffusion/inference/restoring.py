"""A model from its checkpoint alone: no dataset, no RecBole `Config`."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import scipy  # which loads its parts on first use: `recommend` needs none
import torch

from ..common.setting import table_of, without_effect
from ..errors import SettingError, UserError
from ..host.parsing import read_yaml, typed
from ..host.registry import find_model, is_recboles, model_name, our_models, property_files
from ..host.table import MODEL, rename
from ..training import checkpoint

# What to do with a model that reads more than histories.
WITH_DATA = "load_data_and_model of recbole_diffusion.quick_start loads it with its data, to rank for users"

logger = logging.getLogger(__name__)


class Settings(dict[str, Any]):
    """Settings as plain data; like RecBole's `Config` it gives None for a key that is not there."""

    def __missing__(self, key: str) -> None:
        return None


class DatasetSizes:
    """Stands in for the dataset from which models are built: the numbers of users and items, and no interaction."""

    def __init__(self, n_users: int, n_items: int, item_field: str) -> None:
        self.user_num, self.item_num, self.item_field = n_users, n_items, item_field

    def num(self, field: str) -> int:
        """Number of ids of a field, the padding included."""
        return self.item_num if field == self.item_field else self.user_num

    def inter_matrix(self, form: str = "coo", value_field: str | None = None) -> Any:
        """Sparse [users, items] matrix without entries: what models count, their weights hold."""
        return scipy.sparse.coo_matrix((self.user_num, self.item_num)).asformat(form)


def device_named(device: str | torch.device | None) -> torch.device:
    """The device of that name; by default a GPU where there is one.

    Raises
    ------
    SettingError
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise SettingError("device", str(device), must="be cpu, or cuda where there is a GPU") from error


def restore(
    path: str | Path,
    state: Mapping[str, Any],
    device: str | torch.device | None = None,
    model: str | type | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Any:
    """Build the model of a checkpoint, with its best weights, ready for inference.

    Parameters and errors are those of `build`.
    """
    chosen = device_named(device)
    built = build(path, state, chosen, model, settings)
    checkpoint.use_best(path, state, built, chosen)
    return built


def build(
    path: str | Path,
    state: Mapping[str, Any],
    device: torch.device,
    model: str | type | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Any:
    """Build the model that a checkpoint describes, in inference mode, with random weights.

    torch's global generator is left as it was.

    Parameters
    ----------
    path : str or Path
        Named in messages.
    state : mapping
        From `checkpoint.load`.
    device : torch.device
    model : str or type, optional
        The class, or `FILE.py:CLASS`, of a model that is neither ours nor RecBole's.
    settings : mapping, optional
        Settings that are to be others than in training, of those that the model's table has as `at_inference`.

    Raises
    ------
    UserError
        Where class or settings do not allow it, or the model cannot be built without its dataset.
    """
    from recbole.model.abstract_recommender import SequentialRecommender

    model_class = class_of(path, state["model"], model)
    if not issubclass(model_class, SequentialRecommender):
        raise UserError(
            f"{path}: {state['model']} reads no histories; recommending takes a sequential model; {WITH_DATA}"
        )
    config = _settings(model_class, state, device, settings or {})
    item_field = config["ITEM_ID_FIELD"]
    sizes = DatasetSizes(len(state["user_tokens"]), len(state["item_tokens"]), item_field)
    try:
        # The weights are drawn from the global generator.
        with torch.random.fork_rng(devices=[]):
            built: Any = model_class(config, sizes)
    except UserError:
        raise
    except Exception as error:
        problem = "from what the checkpoint holds"
        if is_recboles(model_class) and isinstance(error, AttributeError | TypeError):
            problem = "without its dataset, which no checkpoint holds"
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        hint = f"; {WITH_DATA}" if "dataset" in problem else ""
        raise UserError(f"{path}: {state['model']} cannot be built {problem} ({reason}){hint}") from error
    return built.to(device).eval()


def class_of(path: str | Path, name: str, model: str | type | None) -> type:
    """The class of that name, as a checkpoint has it, or `model`, which must be called so.

    Raises
    ------
    UserError
    """
    if model is None and name in our_models():
        # Not through the registry, which mends RecBole for training and takes a second for it.
        return getattr(importlib.import_module(f"..model.{name.lower()}", __package__), name)
    try:
        found = find_model(name if model is None else model)
    except SettingError as error:
        if model is not None:
            raise
        problem = f"{path}: {name} is no model of ours or of RecBole's; say where it stands, model=FILE.py:{name}"
        raise UserError(problem) from error
    if model_name(found) != name:
        raise SettingError("model", model_name(found), f"{path} is of the model {name}")
    return found


def _settings(
    model_class: type, state: Mapping[str, Any], device: torch.device, changes: Mapping[str, Any]
) -> Settings:
    trained: dict[str, Any] = {}
    # A key that is newer than the checkpoint has its default.
    for file in property_files(model_class, state["dataset"]):
        trained.update(read_yaml(file))
    table = table_of(model_class)
    known = {*trained, *table}
    saved, warnings = rename(state["config"], model_class, known)
    changes, more = rename(changes, model_class, known)
    for warning in {**warnings, **more}.values():
        logger.warning(warning)
    trained.update(saved)
    for key, row in {**{key: row for key, row in MODEL.items() if key in trained}, **table}.items():
        trained[key] = typed(key, trained.get(key), row.kind)
        row.check(key, trained[key])
    config = Settings({**trained, "device": device, "model": model_class.__name__})
    free = [key for key, row in table.items() if row.at_inference]
    for key, value in changes.items():
        if key not in free:
            must = f"be one of the settings that may change after training: {', '.join(free) or 'none'}"
            raise SettingError(key, value, must=must)
        config[key] = typed(key, value, table[key].kind)
        table[key].check(key, config[key])
    for warning in without_effect(model_class, config, changes):
        logger.warning(warning)
    return config
