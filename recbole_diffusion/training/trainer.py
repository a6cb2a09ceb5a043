"""Training and evaluation of every model run: safe checkpoints, exact resumption, schedules."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from time import perf_counter
from typing import Any

import recbole.trainer
import torch
from recbole.utils import EvaluatorType, ModelType, early_stopping, get_trainer
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from ..common.blocks import row_pieces
from ..errors import SettingError, UserError
from ..evaluation.collector import TopCollector
from ..host import compat
from ..host.registry import is_recboles
from . import checkpoint
from .memory import FreedMemory
from .recording import RecordedSteps, obstacle

compat.apply()

# Batches between two looks at the loss: each look makes a GPU wait for the host.
LOOK_EVERY = 50
# torch has had Adam in one pass for CPUs since 2.4.
FUSES = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 4)


class TrainingError(UserError):
    """Training went to NaN or infinity."""


def _generators(loader: Any) -> Iterator[torch.Generator]:
    """The generators that shuffle a loader and the loaders that it is made of, as RecBole's for graphs is."""
    for part in (loader, *vars(loader).values()):
        if (part is loader or isinstance(part, DataLoader)) and getattr(part, "generator", None) is not None:
            yield part.generator


class _Losses:
    """Sums the losses of an epoch, leaving their values on the device until somebody looks."""

    def __init__(self) -> None:
        self.batches = 0
        self.sums: Tensor | None = None
        self._unseen: list[Tensor] = []

    def add(self, parts: Tensor) -> bool:
        """Take in a batch's loss by its parts, [parts]; true when it is time to look."""
        self.batches += 1
        self._unseen.append(parts)
        return len(self._unseen) == LOOK_EVERY

    def look(self) -> tuple[float, tuple[int, float] | None]:
        """Mean loss since the last look, and the first batch (from 1) and its loss that is not finite."""
        if not self._unseen:
            return 0.0, None
        values = torch.stack(self._unseen).cpu().double()
        self._unseen = []
        self.sums = values.sum(dim=0) if self.sums is None else self.sums + values.sum(dim=0)
        totals = values.sum(dim=1).tolist()
        first = self.batches - len(totals) + 1
        bad = next(((batch, loss) for batch, loss in enumerate(totals, first) if not isfinite(loss)), None)
        return sum(totals) / len(totals), bad


class Trainer(recbole.trainer.Trainer):
    """RecBole's trainer with checkpoints of plain data, exact resumption and a step-wise learning rate.

    After every epoch the last state stands in `<stem>.last.pth` beside the best one, `saved_model_file`; either
    can be resumed. Settings beyond RecBole's: `lr_step_size` (epochs between two multiplications of the learning
    rate by `lr_gamma`) and `tensorboard_dir`.

    Parameters
    ----------
    config : recbole Config
    model : recbole AbstractRecommender

    Raises
    ------
    UserError
        Where `checkpoint_dir` cannot be written to, or `log_wandb` is set and wandb is not installed.
    """

    best_valid_score: float
    cur_step: int

    def __init__(self, config: Any, model: nn.Module) -> None:
        if config["log_wandb"] and find_spec("wandb") is None:
            raise SettingError("log_wandb", True, "this needs wandb: pip install wandb")
        saved = checkpoint.unique_path(config["checkpoint_dir"], config["model"], config["dataset"])
        super().__init__(config, model)
        self.saved_model_file = str(saved)
        if config["tensorboard_dir"]:
            self.tensorboard = self._tensorboard(Path(config["tensorboard_dir"]) / saved.stem)
        if TopCollector.suffices(config):
            self.eval_collector = TopCollector(config)
        half = self.enable_amp and self.enable_scaler and self.device.type == "cuda"
        self.amp_dtype = torch.float16 if half else torch.bfloat16
        self.scaler = torch.amp.GradScaler("cuda", enabled=half)
        self.epoch = -1
        self.best_epoch: int | None = None
        self._best: dict[str, Any] | None = None
        self.last_checkpoint: Path | None = None
        self._resumed: dict[str, Any] | None = None
        self._train_data: Any = None
        self.freed_memory = FreedMemory(kept=self.device.type == "cpu")
        self._recorded: RecordedSteps | None = None
        self.recording = bool(config["cuda_graphs"])
        if self.recording and (why_not := obstacle(config, model, self.optimizer, scaled=half)):
            self.recording = False
            self.logger.info(f"cuda_graphs: without effect, {why_not}")
        if self.recording:
            for group in self.optimizer.param_groups:
                group["capturable"] = True

    def _build_optimizer(self, **kwargs: Any) -> Optimizer:
        """RecBole's optimizer; for models of our own, Adam in one pass, which differs by rounding."""
        optimizer = super()._build_optimizer(**kwargs)
        is_adam = isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW)
        if is_adam and FUSES and not is_recboles(type(self.model)):
            for group in optimizer.param_groups:
                group["fused"] = True
        return optimizer

    def _tensorboard(self, folder: Path) -> SummaryWriter:
        try:
            return SummaryWriter(str(folder))
        except OSError as error:
            wanted = f"a folder that can be written to is wanted, or ~ for none ({error.strerror})"
            raise SettingError("tensorboard_dir", self.config["tensorboard_dir"], wanted) from error

    def check_catalogue(self, loader: Any) -> None:
        """Refuse cut-offs of a ranking that are longer than the catalogue.

        Raises
        ------
        SettingError
        """
        if self.config["eval_type"] == EvaluatorType.RANKING:
            items = loader._dataset.item_num - 1
            if max(self.config["topk"]) > items:
                wanted = f"at most {items} is wanted, the number of items in the catalogue"
                raise SettingError("topk", self.config["topk"], wanted)

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], Any] | None = None,
    ) -> tuple[float, dict[str, float] | None]:
        """Train, with a validation every `eval_step` epochs and early stopping.

        As in RecBole, training stops after `stopping_step` + 1 validations in a row that did not reach the
        best score. A score that is NaN counts as one of them. Without validation the last state is the best.

        Parameters
        ----------
        train_data, valid_data : loaders of RecBole's kind
            Without `valid_data` there is no early stopping.
        verbose : bool
            Whether to log a line for each epoch.
        saved : bool
            Whether to write checkpoints.
        show_progress : bool
            Whether to draw progress bars.
        callback_fn : callable, optional
            Called with the epoch and the validation score after each validation.

        Returns
        -------
        (float, dict or None)
            Best validation score and its metrics; (-inf or inf, None) without a validation.

        Raises
        ------
        UserError
            Where `topk` exceeds the catalogue, or a resumed checkpoint is of another one.
        TrainingError
            Where loss or weights are not finite; the last checkpoint stays as it was.
        """
        self.check_catalogue(train_data)
        self.eval_collector.data_collect(train_data)
        if self.config["train_neg_sample_args"].get("dynamic", False):
            train_data.get_model(self.model)
        self._train_data = train_data
        self.epoch = self.start_epoch - 1
        self._continue_resumed(saved)
        if not saved:
            checkpoint.release(self.saved_model_file)
        # Trainers of models that train for one epoch set `epochs` after RecBole has settled `eval_step`.
        eval_step = min(self.eval_step, self.epochs)

        if verbose and self.epoch + 1 >= self.epochs:
            self.logger.info(f"nothing to train: {self.epoch + 1} epochs are done, and epochs={self.epochs}")
        with closing(self.tensorboard):
            while self.epoch + 1 < self.epochs and self.cur_step <= self.stopping_step:
                epoch = self.epoch + 1
                line = self._train_and_record(train_data, epoch, show_progress)
                self.epoch = epoch
                validate = eval_step > 0 and bool(valid_data) and (epoch + 1) % eval_step == 0
                if validate:
                    score, told = self._validate_and_record(valid_data, epoch, show_progress)
                    line = f"{line}; {told}"
                    if saved and self.best_epoch == epoch:
                        self._write(self.saved_model_file)
                if saved:
                    self._write(checkpoint.last_path(self.saved_model_file))
                if verbose:
                    self.logger.info(line)
                if validate and callback_fn:
                    callback_fn(epoch, score)
            if saved and self.best_epoch is None:
                self._write(self.saved_model_file)
            if verbose and self.cur_step > self.stopping_step:
                self.logger.info(f"stopped early, the best {self.valid_metric} was at epoch {self.best_epoch}")
            self._add_hparam_to_tensorboard(self.best_valid_score)
        return self.best_valid_score, self.best_valid_result

    def _train_and_record(self, train_data: Any, epoch: int, show_progress: bool) -> str:
        if self.config["lr_step_size"]:
            # A function of the epoch, so that a resumed run needs no state for it.
            rate = self.learning_rate * self.config["lr_gamma"] ** (epoch // self.config["lr_step_size"])
            for optimizer in self._optimizers().values():
                for group in optimizer.param_groups:
                    if group["lr"] != rate:
                        # A recording is of the learning rate that it was made with.
                        self._recorded = None
                    group["lr"] = rate
        begin = perf_counter()
        losses = self._train_epoch(train_data, epoch, show_progress=show_progress)
        self._require_finite_weights(epoch)
        total = sum(losses) if isinstance(losses, tuple) else losses
        self.train_loss_dict[epoch] = total
        self._add_train_loss_to_tensorboard(epoch, losses)
        self.wandblogger.log_metrics({"epoch": epoch, "train_loss": losses, "train_step": epoch}, head="train")
        # A mean means something by itself; the sums that RecBole works with go to tensorboard and wandb.
        parts = [part / len(train_data) for part in (losses if isinstance(losses, tuple) else (losses,))]
        told = " + ".join(f"{part:.{self.config['loss_decimal_place'] or 4}f}" for part in parts)
        return f"epoch {epoch}: loss {told}, {perf_counter() - begin:.1f} s"

    def _validate_and_record(self, valid_data: Any, epoch: int, show_progress: bool) -> tuple[float, str]:
        begin = perf_counter()
        score, result = self._valid_epoch(valid_data, show_progress=show_progress)
        self.best_valid_score, self.cur_step, _, improved = early_stopping(
            score,
            self.best_valid_score,
            self.cur_step,
            max_step=self.stopping_step,
            bigger=self.valid_metric_bigger,
        )
        if improved:
            self._keep_as_best(epoch)
            self.best_valid_result = result
        # RecBole's spelling, for dashboards that know it.
        self.tensorboard.add_scalar("Vaild_score", score, epoch)
        self.wandblogger.log_metrics({**result, "valid_step": epoch // self.eval_step}, head="valid")
        verdict = "the best so far" if improved else f"no better for {self.cur_step}"
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in result.items())
        return (
            score,
            f"{self.valid_metric} {score:.4f} ({verdict}), {perf_counter() - begin:.1f} s: {metrics}",
        )

    def _train_epoch(
        self,
        train_data: Any,
        epoch_idx: int,
        loss_func: Callable[[Any], Any] | None = None,
        show_progress: bool = False,
    ) -> float | tuple[float, ...]:
        """Train for one epoch.

        Parameters
        ----------
        loss_func : callable, optional
            Gives a batch's loss, or a tuple of losses to be summed; by default the model's `calculate_loss`.

        Returns
        -------
        float or tuple of float
            Sum over the batches, of each part where the loss has parts.

        Raises
        ------
        TrainingError
            Naming the first batch whose loss is not finite.
        """
        self.model.train()
        losses = _Losses()
        step = self._stepper(loss_func)

        def look() -> float:
            mean, bad = losses.look()
            if bad is not None:
                batch, value = bad
                where = f"epoch {epoch_idx}, batch {batch} of {len(train_data)}"
                raise self._gone_bad(f"the loss is {value}", where, untouched=(epoch_idx, batch) == (0, 1))
            return mean

        bar = tqdm(train_data, f"Train {epoch_idx:>5}", ncols=100, leave=False, disable=not show_progress)
        try:
            for interaction in bar:
                time_to_look = losses.add(step(interaction.to(self.device)))
                self.freed_memory.after_step()
                if time_to_look:
                    bar.set_postfix(loss=f"{look():.4f}")
        except UserError:
            raise
        except Exception:
            # Weights that are NaN can make a later batch fail in a way of its own: name the cause instead.
            look()
            raise
        finally:
            bar.close()
        look()
        if losses.sums is None:
            raise UserError("the training data has no batch: no user has enough interactions")
        return tuple(losses.sums.tolist()) if len(losses.sums) > 1 else float(losses.sums)

    def _stepper(self, loss_func: Callable[[Any], Any] | None) -> Callable[[Any], Tensor]:
        """What takes a training step: recorded ones where that is set, allowed, and the loss is the model's own."""
        if loss_func is not None or not self.recording:
            return partial(self._step, loss_func or self.model.calculate_loss)
        if self._recorded is None:
            self._recorded = RecordedSteps(partial(self._step, self.model.calculate_loss))
        return self._recorded

    def _step(self, loss_func: Callable[[Any], Any], interaction: Any) -> Tensor:
        """Take a training step; gives the batch's loss by its parts, [parts]."""
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.enable_amp):
            parts = loss_func(interaction)
        parts = parts if isinstance(parts, tuple) else (parts,)
        loss: Any = sum(parts[1:], parts[0])
        self.scaler.scale(loss).backward()
        if self.clip_grad_norm:
            self.scaler.unscale_(self.optimizer)
            clip_grad_norm_(self.model.parameters(), **self.clip_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return torch.stack([part.detach().float().reshape(()) for part in parts])

    def _gone_bad(self, what: str, where: str, untouched: bool = False) -> TrainingError:
        if untouched:
            cause = "no weight was changed yet, so look for NaN or infinity in the data"
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
        self.best_epoch = epoch
        self._best = checkpoint.weights_copy(self.model)

    def _write(self, path: str | Path) -> None:
        best = self._best if self.best_epoch != self.epoch else None
        checkpoint.save(
            path,
            {
                "model": self.config["model"],
                "dataset": self.config["dataset"],
                "config": self.config.plain(),
                **checkpoint.tokens(self._train_data._dataset),
                **checkpoint.weights(self.model),
                "best_state_dict": best and best["state_dict"],
                "best_other_parameter": best and best["other_parameter"],
                "optimizer": {name: value.state_dict() for name, value in self._optimizers().items()},
                "scaler": self.scaler.state_dict(),
                "epoch": self.epoch,
                "best_epoch": self.best_epoch,
                "cur_step": self.cur_step,
                "best_valid_score": self.best_valid_score,
                "best_valid_result": self.best_valid_result,
                "train_loss": self.train_loss_dict,
                "random": checkpoint.random_state(),
                "loader_random": [generator.get_state() for generator in _generators(self._train_data)],
            },
        )
        self.last_checkpoint = Path(path)

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
            # A sequential model knows no users; the others have an embedding for each.
            sequential = self.config["MODEL_TYPE"] == ModelType.SEQUENTIAL
            names = ("item",) if sequential else ("item", "user")
            checkpoint.require_catalogue(path, state, loader._dataset, names)
        checkpoint.require_model(path, state, self.model, self.config, resume)

    def resume_checkpoint(self, resume_file: str | Path, train_data: Any = None) -> None:
        """Take up training where a checkpoint left it; `fit` then goes on in files of its own.

        Weights, optimizer, epoch, early stopping and best state are restored here, the random states at the start
        of `fit`. On the CPU the run then goes on as if it had never been stopped. Learning rate, weight decay and
        the like are those of the present settings.

        Parameters
        ----------
        resume_file : str or Path
            A best or a last checkpoint.
        train_data : loader, optional
            To refuse a checkpoint of another catalogue here; without it `fit` does.

        Raises
        ------
        UserError
            Where the checkpoint cannot be read, or is of another model, catalogue, size or `learner`.
        """
        state = checkpoint.load(resume_file)
        self._require_ours(resume_file, state, train_data, resume=True)
        if state["config"]["learner"] != self.learner:
            wanted = f"{resume_file} is to be resumed with {state['config']['learner']}"
            raise SettingError("learner", self.learner, wanted)
        checkpoint.set_weights(self.model, state, self.device)
        # A recording is of the optimizer's tensors as they were.
        self._recorded = None
        optimizers = self._optimizers()
        for name, saved in state["optimizer"].items():
            groups = optimizers[name].state_dict()["param_groups"]
            optimizers[name].load_state_dict({"state": saved["state"], "param_groups": groups})
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.epoch = state["epoch"]
        self.start_epoch = self.epoch + 1
        self.cur_step = state["cur_step"]
        self.best_valid_score = state["best_valid_score"]
        self.best_valid_result = state["best_valid_result"]
        self.train_loss_dict = state["train_loss"]
        self.best_epoch = state["best_epoch"]
        self._best = None if self.best_epoch is None else checkpoint.best_weights(state)
        self.last_checkpoint = Path(resume_file)
        self._resumed = {"path": resume_file, "state": state}
        self.logger.info(f"resumed {resume_file} after epoch {self.epoch}")

    def _continue_resumed(self, saved: bool) -> None:
        if self._resumed is None:
            return
        path, state = self._resumed["path"], self._resumed["state"]
        self._resumed = None
        self._require_ours(path, state, self._train_data, resume=True)
        for generator, at in zip(_generators(self._train_data), state["loader_random"], strict=True):
            generator.set_state(at)
        checkpoint.set_random_state(state["random"])
        if saved and self.best_epoch is not None:
            self._write(self.saved_model_file)

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
            nothing was validated, the weights at hand are used.
        model_file : str or Path, optional
            A checkpoint of this model and catalogue.
        show_progress : bool
            Whether to draw a progress bar.

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
        self.check_catalogue(eval_data)
        if load_best_model and model_file is not None:
            state = checkpoint.load(model_file)
            self._require_ours(model_file, state, eval_data, resume=False)
            checkpoint.set_weights(self.model, checkpoint.best_weights(state), self.device)
        elif load_best_model and self._best is not None:
            checkpoint.set_weights(self.model, self._best, self.device)
        before = checkpoint.random_state()
        try:
            result = super().evaluate(eval_data, load_best_model=False, show_progress=show_progress)
        finally:
            checkpoint.set_random_state(before)
        return OrderedDict((metric, float(value)) for metric, value in result.items())

    def score_pieces(self, batched_data: Any, n_items: int) -> Iterator[tuple[slice, Tensor]]:
        """Scores [rows, V] of a batch of full ranking, a block of rows at a time; what may not be recommended has -inf.

        Parameters
        ----------
        batched_data : tuple
            As RecBole's `FullSortEvalDataLoader` gives it.
        n_items : int
            V, with the padding item.

        Yields
        ------
        (slice, Tensor [rows, V])
        """
        interaction, history_index, *_ = batched_data
        self.tot_item_num = n_items
        for piece in row_pieces(len(interaction), n_items):
            hidden = None
            if history_index is not None:
                inside = (history_index[0] >= piece.start) & (history_index[0] < piece.stop)
                hidden = (history_index[0][inside] - piece.start, history_index[1][inside])
            _, scores, _, _ = super()._full_sort_batch_eval((interaction[piece], hidden, None, None))
            yield piece, scores

    def _full_sort_batch_eval(self, batched_data: Any) -> tuple[Any, Tensor, Tensor, Tensor]:
        if not isinstance(self.eval_collector, TopCollector):
            return super()._full_sort_batch_eval(batched_data)
        interaction, _, positive_u, positive_i = batched_data
        pieces = self.score_pieces(batched_data, self.tot_item_num)
        best = torch.cat([self.eval_collector.best(scores) for _, scores in pieces])
        return interaction, best, positive_u, positive_i

    def _neg_sample_batch_eval(self, batched_data: Any) -> tuple[Any, Tensor, Tensor, Tensor]:
        interaction, scores, positive_u, positive_i = super()._neg_sample_batch_eval(batched_data)
        if isinstance(self.eval_collector, TopCollector):
            scores = self.eval_collector.best(scores)
        return interaction, scores, positive_u, positive_i

    def _spilt_predict(self, interaction: Any, batch_size: int) -> Tensor:
        if getattr(self.model, "predicts_whole_batches", False):
            return self.model.predict(interaction.to(self.device))
        return super()._spilt_predict(interaction, batch_size)


class NCLTrainer(Trainer):
    """RecBole's NCLTrainer: an E-step every `m_step` epochs, and no prototype loss before `warm_up_step`."""

    def _train_epoch(
        self,
        train_data: Any,
        epoch_idx: int,
        loss_func: Callable[[Any], Any] | None = None,
        show_progress: bool = False,
    ) -> float | tuple[float, ...]:
        if epoch_idx % self.config["m_step"] == 0:
            self.model.e_step()

        def warmed_up(interaction: Any) -> Any:
            losses = self.model.calculate_loss(interaction)
            return losses[:-1] if epoch_idx < self.config["warm_up_step"] else losses

        return super()._train_epoch(train_data, epoch_idx, loss_func or warmed_up, show_progress)


def _pretrain(
    self: Any, train_data: Any, verbose: bool = True, show_progress: bool = False
) -> tuple[float, dict[str, float] | None]:
    """The first stage of RecBole's PretrainTrainer, whose own pickles its Config."""
    self.epochs = self.pretrain_epochs
    return Trainer.fit(self, train_data, None, verbose, True, show_progress)


def build_trainer(config: Any, model: nn.Module) -> Trainer:
    """The trainer for a model: RecBole's own for it on top of ours, whose methods every `super()` of theirs reaches.

    The class decides, not its name: a model called DiffRec gets nothing that RecBole has for its own DiffRec.
    """
    compat.undo_anomaly_detection()
    compat.mend_loss(model)
    # The nearest ancestor of RecBole's, so that a subclass of S3Rec is trained as S3Rec is.
    ancestor = next(c for c in type(model).__mro__ if is_recboles(c))
    theirs = get_trainer(config["MODEL_TYPE"], ancestor.__name__)
    if theirs is recbole.trainer.Trainer:
        return Trainer(config, model)
    if theirs is recbole.trainer.NCLTrainer:
        return NCLTrainer(config, model)
    methods = {"pretrain": _pretrain} if issubclass(theirs, recbole.trainer.PretrainTrainer) else {}
    return type(theirs.__name__, (theirs, Trainer), methods)(config, model)
