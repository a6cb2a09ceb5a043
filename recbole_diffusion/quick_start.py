"""RecBole's quick start by this package: a whole run, a trial of a search, a saved model with its data.

The command line of the script is read as `Config` reads it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from .config import Config
from .host.settings import Files, load_config
from .host.table import without_computed
from .inference.restoring import class_of
from .inference.testing import rebuild
from .training import checkpoint
from .training.run import run_config

__all__ = ["load_data_and_model", "objective_function", "run", "run_recbole_diffusion"]


def run(
    model: str | type | None,
    dataset: str | None,
    config_file_list: Files = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
    nproc: int = 1,
    world_size: int = -1,
    ip: str = "localhost",
    port: str = "5678",
    group_offset: int = 0,
) -> dict[str, Any]:
    """Train and test one model; see `run_recbole_diffusion`."""
    processes = {"nproc": nproc, "world_size": world_size, "ip": ip, "port": port, "offset": group_offset}
    return run_recbole_diffusion(model, dataset, config_file_list, {**processes, **(config_dict or {})}, saved)


def run_recbole_diffusion(
    model: str | type | None = None,
    dataset: str | None = None,
    config_file_list: Files = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
    queue: Any = None,
) -> dict[str, Any]:
    """Train and test one model, with the signature and the return value of RecBole's `run_recbole`.

    Parameters
    ----------
    model, dataset, config_file_list, config_dict
        As `Config` takes them.
    saved : bool
        Whether to keep checkpoints.
    queue : queue, optional
        Takes the result, too.

    Returns
    -------
    dict
        `best_valid_score` (float), `valid_score_bigger` (bool), `best_valid_result`, `test_result` (metric -> float).

    Raises
    ------
    UserError
        For any mistake in settings or data, in one line.
    """
    result = run_config(Config(model, dataset, config_file_list, config_dict), saved).result
    if queue is not None:
        queue.put(result)
    return result


def objective_function(
    config_dict: Mapping[str, Any] | None = None, config_file_list: Files = None, saved: bool = True
) -> dict[str, Any]:
    """One trial of a search for hyper-parameters, as `recbole.trainer.HyperTuning` takes it.

    Parameters
    ----------
    config_dict, config_file_list
        As `Config` takes them; they name model and dataset.
    saved : bool
        Whether to keep checkpoints.

    Returns
    -------
    dict
        What `run_recbole_diffusion` returns, and `model`, the model's name.

    Raises
    ------
    UserError
        For any mistake in settings or data, in one line.
    """
    config = Config(config_file_list=config_file_list, config_dict=config_dict)
    return {"model": config["model"], **run_config(config, saved).result}


def load_data_and_model(
    model_file: str | os.PathLike[str], model: str | type | None = None
) -> tuple[Any, Any, Any, Any, Any, Any]:
    """A trained model with the data that it was trained on, split as then.

    Logging and the command line are left alone.

    Parameters
    ----------
    model_file : path
        A checkpoint of this package, or a folder of them, of which the last run's best one is meant.
    model : str or type, optional
        For a model that is neither ours nor RecBole's: its class, or `path/to/file.py:ClassName`.

    Returns
    -------
    config : DiffusionConfig
    model : recbole AbstractRecommender
        With its best weights.
    dataset : recbole Dataset
    train_data, valid_data, test_data : loaders of RecBole's kind

    Raises
    ------
    UserError
        If the checkpoint cannot be read, or the data has other items now (or, for a general model, other users).
    """
    path = checkpoint.newest(os.fspath(model_file))
    state = checkpoint.load_model(path)
    settings = {**without_computed(state["config"]), "resume": None}
    config = load_config(class_of(path, state["model"], model), state["dataset"], None, settings)
    dataset, train_data, valid_data, test_data, trained = rebuild(path, state, config)
    return config, trained, dataset, train_data, valid_data, test_data
