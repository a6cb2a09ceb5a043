"""From settings to test metrics: the whole of a run on one page."""

from __future__ import annotations

import logging
import time
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate
from torch import nn

from ..host import compat

compat.apply()

from recbole.utils import FeatureType, init_seed  # noqa: E402

from ..common.log import DETAIL, run_logging, shows_progress  # noqa: E402
from ..errors import OutOfTime, SettingError, UserError  # noqa: E402
from ..evaluation.protocols import TITLES, apart  # noqa: E402
from ..host.dataset import PARTS, build_dataset  # noqa: E402
from ..host.loaders import build_loaders, epoch_rows, split, trains_on  # noqa: E402
from ..host.settings import load_config  # noqa: E402
from ..host.shared_data import SplitData  # noqa: E402
from ..host.table import COMPUTED, RUN  # noqa: E402
from ..model.splitting import split_weights  # noqa: E402
from . import attributes, distributed, launch  # noqa: E402
from .process import compute_as_set, process_as_found  # noqa: E402
from .splitting import KEY, split_items  # noqa: E402
from .trainer import Trainer, build_trainer  # noqa: E402

logger = logging.getLogger(__name__)


class RunResult(NamedTuple):
    """What a run leaves.

    title : str
        Model, dataset and seed.
    result : dict
        As RecBole's `run` returns it, with plain floats.
    model_file : Path or None
        The best checkpoint; None where nothing was saved.
    log_file : Path or None
    seconds : float
        Wall time from reading the data to the test metrics.
    history_in_ranking : str
        As it was set. With `both` the result's metrics without the history end in `protocols.SUFFIX`.
    """

    title: str
    result: dict[str, Any]
    model_file: Path | None
    log_file: Path | None
    seconds: float
    history_in_ranking: str = "in"

    def table(self) -> str:
        """The metrics as a table, or a table for each ranking, and where model and log are."""
        parts = (self.result[part] or {} for part in ("best_valid_result", "test_result"))
        valid, test = (apart(part, self.history_in_ranking) for part in parts)
        lines = [f"{self.title}, {self.seconds:.0f} s"]
        for protocol in test:
            metrics = test[protocol] or valid[protocol]
            rows = [(metric, valid[protocol].get(metric), test[protocol].get(metric)) for metric in metrics]
            lines += [TITLES[protocol]] if self.history_in_ranking != "in" else []
            lines.append(tabulate(rows, headers=("metric", "valid", "test"), floatfmt=".4f"))
        lines += [f"model: {self.model_file}"] if self.model_file else []
        lines += [f"log:   {self.log_file}"] if self.log_file else []
        return "\n".join(lines)


def build_model(config: Any, dataset: Any) -> Any:
    """A model of the class that the settings name, on their device.

    Raises
    ------
    UserError
        Where a package is missing, or a model of RecBole's refuses its settings.
    """
    try:
        with compat.files_as_data():
            return config.model_class(config, dataset).to(config["device"])
    except ImportError as error:
        raise UserError(f"{config['model']} needs the package {error.name}, which is not installed") from error
    except OSError as error:
        raise UserError(
            f"model={config['model']}: the file {error.filename!r} cannot be read ({error.strerror})"
        ) from error
    except (ValueError, AssertionError, NotImplementedError) as error:
        raise UserError(f"model={config['model']}: {error}") from error


def check_features(config: Any, dataset: Any) -> None:
    """Check what models of RecBole's that read features of the items take for granted.

    Raises
    ------
    SettingError
    """
    names, types = config["selected_features"] or [], dataset.field2type
    for name in names:
        if name not in types:
            must = f"name columns that load_col reads, as with load_col={{item: [{dataset.iid_field}, {name}]}}"
            raise SettingError("selected_features", names, must=must)
    if names and all(types[name] in (FeatureType.FLOAT, FeatureType.FLOAT_SEQ) for name in names):
        must = f"hold a column of tokens; {config['model']} has no embedding for numbers alone"
        raise SettingError("selected_features", names, must=must)
    attribute = config["item_attribute"]
    if attribute is not None and attribute not in types:
        must = f"name a column that load_col reads, as with load_col={{item: [{dataset.iid_field}, {attribute}]}}"
        raise SettingError("item_attribute", attribute, must=must)
    if config["train_stage"] == "finetune" and not config["pre_model_path"]:
        raise SettingError("pre_model_path", "", must="be a model that train_stage=pretrain has saved")


class Prepared(NamedTuple):
    """What a run works with, before its first step.

    data : recbole Dataset
    train_data, valid_data, test_data : loaders of RecBole's kind
    model : recbole AbstractRecommender
    trainer : Trainer
        With the state of `resume`, where that is set.
    """

    data: Any
    train_data: Any
    valid_data: Any
    test_data: Any
    model: Any
    trainer: Trainer


def prepare(config: Any) -> Prepared:
    """Read the data and build model and trainer.

    Raises
    ------
    UserError
        For any mistake in settings or data, in one line.
    """
    if launch.starts_processes(config):
        raise SettingError("nproc", config["nproc"], must="be 1 where a run is one of many")
    compute_as_set(config)
    init_seed(config["seed"], config["reproducibility"])
    logger.info("%s: reading %s from %s", config["model"], config["dataset"], config["data_path"])
    processes = distributed.present()
    data, parts, facts = processes.read(config, partial(_read, config))
    if processes.number > 1:
        processes.require_alike({**_settings(config), **facts})
    train_data, valid_data, test_data = build_loaders(config, data, parts)
    # Again, so that the weights do not depend on how the data was read.
    init_seed(config["seed"], config["reproducibility"])
    check_features(config, data)
    model = build_model(config, train_data._dataset)
    if trains_on(config.model_class) == "sequences" and config["length_batching"]:
        model.places_a_row = len(train_data._dataset) / epoch_rows(train_data)
    split_items(config, model)
    trainer = build_trainer(config, model)
    trainer.check_catalogue(train_data)
    if config["resume"]:
        trainer.resume_checkpoint(config["resume"], train_data)
    trainer.take_embeddings(train_data)
    return Prepared(data, train_data, valid_data, test_data, model, trainer)


def _read(config: Any) -> SplitData:
    """Read and split the data."""
    data = build_dataset(config)
    parts = split(config, data)
    return SplitData(data, parts, _marks(parts) if distributed.present().number > 1 else {})


def _settings(config: Any) -> dict[str, Any]:
    """The settings that must be the same in all processes of a run."""
    return {key: value for key, value in config.plain().items() if key == KEY or key not in (*RUN, *COMPUTED)}


def _marks(parts: Sequence[Any]) -> dict[str, Any]:
    """What differs where data differ, for `require_alike`."""
    facts: dict[str, Any] = {}
    for part, name in zip(parts, PARTS, strict=False):
        rows = part.inter_feat
        facts[f"data for {name}"] = {
            column: attributes.mark(rows[column]) for column in (part.uid_field, part.iid_field)
        }
    facts["data's items"] = zlib.crc32("\n".join(map(str, parts[0].field2id_token[parts[0].iid_field])).encode())
    return facts


def trainable_parameters(model: nn.Module) -> int:
    """How many numbers training changes, those included that other processes hold."""
    own = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return own + sum(table.elsewhere for table in split_weights(model).values())


def log_settings(config: Any, prepared: Prepared) -> None:
    """Log what a run is about to do: warnings, settings, data, network and the numbers of rows."""
    for warning in config.warnings:
        logger.warning(warning)
    for part in (config, prepared.data, prepared.model):
        logger.info(part, extra=DETAIL)
    sizes = (prepared.data.user_num - 1, prepared.data.item_num - 1, trainable_parameters(prepared.model))
    logger.info("%d users, %d items, %d trainable parameters", *sizes)
    evaluated = [0 if part is None else len(part._dataset) for part in (prepared.valid_data, prepared.test_data)]
    rows = epoch_rows(prepared.train_data)
    logger.info("rows for training, validation and test: %d, %d, %d", rows, *evaluated)
    if trains_on(config.model_class) == "sequences":
        logger.info("every place of a training row has a target: %d in all", len(prepared.train_data._dataset))


@process_as_found()
def train_and_test(
    model: str | type,
    dataset: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
) -> RunResult:
    """Train a model to its early stopping and test its best state; the process is left as it was found.

    Parameters
    ----------
    model : str or type
        Name of a model of ours or of RecBole's, `path/to/file.py:ClassName`, or a class.
    dataset : str
        Name of the dataset.
    config_file_list : sequence of str, optional
        Yaml files, the later the stronger.
    config_dict : mapping, optional
        Settings that override the files; it is not changed.
    saved : bool
        Whether to keep checkpoints.

    Raises
    ------
    UserError
        For any mistake in settings or data, in one line.
    """
    return run_config(load_config(model, dataset, config_file_list, config_dict), saved)


def run_config(config: Any, saved: bool = True) -> RunResult:
    """Train and test as settings say, in the processes that they ask for; see `train_and_test`."""
    if launch.starts_processes(config):
        return launch.run_processes(config, saved, run_config)
    with launch.joined(config):
        return _run(config, saved)


def _run(config: Any, saved: bool) -> RunResult:
    begin = time.perf_counter()
    with run_logging(config) as log_file:
        prepared = prepare(config)
        # Only now, so that a mistake is one line and does not stand below a page of settings.
        log_settings(config, prepared)
        trainer = prepared.trainer
        show_progress = config["show_progress"] and shows_progress()
        try:
            best_valid_score, best_valid_result = trainer.fit(
                prepared.train_data, prepared.valid_data, saved=saved, show_progress=show_progress
            )
        except OutOfTime as ended:
            if not trainer.last_checkpoint:
                raise
            raise OutOfTime(f"{ended}; run the same with --resume={trainer.last_checkpoint} to go on") from None
        except KeyboardInterrupt:
            if trainer.last_checkpoint:
                logger.warning("interrupted; run the same with --resume=%s to go on", trainer.last_checkpoint)
            raise
        test_result = trainer.evaluate(prepared.test_data, load_best_model=saved, show_progress=show_progress)
        for name, metrics in (("best valid", best_valid_result), ("test result", test_result)):
            logger.info("%s: %s", name, ", ".join(f"{metric} {value:.4f}" for metric, value in (metrics or {}).items()))
    result = {
        "best_valid_score": best_valid_score,
        "valid_score_bigger": config["valid_metric_bigger"],
        "best_valid_result": best_valid_result,
        "test_result": test_result,
    }
    title = f"{config['model']} on {config['dataset']}, seed {config['seed']}"
    model_file = Path(trainer.saved_model_file) if saved else None
    seconds = time.perf_counter() - begin
    return RunResult(title, result, model_file, log_file, seconds, config["history_in_ranking"])


def run(
    model: str | type,
    dataset: str,
    config_file_list: Sequence[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    saved: bool = True,
    nproc: int = 1,
    world_size: int = -1,
    ip: str = "localhost",
    port: str = "5678",
    group_offset: int = 0,
) -> dict[str, Any]:
    """Train and test one model, with the signature and the return value of RecBole's `run`.

    Returns
    -------
    dict
        `best_valid_score` (float), `valid_score_bigger` (bool), `best_valid_result`, `test_result` (metric -> float).

    Raises
    ------
    UserError
        For any mistake in settings or data, in one line.
    """
    processes = {"nproc": nproc, "world_size": world_size, "ip": ip, "port": port, "offset": group_offset}
    settings = {**processes, **(config_dict or {})}
    return train_and_test(model, dataset, config_file_list, settings, saved).result
