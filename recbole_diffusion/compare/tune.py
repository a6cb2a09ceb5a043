"""Each model's own small, stated space searched by validation alone, with the same number of trials for all."""

from __future__ import annotations

import logging
import math
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import optuna
import psutil
import yaml
from optuna.pruners import BasePruner, NopPruner
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from tabulate import tabulate

from ..common.deadline import Deadline
from ..common.files import write_text
from ..common.log import screen_handler, shows_progress
from ..errors import OutOfTime, SettingError, UserError
from ..host.parsing import read_yaml
from ..host.settings import load_config
from ..training.run import prepare
from ..training.trainer import TrainingError
from .plan import Request, Variant, comparable, file_name, first_difference, make_variants, space_file

# Trials drawn at random before the sampler learns from them.
TRIALS_AT_RANDOM = 4
# Settings that say how far trials go; a study has the same for all.
BUDGET = ("trial_minutes", "pruner", "min_epochs", "reduction_factor")
# By which a trial tells whether the process that does it is there.
WHOSE = ("host", "pid", "started")
# Seconds by which the start of a process may seem to move when the clock is set.
SAME_START = 60

logger = logging.getLogger(__name__)


class _TimeUp(Exception):
    """A trial has had its minutes."""


class Halving(BasePruner):
    """Successive halving over epochs: of the trials that reach a rung, the best 1/`reduction_factor` go on.

    Rungs stand at `min_epochs`, `min_epochs` times `reduction_factor`, and so on. Trials come one by one, so each
    is compared with those that were there before it, as in ASHA (Li et al., MLSys 2020). It decides as Optuna's
    SuccessiveHalvingPruner does, which also counts trials that were broken off and are done again.

    Parameters
    ----------
    min_epochs : int
        No trial is pruned before.
    reduction_factor : int
        At least 2.
    """

    def __init__(self, min_epochs: int, reduction_factor: int) -> None:
        self.min_epochs, self.reduction_factor = min_epochs, reduction_factor

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Whether a trial ends here; its validation scores are reported by the number of epochs that it has had."""
        earlier, last = sorted(trial.intermediate_values)[:-1], trial.last_step or 0
        rung = self.min_epochs
        while rung <= last:
            reached_now = not earlier or earlier[-1] < rung
            if reached_now and not self._goes_on(study, rung, trial.intermediate_values[last]):
                return True
            rung *= self.reduction_factor
        return False

    def _goes_on(self, study: optuna.Study, rung: int, score: float) -> bool:
        """Whether a score is among the best at a rung, of all that were there, itself included; the first one is."""
        found = [_score_at(trial, rung) for trial in study.get_trials(deepcopy=False) if _counts(trial)]
        scores = [other for other in found if other is not None and not math.isnan(other)]
        sign = 1 if study.direction == StudyDirection.MAXIMIZE else -1
        better = sum(sign * other > sign * score for other in scores)
        return not math.isnan(score) and better < max(1, len(scores) // self.reduction_factor)


def _score_at(trial: FrozenTrial, rung: int) -> float | None:
    """A trial's score at its first validation from a number of epochs on; None if it had none."""
    return next((score for step, score in sorted(trial.intermediate_values.items()) if step >= rung), None)


def _pruner(own: Mapping[str, Any]) -> BasePruner:
    return Halving(own["min_epochs"], own["reduction_factor"]) if own["pruner"] == "halving" else NopPruner()


def read_space(model: str, folder: str | None = None) -> dict[str, Any]:
    """The space of a model: setting -> list of choices, or mapping of `low`, `high` and `log`.

    Parameters
    ----------
    model : str
    folder : str, optional
        Holds the spaces, a `MODEL.yaml` each; by default those of this package.

    Raises
    ------
    UserError
        Where none is stated, or not in that form.
    """
    file = space_file(model, folder)
    if not file.is_file():
        raise SettingError("model_list", model, must=f"have its search space in {file}")
    space = read_yaml(file)
    for key, choice in space.items():
        whole = isinstance(choice, Mapping) and {"low", "high"} <= set(choice) <= {"low", "high", "log"}
        if not whole and not (isinstance(choice, list) and choice):
            raise SettingError(key, choice, must=f"be a list or {{low: ..., high: ..., log: ...}} in {file}")
    return space


def suggest(trial: optuna.Trial, space: Mapping[str, Any]) -> dict[str, Any]:
    """A point of the space."""
    point: dict[str, Any] = {}
    for key, choice in space.items():
        if isinstance(choice, list):
            point[key] = trial.suggest_categorical(key, choice)
            continue
        low, high = choice["low"], choice["high"]
        draw: Any = trial.suggest_int if isinstance(low, int) and isinstance(high, int) else trial.suggest_float
        point[key] = draw(key, low, high, log=choice.get("log", False))
    return point


def counted(study: optuna.Study, before: int | None = None) -> int:
    """Number of trials that count: all but those broken off; of those numbered below `before`, where it is given."""
    states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING, TrialState.FAIL)
    return sum(
        _counts(trial) and (before is None or trial.number < before)
        for trial in study.get_trials(deepcopy=False, states=states)
    )


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial was not broken off."""
    return trial.state != TrialState.FAIL or "error" in trial.user_attrs


def epochs_of(study: optuna.Study) -> int:
    """Epochs that all trials have had, those that were broken off too."""
    return sum(trial.user_attrs.get("epochs", 0) for trial in study.get_trials(deepcopy=False))


def _is_there(pid: int, started: float) -> bool:
    try:
        # The number may be that of another program by now.
        return abs(psutil.Process(pid).create_time() - started) < SAME_START
    except psutil.Error:
        return False


def _repeat_broken_off(study: optuna.Study) -> None:
    """Ask again for the trials whose process on this machine is gone."""
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        mine = trial.user_attrs.get("host") == socket.gethostname()
        if mine and not _is_there(trial.user_attrs["pid"], trial.user_attrs.get("started", 0.0)):
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial(trial.params)


def _score(trial: optuna.Trial, model: str, dataset: str, settings: Mapping[str, Any], minutes: float | None) -> float:
    """Best validation score of the model with the trial's settings."""
    begin = time.monotonic()

    def after_validation(epoch: int, score: float) -> None:
        trial.report(score, epoch + 1)
        if trial.should_prune():
            raise optuna.TrialPruned
        if minutes is not None and time.monotonic() - begin > 60 * minutes:
            trial.set_user_attr("stopped", f"after {minutes:g} minutes, epoch {epoch}")
            raise _TimeUp

    with TemporaryDirectory() as folder:
        nothing = {"checkpoint_dir": folder, "log_dir": None, "tensorboard_dir": None}
        config = load_config(model, dataset, None, {**settings, **nothing})
        prepared = prepare(config)
        progress = config["show_progress"] and shows_progress()
        try:
            prepared.trainer.fit(
                prepared.train_data,
                prepared.valid_data,
                verbose=False,
                saved=False,
                show_progress=progress,
                callback_fn=after_validation,
            )
        except _TimeUp:
            pass
        finally:
            trial.set_user_attr("seconds", time.monotonic() - begin)
            trial.set_user_attr("epochs", prepared.trainer.epoch + 1)
            trial.set_user_attr("best_epoch", prepared.trainer.best_epoch)
        return prepared.trainer.best_valid_score


def _one_trial(
    study: optuna.Study,
    trial: optuna.Trial,
    variant: Variant,
    request: Request,
    settings: Mapping[str, Any],
    space: Any,
) -> None:
    """Do a trial and tell the study how it ended; broken off, it is asked for again."""
    trial.set_user_attr("started", psutil.Process().create_time())
    trial.set_user_attr("pid", os.getpid())
    # The last of the three: where it stands the others do.
    trial.set_user_attr("host", socket.gethostname())
    try:
        point = suggest(trial, space)
        score = _score(trial, variant.model, request.dataset, {**settings, **point}, request.own["trial_minutes"])
        study.tell(trial, score)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except TrainingError as error:
        # Such as a learning rate at which the loss is no number: a result of the search. Data that are not there
        # and the like are none, and end it.
        trial.set_user_attr("error", str(error))
        study.tell(trial, state=TrialState.FAIL)
    except BaseException:
        study.tell(trial, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
        raise


def _open_study(folder: Path, variant: Variant, request: Request, space: Any) -> optuna.Study:
    """The study of a model, on disk; several processes and machines may work on it at once."""
    folder.mkdir(parents=True, exist_ok=True)
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    study = optuna.create_study(
        storage=storage,
        study_name=variant.model,
        direction="maximize" if variant.config["valid_metric_bigger"] else "minimize",
        pruner=_pruner(request.own),
        load_if_exists=True,
    )
    here = {**variant.config, "space": space, "seeds": variant.seeds[:1], **{key: request.own[key] for key in BUDGET}}
    there = comparable(study.user_attrs.get("config", here), here)
    key = first_difference(there, here)
    if key is not None:
        difference = f"{variant.name} was tuned with {key}={there.get(key)!r} there, not {here.get(key)!r}"
        raise UserError(f"output={folder.parent}: {difference}; set it so, or choose another folder by --output")
    study.set_user_attr("config", here)
    return study


def _record(study: optuna.Study, folder: Path, metric: str, trials: int) -> None:
    """Write every trial, and when all are there the settings of the best, to files that people read."""
    columns = ("number", "value", "datetime_start", "datetime_complete", "params", "user_attrs", "state")
    table = study.trials_dataframe(columns)
    whose = [f"user_attrs_{key}" for key in WHOSE]
    write_text(folder / "trials.csv", table.drop(columns=whose, errors="ignore").to_csv(index=False))
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if counted(study) < trials:
        # A comparison is not to take a model that has had fewer trials than the others.
        (folder / "best.yaml").unlink(missing_ok=True)
    elif done:
        best = study.best_trial
        trials_had = f"{counted(study)} trials of {epochs_of(study)} epochs in all"
        head = f"# The best of {trials_had}, number {best.number}: validation {metric} {best.value:.4f}.\n\n"
        write_text(folder / "best.yaml", head + yaml.safe_dump(best.params, sort_keys=False))


def tune_model(variant: Variant, request: Request, folder: Path) -> dict[str, str]:
    """Search a model's space until the study has its trials; gives a row of the table.

    Raises
    ------
    UserError
    """
    name, config, trials = variant.name, variant.config, request.own["trials"]
    space = read_space(variant.model, request.own["space"])
    settings = {**variant.settings, "seed": variant.seeds[0], "deadline": request.own["deadline"]}
    study = _open_study(folder, variant, request, space)
    # The defaults are the first trial, so that tuning can only gain on validation.
    study.enqueue_trial({key: config[key] for key in space}, skip_if_exists=True)
    _repeat_broken_off(study)
    _record(study, folder, config["valid_metric"], trials)
    while counted(study) < trials:
        Deadline.read(request.own["deadline"]).require(0, "a trial")
        trial = study.ask()
        # By the trials before it, so that processes that share a study do not draw the same, and one broken off
        # changes nothing.
        seed = settings["seed"] + counted(study, trial.number)
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=TRIALS_AT_RANDOM, seed=seed)
        if counted(study, trial.number) >= trials:
            study.tell(trial, state=TrialState.FAIL)
            break
        _one_trial(study, trial, variant, request, settings, space)
        _record(study, folder, config["valid_metric"], trials)
        ended = study.get_trials(deepcopy=False)[trial.number]
        outcome = ended.user_attrs.get("error") or (f"{ended.value:.4f}" if ended.value is not None else "")
        state = f"{ended.state.name.lower()} after {ended.user_attrs.get('epochs', 0)} epochs"
        logger.info("%s, trial %d of %d: %s %s %s", name, counted(study), trials, state, outcome, ended.params)
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    pruned = study.get_trials(deepcopy=False, states=(TrialState.PRUNED,))
    return {
        "model": name,
        "trials": str(counted(study)),
        "pruned": str(len(pruned)),
        "epochs": str(epochs_of(study)),
        f"best valid {config['valid_metric']}": f"{study.best_value:.4f}" if done else "none",
        "best settings": ", ".join(
            f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in study.best_params.items()
        )
        if done
        else "",
    }


def tune_all(request: Request) -> str:
    """Tune each model that the user names; gives the table of what was best.

    The folder is `output`, by default `tune/<dataset>`; in it a folder a model has `study.journal`, which several
    processes may share, `trials.csv` and `best.yaml`, which a comparison takes by `--tuned`.

    Raises
    ------
    UserError
    OutOfTime
        Where trials are left when the deadline comes. The one at work is done again.
    """
    if request.own["jobs"] != 1:
        must = "be 1 for tuning; the same command, started a second time, shares the study"
        raise SettingError("jobs", request.own["jobs"], must=must)
    root = Path(request.own["output"] or Path("tune", file_name(request.dataset)))
    # All of them before the first is tuned, so that a mistake in the last shows now.
    variants = make_variants(request._replace(own={**request.own, "off_switch": False}))
    for variant in variants:
        read_space(variant.model, request.own["space"])
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    handler = screen_handler()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        rows = [tune_model(variant, request, root / file_name(variant.name)) for variant in variants]
    except OutOfTime as ended:
        raise OutOfTime(f"{ended}; the same command goes on with the trials that are left") from None
    finally:
        logger.removeHandler(handler)
    table = tabulate(rows, headers="keys", disable_numparse=True)
    return f"{table}\nto compare them so: --tuned={root}"
