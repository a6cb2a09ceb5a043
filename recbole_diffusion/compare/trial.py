"""One trial of a tuning, also in a process of its own: `python -m recbole_diffusion.compare.trial FOLDER`.

In its folder such a process finds `trial.json`, and leaves `progress.json` after every epoch and at last `record.json`;
or `failed.json`.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from time import sleep
from typing import Any, NamedTuple

import optuna
import psutil

from ..common.deadline import Deadline
from ..common.files import read_json, write_json
from ..common.log import shows_progress
from ..host.settings import load_config
from ..training import checkpoint
from ..training.memory import keep_freed_memory
from ..training.run import prepare
from ..training.trainer import TrainingError
from .one import Progress, exit_code
from .plan import Request, Variant, file_name
from .study import any_at_work, counted, open_study, own_point, read_space, repeat, repeat_broken_off, suggest

# Trials drawn at random before the sampler learns from them.
TRIALS_AT_RANDOM = 4
# Seconds between two looks at the trials of others.
LOOK_EVERY = 5.0


class _TimeUp(Exception):
    """A trial has had its minutes."""


class _AllThere(Exception):
    """The study has all of its trials."""


class Search(NamedTuple):
    """The search for a model's best settings.

    study : optuna Study
    variant : Variant
    space : dict
    folder : Path
        Of the model, in the output of the tuning.
    dataset : str
    own : dict
        The settings of the tuning.
    """

    study: optuna.Study
    variant: Variant
    space: dict[str, Any]
    folder: Path
    dataset: str
    own: Mapping[str, Any]

    @classmethod
    def open(cls, variant: Variant, request: Request, root: Path) -> Search:
        """The search that a request makes in a folder, with what was found in it before.

        Raises
        ------
        UserError
        """
        folder, space = root / file_name(variant.name), read_space(variant.model, request.own["space"])
        # The defaults are the first trial, so that tuning can only gain on validation.
        first = own_point(variant, request.own["space"])
        study = open_study(folder, variant, request, space)
        study.enqueue_trial(first, skip_if_exists=True)
        return cls(study, variant, space, folder, request.dataset, request.own)

    def do_next(self, job: Path | None = None) -> int | None:
        """Do a trial; gives its number, or None where the study has all of them.

        In a database, the trials of other processes are waited for: one that dies leaves its trial to this one.

        Parameters
        ----------
        job : Path, optional
            Folder of the process, where it is the trial's own.

        Raises
        ------
        UserError
        OutOfTime
        """
        while True:
            repeat_broken_off(self.study, None if job is None else str(job))
            if counted(self.study) < self.own["trials"]:
                Deadline.read(self.own["deadline"]).require(0, "a trial")
                number = self._do_one(job)
                if number is not None:
                    return number
            if self.own["study_storage"] is None or not any_at_work(self.study):
                return None
            Deadline.read(self.own["deadline"]).require(0, "a trial")
            sleep(LOOK_EVERY)

    def _do_one(self, job: Path | None) -> int | None:
        """Do a trial; gives its number, or None where others have begun all of them meanwhile."""
        number: int | None = None

        def objective(trial: optuna.Trial) -> float:
            nonlocal number
            number = trial.number
            return self._train(trial, job)

        try:
            self.study.optimize(objective, n_trials=1, catch=(TrainingError,))
        except _AllThere:
            return None
        except BaseException:
            # None where not even the trial has begun.
            if number is not None:
                trial = self.study.get_trials(deepcopy=False)[number]
                if trial.state.is_finished():
                    repeat(self.study, trial)
            raise
        assert number is not None
        shutil.rmtree(self._kept(number), ignore_errors=True)
        return number

    def _train(self, trial: optuna.Trial, job: Path | None) -> float:
        """Train at a point that the trial draws; gives the best validation score."""
        before = counted(self.study, trial.number)
        if before >= self.own["trials"]:
            raise _AllThere
        whose = {
            "started": psutil.Process().create_time(),
            "pid": os.getpid(),
            "job": None if job is None else str(job),
        }
        # The host is the last: where it stands the others do.
        for key, value in {**whose, "host": socket.gethostname()}.items():
            trial.set_user_attr(key, value)
        first = self.variant.seeds[0]
        # By the trials before it, so that processes that share a study do not draw the same, and one broken off
        # changes nothing.
        self.study.sampler = optuna.samplers.TPESampler(n_startup_trials=TRIALS_AT_RANDOM, seed=first + before)
        point = suggest(trial, self.space)
        settings = {**self.variant.settings, "seed": first, "deadline": self.own["deadline"], **point}
        kept, minutes = self._kept(trial.number), self.own["trial_minutes"]
        try:
            return train(trial, self.variant.model, self.dataset, settings, minutes, kept, job)
        except TrainingError as error:
            # Such as a learning rate at which the loss is no number: a result of the search. Data that are not there
            # and the like are none, and end it.
            trial.set_user_attr("error", str(error))
            raise

    def _kept(self, number: int) -> Path:
        """Where a trial keeps its checkpoints: one that is done again goes on from those of its first attempt."""
        first = self.study.get_trials(deepcopy=False)[number].system_attrs.get("failed_trial", number)
        return self.folder / "at-work" / str(first)


def train(
    trial: optuna.Trial,
    model: str,
    dataset: str,
    settings: Mapping[str, Any],
    minutes: float | None,
    kept: Path,
    job: Path | None = None,
) -> float:
    """Train with a trial's settings; gives the best validation score.

    Parameters
    ----------
    trial : optuna Trial
    model, dataset : str
    settings : mapping
    minutes : float or None
        That the trial may take.
    kept : Path
        Folder of the checkpoints, from which the trial goes on.
    job : Path, optional
        Folder in which the progress is kept.
    """
    last = checkpoint.last_path(kept / "model.pth")
    own = {"checkpoint_dir": str(kept), "log_dir": None, "tensorboard_dir": None}
    resume = str(last) if last.is_file() else None
    config = load_config(model, dataset, None, {**settings, **own, "resume": resume})
    prepared = prepare(config)
    trainer = prepared.trainer
    trainer.saved_model_file = str(kept / "model.pth")
    trainer.validations_after = 0  # A trial is not tested.
    before = trial.user_attrs.get("seconds", 0.0) if resume else 0.0
    reported = set(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)
    progress = Progress(job, trainer.start_epoch) if job is not None else None
    begin = time.monotonic()
    trial.set_user_attr("resumed_after", trainer.start_epoch)

    def note() -> float:
        seconds = before + time.monotonic() - begin
        trial.set_user_attr("seconds", seconds)
        trial.set_user_attr("epochs", trainer.epoch + 1)
        return seconds

    def after_validation(epoch: int, score: float) -> None:
        seconds = note()
        if epoch + 1 not in reported:
            trial.report(score, epoch + 1)
            if trial.should_prune():
                raise optuna.TrialPruned
        if minutes is not None and seconds > 60 * minutes:
            trial.set_user_attr("stopped", f"after {minutes:g} minutes, epoch {epoch}")
            raise _TimeUp

    try:
        trainer.fit(
            prepared.train_data,
            prepared.valid_data,
            verbose=False,
            show_progress=config["show_progress"] and shows_progress(),
            callback_fn=after_validation,
            on_epoch_end=None if progress is None else progress.note,
        )
    except _TimeUp:
        pass
    finally:
        note()
        trial.set_user_attr("best_epoch", trainer.best_epoch)
    return trainer.best_valid_score


def do_trial(folder: Path) -> None:
    """Do the next trial of the search that `trial.json` in the folder describes.

    Raises
    ------
    UserError
    OutOfTime
    """
    wanted = read_json(folder / "trial.json")
    request = Request(wanted["dataset"], wanted["own"], [], {}, {})
    search = Search.open(Variant(**wanted["variant"]), request, Path(wanted["root"]))
    number = search.do_next(folder)
    record: dict[str, Any] = {"seconds": 0.0, "epochs": [], "trial": number}
    if number is not None:
        trial = search.study.get_trials(deepcopy=False)[number]
        record |= {**read_json(folder / "progress.json"), "ended": trial.state.name.lower()}
        if trial.value is not None and trial.user_attrs.get("best_epoch") is not None:
            record |= {"best_valid_score": trial.value, "best_epoch": trial.user_attrs["best_epoch"]}
    write_json(folder / "record.json", record)


def main(folder: Path) -> int:
    """Do a trial; gives the exit code."""
    return exit_code(folder, do_trial)


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main(Path(sys.argv[1])))
