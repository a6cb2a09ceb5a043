"""A saved model tested again, without training, and in another way where the weights do not depend on it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from recbole.utils import ModelType

from ..common.log import run_logging, shows_progress
from ..common.setting import Setting, table_of
from ..errors import SettingError
from ..evaluation.ranks import save_test_ranks
from ..host import compat
from ..host.checks import metric_names
from ..host.dataset import PrefixDataset, build_dataset
from ..host.loaders import build_loaders
from ..host.parsing import parse, typed
from ..host.settings import MERGED, DiffusionConfig, load_config, merge
from ..host.table import DATA, EVALUATION, RUN, rename, with_protocol, without_computed
from ..training import checkpoint
from ..training.evaluating import EvaluatingTrainer
from ..training.process import compute_as_set, process_as_found
from ..training.run import RunResult, build_model, init_seed
from .restoring import class_of

logger = logging.getLogger(__name__)

# What a saved model is tested with, unless it is given: nothing is written but what the user names, and training's
# threads are those of its machine.
QUIET = {
    "log_dir": None,
    "tensorboard_dir": None,
    "log_wandb": False,
    "state": "warning",
    "resume": None,
    "threads": None,
}
# Settings of where a run is computed that mean nothing without a training.
OF_TRAINING = (
    *("resume", "cuda_graphs", "checkpoint_dir", "tensorboard_dir", "log_wandb", "wandb_project"),
    *("nproc", "world_size", "ip", "port", "offset"),
)


class Reopened(NamedTuple):
    """A saved model with its data, ready to be tested.

    config : DiffusionConfig
    train_data, valid_data, test_data : loaders of RecBole's kind
    model : recbole AbstractRecommender
        With its best weights.
    trainer : EvaluatingTrainer
    """

    config: DiffusionConfig
    train_data: Any
    valid_data: Any
    test_data: Any
    model: Any
    trainer: EvaluatingTrainer


def changeable_in_test(model: type) -> dict[str, Setting]:
    """The settings of a saved model of that class that a test may change."""
    own = {key: row for key, row in table_of(model).items() if row.at_inference}
    run = {key: row for key, row in RUN.items() if key not in OF_TRAINING}
    return {**run, **EVALUATION, "seed": DATA["seed"], **own}


def changed_config(
    path: str | Path, state: Mapping[str, Any], model: str | type | None, changes: Mapping[str, Any]
) -> DiffusionConfig:
    """The settings of a checkpoint with those that its test changes.

    Parameters
    ----------
    path : str or Path
        Named in messages.
    state : mapping
        From `checkpoint.load_model`.
    model : str or type, optional
        The class, or `FILE.py:CLASS`, of a model that is neither ours nor RecBole's.
    changes : mapping
        Texts are read by the type of their setting; a part of `eval_args` leaves the other parts as they were.

    Raises
    ------
    UserError
        Where a setting is none that may change, or has a value that cannot be.
    """
    model_class = class_of(path, state["model"], model)
    free = changeable_in_test(model_class)
    changes, renamed = rename(changes, model_class, free)
    for key, value in changes.items():
        if key not in free:
            names = [name for name in free if name not in RUN]
            must = f"be left out, as the weights depend on it or nothing does; these may change: {', '.join(names)}"
            raise SettingError(key, value, must=must)
    changes = {
        key: parse(value) if key in MERGED and isinstance(value, str) else value for key, value in changes.items()
    }
    saved = without_computed(with_protocol(state["config"]))
    # The two say the same, so that a new value of one is none of the other's.
    for key, other in (("repeatable", "history_in_ranking"), ("history_in_ranking", "repeatable")):
        if key in changes and other not in changes:
            saved.pop(other, None)
    settings = merge(saved, QUIET, changes)
    if "valid_metric" not in changes and changes.keys() & {"metrics", "topk"}:
        _choose_valid_metric(settings)
    config = load_config(model_class, state["dataset"], None, settings)
    if config["tie_order"] == "random" and config["seed"] != state["config"]["seed"]:
        must = f"be {state['config']['seed']}, as in training: with tie_order=random the data depend on it"
        raise SettingError("seed", config["seed"], must=must)
    config.warnings += renamed.values()
    before = state["config"].get("eval_args") or {}
    parts = [part for part in ("split", "group_by") if part in before and before[part] != config["eval_args"][part]]
    if parts:
        was = ", ".join(f"{part}={before[part]}" for part in parts)
        config.warnings.append(
            f"the model was trained with {was}: what another split tests on may be what it was trained on"
        )
    return config


def _choose_valid_metric(settings: dict[str, Any]) -> None:
    """No validation follows it, so any of the metrics will do."""
    metrics, topk = (typed(key, settings[key], EVALUATION[key].kind) for key in ("metrics", "topk"))
    known = metric_names(metrics, topk)
    if known and settings["valid_metric"].lower() not in [name.lower() for name in known]:
        settings["valid_metric"] = known[0]


class Rebuilt(NamedTuple):
    """Data, split as in training, and the model with its best weights."""

    dataset: Any
    train_data: Any
    valid_data: Any
    test_data: Any
    model: Any


def rebuild(path: str | Path, state: Mapping[str, Any], config: DiffusionConfig) -> Rebuilt:
    """Build data and model of a checkpoint by its settings.

    Raises
    ------
    UserError
        Where the data has other items, or users that the model knows, than the checkpoint, or the weights do not fit.
    """
    init_seed(config["seed"], config["reproducibility"])
    dataset = build_dataset(config)
    checkpoint.require_catalogue(path, state, dataset)
    train_data, valid_data, test_data = build_loaders(config, dataset)
    model = build_model(config, train_data._dataset)
    compat.undo_anomaly_detection()
    checkpoint.require_model(path, state, model, config)
    checkpoint.use_best(path, state, model, config["device"])
    return Rebuilt(dataset, train_data, valid_data, test_data, model)


def reopen(path: str | Path, state: Mapping[str, Any], config: DiffusionConfig) -> Reopened:
    """Build data and model of a checkpoint as `changed_config` describes them, to be tested as a run tests.

    The threads and the precision of the settings hold from here on.

    Raises
    ------
    UserError
        See `rebuild`.
    """
    compute_as_set(config)
    _, train_data, valid_data, test_data, model = rebuild(path, state, config)
    config["checkpoint_dir"] = str(Path(path).parent)
    trainer = EvaluatingTrainer(config, model)
    trainer.check_catalogue(train_data)
    trainer.eval_collector.data_collect(train_data)
    return Reopened(config, train_data, valid_data, test_data, model, trainer)


def metrics_of(opened: Reopened) -> dict[str, dict[str, float]]:
    """Metrics of validation and test, under the names that a run's result has for them."""
    parts = {"best_valid_result": opened.valid_data, "test_result": opened.test_data}
    shown = opened.config["show_progress"] and shows_progress()
    return {name: dict(opened.trainer.metrics(part, shown)) if part else {} for name, part in parts.items()}


def write_ranks(path: Path, opened: Reopened) -> None:
    """Write the rank of every test interaction's item, as a comparison keeps them.

    Raises
    ------
    UserError
        Where not all items are ranked, the rows have several targets, or nothing can be written there.
    """
    tested = None if not opened.test_data else opened.test_data._dataset
    histories = isinstance(tested, PrefixDataset) and hasattr(tested.inter_feat, "sequences")
    if tested is None or not (histories or opened.config["MODEL_TYPE"] == ModelType.GENERAL):
        must = "be left out: ranks need a test part, and of a sequential model histories of RecBole's making"
        raise SettingError("ranks", str(path), must=must)
    if opened.config["eval_args"]["mode"]["test"] != "full":
        raise SettingError("ranks", str(path), must="be left out, or eval_args.mode be full: else not all is ranked")
    save_test_ranks(path, opened.trainer, opened.train_data, opened.valid_data, opened.test_data)


@process_as_found()
def evaluate(
    path: str | Path,
    settings: Mapping[str, Any] | None = None,
    model: str | type | None = None,
    ranks: str | Path | None = None,
) -> tuple[RunResult, DiffusionConfig]:
    """Test a saved model on validation and test data, without training.

    Parameters
    ----------
    path : str or Path
        `NAME.pth` or `NAME.last.pth`; the best weights of either are used. A folder stands for its newest model.
    settings : mapping, optional
        Settings that are to be others than in training: those of evaluation, of the device, and those that the model's
        table has as `at_inference`.
    model : str or type, optional
        The class, or `FILE.py:CLASS`, of a model that is neither ours nor RecBole's.
    ranks : path, optional
        A file for the ranks of the test items, as `evaluation.ranks.load_ranks` reads them.

    Returns
    -------
    RunResult
        Its `best_valid_score` is that of the training.
    DiffusionConfig
        The settings that were used.

    Raises
    ------
    UserError
        Where checkpoint, settings or data do not allow it, in one line.
    """
    begin = time.perf_counter()
    path = checkpoint.newest(path)
    state = checkpoint.load_model(path)
    config = changed_config(path, state, model, settings or {})
    with run_logging(config) as log_file:
        opened = reopen(path, state, config)
        for warning in config.warnings:
            logger.warning(warning)
        result: dict[str, Any] = {
            "best_valid_score": state.get("best_valid_score"),
            "valid_score_bigger": config["valid_metric_bigger"],
            **metrics_of(opened),
        }
        if ranks is not None:
            write_ranks(Path(ranks), opened)
    title = f"{config['model']} on {config['dataset']}, seed {config['seed']}"
    seconds = time.perf_counter() - begin
    return RunResult(title, result, Path(path), log_file, seconds, config["history_in_ranking"]), config
