"""`python -m benchmarks.plain_form`: a model as here against the same model in plain code, by the clock, in turn."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.command import print_measured
from benchmarks.machine import device_name
from benchmarks.plain import PLAIN_FORMS
from benchmarks.speed import recboles_own_way, recboles_trainer
from benchmarks.timing import some_users, time_evaluation, time_training
from recbole_diffusion.cli.exit_codes import run_command
from recbole_diffusion.common.setting import table_of
from recbole_diffusion.errors import SettingError
from recbole_diffusion.evaluation.environment import versions
from recbole_diffusion.host.loaders import trains_on
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.inference.sampling import overridden
from recbole_diffusion.training.memory import keep_freed_memory
from recbole_diffusion.training.process import process_as_found
from recbole_diffusion.training.run import prepare
from recbole_diffusion.training.threads import use_threads

USERS = 2048
BATCHES = 10
ROUNDS = 2
# Of the plain form, whose batches all have one length.
PLAIN_BATCHES = 5
ALL = "all"
# Settings on which the ratios depend most, shown with the figures.
SHOWN = (
    "hidden_size",
    "n_layers",
    "decoder_layers",
    "train_batch_size",
    "MAX_ITEM_LIST_LENGTH",
    "guidance_scale",
    "fold_chain",
    "ddim_stride",
    "seed",
)

HELP = f"""\
Time a model as it is here against the same model in plain code, as its authors' code computes it: every history padded
to MAX_ITEM_LIST_LENGTH, torch's dropout, every place computed, the cross-entropy over all scores, a pass of the network
at each reverse step, RecBole's dataset, loaders and trainer. Plain, here, plain, in one process. {USERS} users are
evaluated.

Both take the reverse steps that the settings say. Where these say one, both take all that the authors' code takes,
and the model as it is here is timed with one step too.

usage: python -m benchmarks.plain_form [--model=NAME] --dataset=NAME [--config_files=FILE] [--KEY=VALUE ...]

  --model NAME  one of {", ".join(PLAIN_FORMS)}
                (default DiffuRec), or {ALL}: each in turn, as a list
"""


class Rates(NamedTuple):
    """Training rows a second, and users a second by reverse steps."""

    train: float
    evaluation: dict[int, float]


def sequence_rows(users: Tensor, longest: int) -> Tensor:
    """Of rows for each prefix the fewest that have each target once, where every place of a history has one.

    Parameters
    ----------
    users : Tensor [n]
        The user of each row; the rows of one stand together, oldest first, as RecBole leaves them.
    longest : int
        Of the histories.

    Returns
    -------
    int64 Tensor [m]
        A user's last row, the one that ends where the history of that one begins, and so on.
    """
    _, counts = users.unique_consecutive(return_counts=True)
    behind = counts.cumsum(0).repeat_interleave(counts) - 1 - torch.arange(len(users))
    return (behind % longest == 0).nonzero()[:, 0]


def rows_trained_on(config: Any, loader: Any) -> Any:
    """RecBole's training loader, or for a model that trains on sequences one of `sequence_rows`."""
    if trains_on(config.model_class) == "prefixes":
        return loader
    part = loader._dataset
    rows = sequence_rows(part.inter_feat[config["USER_ID_FIELD"]], config["MAX_ITEM_LIST_LENGTH"])
    return type(loader)(config, part.copy(part.inter_feat[rows]), loader._sampler, shuffle=config["shuffle"])


def _here(config: Any, numbers: Sequence[int]) -> Rates:
    prepared = prepare(config)
    test = some_users(config, prepared.test_data, USERS)
    prepared.trainer.eval_collector.data_collect(prepared.train_data)
    evaluation = {}
    for number in numbers:
        # The settings' own chain need not be an even one.
        with overridden(prepared.model, None if number == config["inference_steps"] else number, seed=None):
            users = len(test._dataset) / time_evaluation(prepared.trainer, test)
            evaluation[len(prepared.model.timesteps)] = users
    return Rates(time_training(prepared.trainer, prepared.train_data, BATCHES, ROUNDS).samples_per_s, evaluation)


def _plain(trainer: Any, train_data: Any, test_data: Any) -> Rates:
    with recboles_own_way(anomaly_detection=False):
        training = time_training(trainer, train_data, PLAIN_BATCHES, ROUNDS)
        users = len(test_data._dataset) / time_evaluation(trainer, test_data)
    return Rates(training.samples_per_s, {len(trainer.model.timesteps): users})


def measure(config_files: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any] | list[dict[str, Any]]:
    """Time the plain form of a model, the model as here, and the plain form again.

    Returns
    -------
    dict, or list of dict for `model: all`
        Plain data: rows and users a second of each form, and how often as many they are here.
    """
    settings = dict(settings)
    name = settings.pop("model", "DiffuRec")
    if name == ALL:
        return [_measure(model, config_files, settings) for model in PLAIN_FORMS]
    if name not in PLAIN_FORMS:
        raise SettingError("model", name, must=f"be one of {', '.join(PLAIN_FORMS)}, or {ALL}")
    return _measure(name, config_files, settings)


def _measure(name: str, config_files: Sequence[str], settings: Mapping[str, Any]) -> dict[str, Any]:
    form = PLAIN_FORMS[name]
    with TemporaryDirectory() as folder:
        nowhere = {"checkpoint_dir": folder, "log_dir": None, "tensorboard_dir": None}
        settings = {**settings, **nowhere, "length_batching": True}
        if "attention_mask" in table_of(form):
            # Without work on padding; the authors' own mask needs all of it.
            settings["attention_mask"] = "keys"
        own = load_config(name, None, config_files, settings)
        steps = own["inference_steps"] if own["inference_steps"] > 1 else form.authors_steps(own)
        config = load_config(form, None, config_files, {**settings, "inference_steps": steps})
        trainer, train_data, test_data = recboles_trainer(config, USERS)
        forms = trainer, rows_trained_on(config, train_data), test_data
        numbers = sorted({own["inference_steps"], steps})
        # As many threads for all; precision and the like are the settings' own for the model as it is here alone.
        use_threads(own["threads"])
        before = _plain(*forms)
        with process_as_found():
            here = _here(own, numbers)
        after = _plain(*forms)
    # The settings' own chain may have another number.
    (steps,) = before.evaluation
    both = (before, after)
    plain_rows, plain_users = mean(p.train for p in both), mean(p.evaluation[steps] for p in both)
    return {
        "model": name,
        "dataset": own["dataset"],
        "train_samples_per_s": {"here": round(here.train, 1), "plain": [round(p.train, 1) for p in both]},
        "eval_users_per_s": {
            **{f"here, steps {number}": round(users, 1) for number, users in here.evaluation.items()},
            f"plain, steps {steps}": [round(p.evaluation[steps], 1) for p in both],
        },
        "times_as_quick": {
            "training": round(here.train / plain_rows, 1),
            **{f"evaluation, steps {n}": round(users / plain_users, 1) for n, users in here.evaluation.items()},
        },
        "settings": {key: own[key] for key in SHOWN if own[key] is not None},
        "versions": versions(),
        "device": device_name(own["device"]),
    }


def run(argv: Sequence[str]) -> None:
    """Do what the command line says, as `print_measured`."""
    print_measured("python -m benchmarks.plain_form", HELP, measure, argv)


if __name__ == "__main__":
    # As the command line's own process does.
    keep_freed_memory()
    sys.exit(run_command(lambda: run(sys.argv[1:]), debug="--debug" in sys.argv))
