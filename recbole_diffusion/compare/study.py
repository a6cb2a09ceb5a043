"""The study of a model: its space, its trials, where they are kept, and which of them end early."""

from __future__ import annotations

import math
import socket
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import psutil
import yaml
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.pruners import BasePruner, NopPruner
from optuna.storages import BaseStorage, JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from ..common.files import write_json, write_text
from ..errors import SettingError, UserError, suggestion
from ..host.parsing import read_yaml
from .plan import STUDY_FILE, Request, Variant, comparable, first_difference, space_file

# Settings that say how far trials go; a study has the same for all.
BUDGET = ("trial_minutes", "pruner", "min_epochs", "reduction_factor")
# By which a trial tells whether the process that does it is there.
WHOSE = ("host", "pid", "started", "job")
# Where trials are kept that are in no database, and what Optuna raises where it holds something else.
JOURNAL = "study.journal"
OF_A_DAMAGED_JOURNAL = (ValueError, KeyError, TypeError, AttributeError, AssertionError)
# Seconds by which the start of a process may seem to move when the clock is set.
SAME_START = 60
# Seconds between two signs of life of a trial in a database, and without one until another process takes it up.
SIGN_EVERY = 10
SECONDS_TO_STALE = 60

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ExperimentalWarning)
    # Asks for a trial again, from where it was broken off.
    repeat = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)


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
    SettingError
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
        if whole and not _is_range(choice):
            raise SettingError(key, choice, must=f"have rising numbers low and high in {file}, above 0 with log")
    return space


def _is_range(choice: Mapping[str, Any]) -> bool:
    """Whether Optuna can draw from `low` to `high`."""
    low, high = choice["low"], choice["high"]
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    return numbers and low <= high and (low > 0 or not choice.get("log"))


def own_point(variant: Variant, folder: str | None = None) -> dict[str, Any]:
    """The point of a model's space that its own settings are.

    Parameters
    ----------
    variant : Variant
    folder : str, optional
        Of the spaces.

    Raises
    ------
    SettingError
        Where the space names a setting that the model does not have, or the model's own value lies outside of it: its
        choices are all that Optuna can try.
    """
    point = {}
    for key, choice in read_space(variant.model, folder).items():
        if key not in variant.config:
            problem = f"{variant.model} has no such setting{suggestion(key, variant.config)}"
            raise SettingError(key, choice, problem)
        value = point[key] = variant.config[key]
        if isinstance(choice, list):
            inside, which = value in choice, f"one of {', '.join(map(str, choice))}"
        else:
            inside = isinstance(value, int | float) and choice["low"] <= value <= choice["high"]
            which = f"from {choice['low']} to {choice['high']}"
        if not inside:
            file = space_file(variant.model, folder)
            raise SettingError(key, value, must=f"be {which}, as {file} has it (--space names another folder)")
    return point


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
    all_attrs = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
    return sum(attrs.get("epochs", 0) - attrs.get("resumed_after", 0) for attrs in all_attrs)


def _is_there(pid: int, started: float) -> bool:
    try:
        # The number may be that of another program by now.
        return abs(psutil.Process(pid).create_time() - started) < SAME_START
    except psutil.Error:
        return False


def repeat_broken_off(study: optuna.Study, job: str | None = None) -> None:
    """Ask again for the trials whose process is gone: on this machine, in a job that begins anew, or without a sign.

    Parameters
    ----------
    study : optuna Study
    job : str, optional
        What this process is to the study; what another process of that name has left is broken off.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        own = trial.user_attrs
        mine = own.get("host") == socket.gethostname() and not _is_there(own["pid"], own.get("started", 0.0))
        if mine or (job is not None and own.get("job") == job):
            study.tell(trial.number, state=TrialState.FAIL)
            repeat(study, trial)


def any_at_work(study: optuna.Study) -> bool:
    """Whether trials are at work, or wait to be taken up."""
    return bool(study.get_trials(deepcopy=False, states=(TrialState.RUNNING, TrialState.WAITING)))


def _journal(file: Path) -> JournalFileBackend:
    """The trials in a file, without the half of a line that a full disk or a process killed in writing has left."""
    lock = JournalFileSymlinkLock(str(file))
    backend = JournalFileBackend(str(file), lock_obj=lock)
    lock.acquire()
    try:
        # Optuna would write on in that line, and never be able to read it again.
        with open(file, "rb+") as journal:
            journal.truncate(journal.read().rfind(b"\n") + 1)
    finally:
        lock.release()
    return backend


def _storage(folder: Path, url: str | None) -> BaseStorage:
    """Where the trials are kept; several processes and machines may work on them at once."""
    if url is None:
        return JournalStorage(_journal(folder / JOURNAL))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return RDBStorage(
            url,
            # A connection that nobody has used for an epoch may be gone.
            engine_kwargs={"pool_pre_ping": True},
            heartbeat_interval=SIGN_EVERY,
            grace_period=SECONDS_TO_STALE,
            heartbeat_stale_trial_callback=repeat,
        )


def open_study(folder: Path, variant: Variant, request: Request, space: Mapping[str, Any]) -> optuna.Study:
    """The study of a model.

    Parameters
    ----------
    folder : Path
        Of the model, in the output of the tuning; in a database the study is called by it.
    variant : Variant
    request : Request
    space : mapping
        As `read_space` gives it.

    Raises
    ------
    UserError
        Where the trials cannot be kept there, or others have other settings.
    """
    # That a trial fails is recorded.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output={folder.parent}: cannot be written to ({error.strerror})") from error
    url = request.own["study_storage"]
    try:
        study = optuna.create_study(
            storage=_storage(folder, url),
            study_name=variant.model if url is None else folder.as_posix(),
            direction="maximize" if variant.config["valid_metric_bigger"] else "minimize",
            pruner=_pruner(request.own),
            load_if_exists=True,
        )
    except (SQLAlchemyError, OptunaError, ImportError, OSError, *OF_A_DAMAGED_JOURNAL) as error:
        reason = (str(error.__cause__ or error).strip() or type(error).__name__).splitlines()[0]
        if url is None:
            raise UserError(f"{folder / JOURNAL}: the trials cannot be read ({reason})") from error
        raise UserError(f"study_storage must be the URL of a database that can be reached ({reason})") from error
    here = {**variant.config, "space": space, "seeds": variant.seeds[:1], **{key: request.own[key] for key in BUDGET}}
    there = comparable(study.user_attrs.get("config", here), here)
    key = first_difference(there, here)
    if key is not None:
        difference = f"{variant.name} was tuned with {key}={there.get(key)!r} there, not {here.get(key)!r}"
        raise UserError(f"output={folder.parent}: {difference}; set it so, or choose another folder by --output")
    study.set_user_attr("config", here)
    return study


def write_trials(study: optuna.Study, folder: Path, metric: str, trials: int) -> None:
    """Write every trial, and when all are there the settings of the best, to files that people read."""
    columns = ("number", "value", "datetime_start", "datetime_complete", "params", "user_attrs", "state")
    table = study.trials_dataframe(columns)
    config = study.user_attrs.get("config", {})
    write_json(folder / STUDY_FILE, {key: config.get(key) for key in ("model", "dataset")})
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
