"""What a script takes from `recbole.utils` and `recbole.data`, by this package: import it from here instead.

What needs no change is RecBole's own.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from .host import compat

compat.apply()

import recbole.utils  # noqa: E402
from recbole.data.dataset import Dataset  # noqa: E402
from recbole.utils import (  # noqa: E402
    Enum,
    EvaluatorType,
    FeatureSource,
    FeatureType,
    InputType,
    KGDataLoaderState,
    ModelType,
    WandbLogger,
    calculate_valid_score,
    dataset_arguments,
    dict2str,
    early_stopping,
    ensure_dir,
    evaluation_arguments,
    general_arguments,
    get_environment,
    get_gpu_usage,
    get_local_time,
    get_tensorboard,
    init_seed,
    list_to_latex,
    set_color,
    training_arguments,
)

from .common.log import run_logging  # noqa: E402
from .errors import UserError  # noqa: E402
from .host.dataset import build_dataset  # noqa: E402
from .host.loaders import build_loaders  # noqa: E402
from .host.registry import find_model  # noqa: E402
from .training.trainer import Trainer, build_trainer  # noqa: E402

__all__ = [
    "Enum",
    "EvaluatorType",
    "FeatureSource",
    "FeatureType",
    "InputType",
    "KGDataLoaderState",
    "ModelType",
    "WandbLogger",
    "calculate_valid_score",
    "create_dataset",
    "data_preparation",
    "dataset_arguments",
    "dict2str",
    "early_stopping",
    "ensure_dir",
    "evaluation_arguments",
    "general_arguments",
    "get_environment",
    "get_flops",
    "get_gpu_usage",
    "get_local_time",
    "get_model",
    "get_tensorboard",
    "get_trainer",
    "init_logger",
    "init_seed",
    "list_to_latex",
    "set_color",
    "training_arguments",
]

# The log of the script's run, open until the next `init_logger` or the end of the process.
_log = ExitStack()
atexit.register(_log.close)


def create_dataset(config: Any) -> Dataset:
    """Load, filter and renumber a dataset, as RecBole's function of that name does.

    Raises
    ------
    UserError
        If files or settings do not allow it.
    """
    return build_dataset(config)


def data_preparation(config: Any, dataset: Dataset) -> tuple[Any, Any, Any]:
    """Split a dataset and make the loaders of training, validation and test.

    Raises
    ------
    UserError
        If the split leaves a part empty.
    """
    return build_loaders(config, dataset)


def get_model(model_name: str) -> type:
    """The class of a model of ours or of RecBole's; ours comes first where both have one of that name.

    Raises
    ------
    UserError
        If there is no such model.
    """
    return find_model(model_name)


def get_trainer(model_type: ModelType, model_name: str) -> Callable[[Any, Any], Trainer]:
    """What builds the trainer of a model, to be called with its settings and the model.

    The class of the model decides which trainer it is, so both arguments are there for RecBole's sake alone.
    """
    return build_trainer


def init_logger(config: Any) -> None:
    """Log to stderr and to a new file in `log_dir` from here on; the log of an earlier call ends.

    Warnings about the settings are the first lines.

    Raises
    ------
    SettingError
        Where `log_dir` cannot be written to.
    """
    _log.close()
    _log.enter_context(run_logging(config))
    for warning in getattr(config, "warnings", ()):
        logging.getLogger(__name__).warning(warning)


def get_flops(
    model: Any, dataset: Dataset, device: Any, logger: logging.Logger, transform: Any, verbose: bool = False
) -> float:
    """RecBole's count of multiply-adds for one row: that of layers, without the products within attention.

    Raises
    ------
    UserError
        Where the package thop cannot be imported.
    """
    try:
        return recbole.utils.get_flops(model, dataset, device, logger, transform, verbose)
    except ImportError as error:
        raise UserError(f"get_flops needs the packages thop and setuptools ({error})") from error
