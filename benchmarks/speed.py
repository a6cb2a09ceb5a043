"""`python -m benchmarks.speed`: training and evaluation against the machine's peak, as JSON."""

from __future__ import annotations

import gc
import json
import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from recbole_diffusion.host import compat

compat.apply()

from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.utils import ModelType, get_trainer, init_seed  # noqa: E402

from benchmarks.flops import BLOCK, HISTORY, TRAINING, evaluation_work, formula_of, training_work  # noqa: E402
from benchmarks.machine import device_name, matmul_peak, peak_rss_mb  # noqa: E402
from benchmarks.scale import measure_growth  # noqa: E402
from benchmarks.timing import (  # noqa: E402
    FEWEST_STEPS,
    TrainingTimes,
    row_lengths,
    some_users,
    time_evaluation,
    time_training,
)
from recbole_diffusion import __version__  # noqa: E402
from recbole_diffusion.cli.exit_codes import run_command  # noqa: E402
from recbole_diffusion.cli.parsers import add_model, settings_parser  # noqa: E402
from recbole_diffusion.common.log import run_logging  # noqa: E402
from recbole_diffusion.errors import SettingError, UserError  # noqa: E402
from recbole_diffusion.evaluation.environment import versions  # noqa: E402
from recbole_diffusion.host.registry import is_recboles  # noqa: E402
from recbole_diffusion.host.settings import DiffusionConfig, load_config  # noqa: E402
from recbole_diffusion.training.memory import keep_freed_memory  # noqa: E402
from recbole_diffusion.training.run import build_model, prepare  # noqa: E402

logger = logging.getLogger(__name__)

SWITCHES = ("--scale", "--quick")
NUMBERS = {"timed_batches": 20, "timed_rounds": 3, "eval_users": None}
# Settings on which the speed depends most, shown with the figures.
TOLD = (
    "hidden_size",
    "inner_size",
    "n_layers",
    "decoder_layers",
    "n_heads",
    "MAX_ITEM_LIST_LENGTH",
    "train_batch_size",
    "eval_batch_size",
    "length_batching",
    "attention_mask",
    "loss_type",
    "ce_weight",
    "guidance_scale",
    "fold_chain",
    "inference_seeds",
    "enable_amp",
    "compile",
    "cuda_graphs",
    "seed",
)

HELP = """\
Measure how fast a sequential model trains and ranks, against the machine's own matrix products.

usage: python -m benchmarks.speed --model=NAME --dataset=NAME [--KEY=VALUE ...]

One JSON object goes to stdout, all else to stderr. Settings are those of run_recbole_diffusion.py. A sample is a row;
a row of a model that trains on sequences has many targets. A model of RecBole's is measured through this package's data
and trainer, and through RecBole's own.

  --timed_batches N  batches timed, spread over the epoch's history lengths (default 20; of RecBole's
                     own, which are all padded to one length, 10)
  --timed_rounds N   how often each is timed after a warm-up; the median counts (default 3)
  --eval_users N     evaluate about so many users, in whole batches spread over their history lengths (default all)
  --scale            instead: how time and memory grow with interactions, length, catalogue and steps, on made-up data;
                     a table on stdout and a plot, scale.png
  --output FOLDER    where the plot goes (default the current folder)
  --quick            with --scale: few and small points
"""


def run(argv: Sequence[str]) -> None:
    """Do what the command line says.

    Raises
    ------
    UserError
        For any mistake in arguments, settings or data.
    """
    parser = settings_parser("python -m benchmarks.speed")
    add_model(parser)
    arguments = parser.read([word for word in argv if word not in SWITCHES])
    if arguments.version:
        print(f"recbole-diffusion {__version__}")
        return
    if arguments.help or arguments.keys:
        print(HELP, end="")
        return
    settings = dict(arguments.settings)
    numbers = {key: _number(key, settings.pop(key, default)) for key, default in NUMBERS.items()}
    output = Path(settings.pop("output", "."))
    if "--scale" in argv:
        print(measure_growth(arguments.config_files, settings, output, quick="--quick" in argv))
    elif "--quick" in argv:
        raise UserError("--quick: goes with --scale")
    else:
        print(json.dumps(measure(arguments.config_files, settings, **numbers), indent=2))


def _number(key: str, text: Any) -> Any:
    if text is None:
        return None
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise SettingError(key, text, must="be a positive whole number")
    return number


def measure(
    config_files: Sequence[str],
    settings: Mapping[str, Any],
    timed_batches: int = 20,
    timed_rounds: int = 3,
    eval_users: int | None = None,
) -> dict[str, Any]:
    """Measure one model on one dataset.

    Parameters
    ----------
    config_files : sequence of str
    settings : mapping
        `model` and `dataset` among them, unless a file names these.
    timed_batches, timed_rounds : int
        See `timing.time_training`.
    eval_users : int, optional
        See `timing.some_users`.

    Returns
    -------
    dict
        Plain data; rates a second, `matmul_peak_gflops` in 10^9 operations a second, `peak_rss_mb` in 10^6 bytes.

    Raises
    ------
    UserError
    """
    with TemporaryDirectory() as folder:
        nowhere = {"checkpoint_dir": folder, "log_dir": None, "tensorboard_dir": None, "log_wandb": False}
        config = load_config(None, None, config_files, {**settings, **nowhere})
        if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
            raise SettingError("model", config["model"], must="be sequential")
        with run_logging(config):
            for warning in config.warnings:
                logger.warning(warning)
            return _measure(config, timed_batches, timed_rounds, eval_users)


def _measure(config: DiffusionConfig, batches: int, rounds: int, users: int | None) -> dict[str, Any]:
    prepared = prepare(config)
    dataset, train_data, trainer = prepared.data, prepared.train_data, prepared.trainer
    test_data = some_users(config, prepared.test_data, users)
    trainer.eval_collector.data_collect(train_data)
    device = config["device"]
    dtypes = [torch.float32, *([trainer.steps.amp_dtype] if trainer.enable_amp else [])]

    # Before and after, as a machine that others use is not always at its best.
    peaks = [[matmul_peak(device, dtype) for dtype in dtypes]]
    training = time_training(trainer, train_data, batches, rounds)
    evaluation = time_evaluation(trainer, test_data)
    peaks.append([matmul_peak(device, dtype) for dtype in dtypes])
    fp32, *half = (max(both) for both in zip(*peaks, strict=True))
    peak = half[0] if half else fp32

    items, evaluated = dataset.item_num - 1, row_lengths(test_data._dataset)
    _tell_formula(config, items)
    steps = len(getattr(prepared.model, "timesteps", (0,)))
    needed = (
        training_work(config, items, training.lengths, training.targets),
        evaluation_work(config, items, evaluated, steps),
    )
    # Only training is in lower precision.
    fractions = [
        work and round(work / seconds / best, 4)
        for work, seconds, best in zip(needed, (training.seconds, evaluation), (peak, fp32), strict=True)
    ]
    figures = {
        "model": config["model"],
        "dataset": config["dataset"],
        **_rates(training, evaluation, len(evaluated)),
        "eval_users": len(evaluated),
        "eval_steps": steps,
        "matmul_peak_gflops": round(fp32 / 1e9, 1),
        **({"matmul_peak_gflops_amp": round(peak / 1e9, 1)} if half else {}),
        "train_fraction_of_peak": fractions[0],
        "eval_fraction_of_peak": fractions[1],
        "train_mflop_per_sample": needed[0] and round(needed[0] / len(training.lengths) / 1e6, 2),
        "peak_rss_mb": round(peak_rss_mb()),
    }
    if is_recboles(config.model_class):
        del dataset, train_data, test_data, trainer, prepared
        gc.collect()
        # Its batches are all padded to one length, so few of them stand for the epoch.
        figures |= _measure_recboles(config, FEWEST_STEPS, rounds, users)
    precision = torch.get_float32_matmul_precision()
    settings = {key: config[key] for key in TOLD if config[key] is not None}
    return {
        **figures,
        "settings": {
            **settings,
            "dtype": str(dtypes[-1]).removeprefix("torch."),
            "float32_matmul_precision": precision,
        },
        "versions": versions(),
        "device": device_name(device),
    }


def _measure_recboles(config: DiffusionConfig, batches: int, rounds: int, users: int | None) -> dict[str, Any]:
    """The same through RecBole's own dataset, loaders and trainer."""
    trainer, train_data, test_data = recboles_trainer(config, users)
    with recboles_own_way(anomaly_detection=True):
        training = time_training(trainer, train_data, batches, rounds)
    with recboles_own_way(anomaly_detection=False):
        without = time_training(trainer, train_data, batches, rounds)
        evaluation = time_evaluation(trainer, test_data)
    rates = _rates(training, evaluation, len(test_data._dataset))
    return {
        **{f"recbole_{name}": rate for name, rate in rates.items()},
        "recbole_train_samples_per_s_without_anomaly_detection": round(without.samples_per_s, 1),
    }


def recboles_trainer(config: DiffusionConfig, users: int | None) -> tuple[Any, Any, Any]:
    """RecBole's trainer with a new model, and its loaders for training and, of `users` of them, for the test."""
    init_seed(config["seed"], config["reproducibility"])
    train_data, _, test_data = data_preparation(config, create_dataset(config))
    model = build_model(config, train_data._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.eval_collector.data_collect(train_data)
    return trainer, train_data, some_users(config, test_data, users)


@contextmanager
def recboles_own_way(anomaly_detection: bool) -> Iterator[None]:
    """As RecBole leaves the process: importing its sequential models turns anomaly detection on (see `compat`)."""
    with warnings.catch_warnings(), torch.autograd.set_detect_anomaly(anomaly_detection):
        # Its trainer names torch's gradient scaler as it was called before.
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _rates(training: TrainingTimes, evaluation: float, users: int) -> dict[str, float]:
    return {
        "train_samples_per_s": round(training.samples_per_s, 1),
        "train_targets_per_s": round(training.targets_per_s, 1),
        "train_tokens_per_s": round(training.tokens_per_s, 1),
        "train_epoch_s": round(training.epoch_s, 2),
        "eval_users_per_s": round(users / evaluation, 1),
    }


def _tell_formula(config: DiffusionConfig, items: int) -> None:
    formula = formula_of(config)
    if formula is None:
        logger.warning("no formula counts the operations of %s, so no fraction of the peak is given", config["model"])
        return
    names = {"d": "hidden_size", "inner": "inner_size", "layers": "n_layers", "heads": "n_heads"}
    sizes = ", ".join(f"{name} = {config[key]}" for name, key in names.items() if config[key] is not None)
    logger.info("operations needed, multiply-adds as two, of a history of n real items: %s", formula.text)
    logger.info("%s; %s, V = %d", BLOCK if "block" in formula.text else HISTORY, sizes, items)
    logger.info("training: %d times a forward pass; a step's encoding and its MLP are not counted", TRAINING)


if __name__ == "__main__":
    # As the command line's own process does.
    keep_freed_memory()
    sys.exit(run_command(lambda: run(sys.argv[1:]), debug="--debug" in sys.argv))
