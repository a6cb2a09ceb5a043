"""A training's state on disk: what a checkpoint holds, and how training goes on from one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from ..common.files import check_form
from ..errors import SettingError, UserError
from ..host.table import changeable_results
from . import attributes, checkpoint, distributed, splitting
from .embeddings import KEY as EMBEDDINGS
from .embeddings import take_embeddings
from .evaluating import EvaluatingTrainer
from .steps import TrainingSteps


class TrainingError(UserError):
    """Training went to NaN or infinity."""


@contextmanager
def _complaints_of(path: str | Path) -> Iterator[None]:
    """Name the checkpoint where what it holds cannot be put back."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{path}: cannot be resumed, the checkpoint is damaged ({reason})") from error


def _generators(loader: Any) -> Iterator[torch.Generator]:
    """The generators that shuffle a loader and the loaders that it is made of, as RecBole's for graphs is."""
    for part in (loader, *vars(loader).values()):
        if (part is loader or isinstance(part, DataLoader)) and getattr(part, "generator", None) is not None:
            yield part.generator


class ResumableTrainer(EvaluatingTrainer):
    """A trainer whose state can be saved, resumed exactly, and evaluated at its best.

    Parameters
    ----------
    config : recbole Config
    model : recbole AbstractRecommender

    Raises
    ------
    UserError
        Where `checkpoint_dir` cannot be written to, or `frozen` does not fit the model.
    """

    best_valid_score: float
    cur_step: int

    def __init__(self, config: Any, model: nn.Module) -> None:
        folder, name, dataset = config["checkpoint_dir"], config["model"], config["dataset"]
        saved = distributed.present().first(lambda: checkpoint.unique_path(folder, name, dataset))
        super().__init__(config, model)
        self.saved_model_file = str(saved)
        self.steps = TrainingSteps(config, model, self.optimizer)
        self.epoch = -1
        self.best_epoch: int | None = None
        self._best: dict[str, Any] | None = None
        self.last_checkpoint: Path | None = None
        self._resumed: dict[str, Any] | None = None
        self._train_data: Any = None
        # None once they are taken.
        self._embeddings: str | None = config["pretrained_embeddings"]
        self._changes: attributes.Changes | None = None

    def take_embeddings(self, train_data: Any) -> None:
        """Start the items from the embeddings of `pretrained_embeddings`, unless that is done or training is resumed.

        Raises
        ------
        UserError
            Where that checkpoint does not fit the model.
        """
        if self._embeddings is None:
            return
        taken, items = take_embeddings(self._embeddings, self.model, self.config, train_data._dataset)
        known = "" if taken == items else f"; {items - taken} are unknown there and keep their start"
        self.logger.info(f"pretrained_embeddings: {taken} of {items} items are in {self._embeddings}{known}")
        self._embeddings = None

    def _begin(self, train_data: Any, saved: bool) -> None:
        """Get ready for the next epoch: the first one, or the one after the resumed checkpoint."""
        self._train_data = train_data
        self.epoch = self.start_epoch - 1
        self.take_embeddings(train_data)
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            state = resumed["state"]
            self._require_ours(resumed["path"], state, train_data, resume=True)
            with _complaints_of(resumed["path"]):
                for generator, at in zip(_generators(train_data), state["loader_random"], strict=True):
                    generator.set_state(at)
                checkpoint.set_random_state(state["random"])
        elif self.steps.taken == 0 and self.steps.average is not None:
            # Whoever built the model may have set its weights since.
            self.steps.average.restart()
        self.processes.begin(self.model)
        self._changes = attributes.Changes(self.model, resumed and resumed["state"]["attributes"])
        if resumed is not None and saved and self.best_epoch is not None:
            self._write(self.saved_model_file)

    def _note_changes(self) -> None:
        """Find what the epoch has changed on the model beside its weights."""
        assert self._changes is not None
        for name in self._changes.look():
            self.logger.warning(f"this training cannot be resumed: it changes {name}, which no checkpoint can hold")

    def averaged(self) -> Any:
        """A context in which the model has its averaged weights, where `ema_decay` is set."""
        return nullcontext() if self.steps.average is None else self.steps.average.in_use()

    def _gone_bad(self, what: str, where: str, untouched: bool = False) -> TrainingError:
        if untouched:
            cause = "no weight was changed yet, so a setting is far out of range, or the data hold NaN or infinity"
        else:
            cause = f"learning_rate={self.learning_rate} is probably too high"
        if self.enable_amp:
            cause += ", or 16 bits are too few (enable_amp)"
        kept = (
            f"the last good checkpoint is {self.last_checkpoint}"
            if self.last_checkpoint
            else "no checkpoint was saved yet"
        )
        return TrainingError(f"{what} at {where}: {cause}; {kept}")

    def _require_finite_weights(self, epoch: int) -> None:
        """The last step of an epoch can spoil the weights after its loss was still finite."""
        for name, parameter in self.model.named_parameters():
            if not bool(parameter.detach().isfinite().all()):
                raise self._gone_bad(f"{name} is not finite", f"the end of epoch {epoch}")

    def _optimizers(self) -> dict[str, Optimizer]:
        """All optimizers by attribute, each once: RecVAE's trainer sets `optimizer` to one of two others."""
        names = sorted(name for name, value in vars(self).items() if isinstance(value, Optimizer))
        # The later name wins, which is not the passing one.
        last_name = {id(getattr(self, name)): name for name in names}
        return {name: getattr(self, name) for name in last_name.values()}

    def _keep_as_best(self, epoch: int) -> None:
        """Keep the weights, averaged where `ema_decay` is set, as the best ones."""
        with self.averaged():
            self._best = checkpoint.weights_copy(self.model)
        self.best_epoch = epoch

    def _learnt(self) -> dict[str, Any]:
        """What a checkpoint holds of weights, and what has a number for each of them."""
        best = self._best if self.best_epoch != self.epoch else None
        return {
            **checkpoint.weights(self.model),
            "best_state_dict": best and best["state_dict"],
            "best_other_parameter": best and best["other_parameter"],
            "optimizer": {name: value.state_dict() for name, value in self._optimizers().items()},
            **self.steps.state(),
        }

    def _state(self, learnt: Mapping[str, Any]) -> dict[str, Any]:
        """What a checkpoint holds; `learnt` is of `_learnt`."""
        saved, unsaved = self._changes.state() if self._changes is not None else ({}, [])
        return {
            "model": self.config["model"],
            "dataset": self.config["dataset"],
            "config": self.config.plain(),
            **checkpoint.tokens(self._train_data._dataset),
            **learnt,
            "attributes": saved,
            "unsaved_attributes": unsaved,
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "cur_step": self.cur_step,
            "best_valid_score": self.best_valid_score,
            "best_valid_result": self.best_valid_result,
            "train_loss": self.train_loss_dict,
            "random": self.processes.random_state(),
            "loader_random": [generator.get_state() for generator in _generators(self._train_data)],
        }

    def _write(self, path: str | Path) -> None:
        # Of split items, every process gives its part.
        learnt: Any = None
        if self.own_items is not None:
            learnt = splitting.gathered(self._learnt(), self.model, self._optimizers(), Path(path).parent)

        def write() -> None:
            checkpoint.save(path, self._state(learnt or self._learnt()))
            self.processes.saved(path)

        self.processes.first(write)
        self.last_checkpoint = Path(path)

    def _read(self, path: str | Path) -> dict[str, Any]:
        """A checkpoint, and of split items those of this process."""
        if self.own_items is None:
            return checkpoint.load_model(path)
        state = checkpoint.load_model(path, mapped=True)
        with _complaints_of(path):
            return splitting.own_part(state, self.model, self._optimizers())

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        """Save the weights at hand as the best ones, under RecBole's name for that."""
        self._require_finite_weights(epoch)
        self.epoch = epoch
        self._keep_as_best(epoch)
        path = kwargs.get("saved_model_file", self.saved_model_file)
        self._write(path)
        if verbose:
            self.logger.info(f"saved {path}")

    def _require_ours(self, path: str | Path, state: dict[str, Any], loader: Any, resume: bool) -> None:
        """Refuse a checkpoint that is not of this model and this data."""
        if loader is not None:
            checkpoint.require_catalogue(path, state, loader._dataset)
        checkpoint.require_model(path, state, self.model, self.config, resume)

    def resume_checkpoint(self, resume_file: str | Path, train_data: Any = None) -> None:
        """Take up training where a checkpoint left it; `fit` then goes on in files of its own.

        Weights, optimizer, epoch, early stopping and best state are restored here, the random states at the start
        of `fit`. On the CPU the run then goes on as if it had never been stopped. Learning rate, weight decay and
        the like are those of the present settings; a warning names each that has changed.

        Parameters
        ----------
        resume_file : str or Path
            A best or a last checkpoint.
        train_data : loader, optional
            To refuse a checkpoint of another catalogue here; without it `fit` does.

        Raises
        ------
        UserError
            Where the checkpoint cannot be read, is of another model, catalogue, size or `learner`, or lacks what
            training has changed; or other `pretrained_embeddings` are set than it was trained with.
        """
        state = self._read(resume_file)
        self._require_ours(resume_file, state, train_data, resume=True)
        learner = state["config"].get("learner")
        if learner != self.learner:
            raise SettingError("learner", self.learner, must=f"be {learner} to resume {resume_file}")
        check_form(str(resume_file), state, checkpoint.TRAINING_FORM)
        if state["unsaved_attributes"]:
            name = state["unsaved_attributes"][0]
            raise UserError(f"{resume_file}: cannot be resumed, as training changes {name}, which no checkpoint holds")
        changed = self._changed_settings(resume_file, state)
        checkpoint.use_weights(resume_file, state, self.model, self.device)
        with _complaints_of(resume_file):
            self._put_back(state)
        self.last_checkpoint = Path(resume_file)
        self._embeddings = None
        self._resumed = {"path": resume_file, "state": state}
        self.logger.info(f"resumed {resume_file} after epoch {self.epoch}")
        for key, (there, here) in changed.items():
            self.logger.warning(f"{key} is {here!r} from here on; {resume_file} was trained with {there!r}")

    def _changed_settings(self, path: str | Path, state: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
        """The settings that have changed since a checkpoint and that the result depends on: key -> (there, here)."""
        trained, settings = checkpoint.trained_with(state, self.config), self.config.plain()
        free = changeable_results(self.config.model_class) & trained.keys()
        changed = {key: (trained[key], here) for key, here in settings.items() if key in free and trained[key] != here}
        # The weights hold them already.
        there, here = changed.pop(EMBEDDINGS, (None, None))
        if here is not None:
            raise SettingError(
                EMBEDDINGS, here, must=f"be {there!r}, as in {path}, or ~: a resumed run reads none anew"
            )
        return changed

    def _put_back(self, state: dict[str, Any]) -> None:
        """Take over what a checkpoint holds beside the weights."""
        attributes.put(self.model, state["attributes"], self.device)
        self.steps.load(state)
        optimizers = self._optimizers()
        if not state["optimizer"]:
            raise ValueError("it holds no optimizer")
        if state["epoch"] < 0:
            raise ValueError(f"epoch must be at least 0, got {state['epoch']}")
        for name, saved in state["optimizer"].items():
            groups = optimizers[name].state_dict()["param_groups"]
            optimizers[name].load_state_dict({"state": saved["state"], "param_groups": groups})
        self.epoch = state["epoch"]
        self.start_epoch = self.epoch + 1
        self.cur_step = state["cur_step"]
        self.best_valid_score = state["best_valid_score"]
        self.best_valid_result = state["best_valid_result"]
        self.train_loss_dict = state["train_loss"]
        self.best_epoch = state["best_epoch"]
        self._best = None if self.best_epoch is None else checkpoint.best_weights(state)

    def evaluate(
        self,
        eval_data: Any,
        load_best_model: bool = True,
        model_file: str | Path | None = None,
        show_progress: bool = False,
    ) -> OrderedDict[str, float]:
        """Evaluate the model; training's random state is the same before and after.

        Parameters
        ----------
        eval_data : loader of RecBole's kind
        load_best_model : bool
            Whether to load, for good, the best weights: those of `model_file`, or else of this training; where
            nothing was validated, the weights at hand are used, averaged where `ema_decay` is set.
        model_file : str or Path, optional
            A checkpoint of this model and catalogue.
        show_progress : bool
            Whether to show a progress bar.

        Returns
        -------
        OrderedDict
            Metric -> value, as plain floats; empty where there is nothing to evaluate.

        Raises
        ------
        UserError
            Where `model_file` cannot be used or `topk` exceeds the catalogue.
        """
        if not eval_data:
            return OrderedDict()
        if load_best_model and model_file is not None:
            state = self._read(model_file)
            self._require_ours(model_file, state, eval_data, resume=False)
            checkpoint.use_best(model_file, state, self.model, self.device)
        elif load_best_model and self._best is not None:
            checkpoint.set_weights(self.model, self._best, self.device)
        use_average = load_best_model and model_file is None and self._best is None
        with self.averaged() if use_average else nullcontext():
            return self.metrics(eval_data, show_progress)
