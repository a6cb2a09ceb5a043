"""Training of every model run: epochs, validation and early stopping."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from contextlib import closing
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import recbole.trainer
import torch
from recbole.utils import early_stopping, get_trainer
from torch import nn
from torch.optim import Optimizer
from tqdm import tqdm

from ..common.deadline import Deadline
from ..common.extras import require_extra
from ..common.log import Heartbeat
from ..errors import SettingError, UserError
from ..host import compat
from ..host.registry import is_recboles
from . import checkpoint, distributed
from .compiling import compile_network
from .memory import FreedMemory
from .resuming import ResumableTrainer, TrainingError
from .steps import EpochLosses

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

compat.apply()

logger = logging.getLogger(__name__)

__all__ = ["Epoch", "NCLTrainer", "Trainer", "TrainingError", "build_trainer"]

# torch has had Adam in one pass for CPUs since 2.4.
FUSES = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 4)


class Epoch(NamedTuple):
    """What an epoch has given.

    number : int
        From 0.
    loss : float
        Mean over the batches.
    seconds : float
        Wall time of its training.
    valid_score : float or None
        None where the epoch was not validated.
    valid_seconds : float or None
        Wall time of its validation.
    """

    number: int
    loss: float
    seconds: float
    valid_score: float | None = None
    valid_seconds: float | None = None


EpochCallback = Callable[[Epoch], Any]


class Board:
    """A tensorboard writer that ends, with one warning, where its folder cannot be written to any more."""

    def __init__(self, writer: SummaryWriter, folder: Path) -> None:
        self._writer: SummaryWriter | compat.NullWriter = writer
        self._folder = folder

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            try:
                return getattr(self._writer, name)(*args, **options)
            except OSError as error:
                self._writer = compat.NullWriter()
                logger.warning("%s cannot be written to (%s); tensorboard's record ends here", self._folder, error)

        return call


class Trainer(ResumableTrainer):
    """RecBole's trainer with checkpoints of plain data, exact resumption and a step-wise learning rate.

    After every epoch the last state stands in `<stem>.last.pth` beside the best one, `saved_model_file`; either
    can be resumed. Settings beyond RecBole's are explained in `properties/overall.yaml`.

    Parameters
    ----------
    config : recbole Config
    model : recbole AbstractRecommender

    Raises
    ------
    UserError
        Where `checkpoint_dir` cannot be written to, `frozen` does not fit the model, or `log_wandb` is set and wandb
        is not installed.
    """

    def __init__(self, config: Any, model: nn.Module) -> None:
        if config["log_wandb"]:
            require_extra("wandb", "log_wandb=True")
        super().__init__(config, model)
        if config["tensorboard_dir"]:
            self.tensorboard = self._tensorboard(Path(config["tensorboard_dir"]) / Path(self.saved_model_file).stem)
        if self.steps.obstacle:
            self.logger.info(f"cuda_graphs: without effect, {self.steps.obstacle}")
        # Items are split where memory is short, and gaps in it would be as large as the tables.
        self.freed_memory = FreedMemory(kept=self.device.type == "cpu" and self.own_items is None)
        self.on_epoch_end: EpochCallback | None = None
        self.deadline = Deadline.read(config["deadline"])
        # What follows the training, as so many validations: the test.
        self.validations_after = 1.0

    def _build_optimizer(self, **kwargs: Any) -> Optimizer:
        """RecBole's optimizer; for models of our own, Adam in one pass, which differs by rounding."""
        optimizer = super()._build_optimizer(**kwargs)
        is_adam = isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW)
        if is_adam and FUSES and not is_recboles(type(self.model)):
            for group in optimizer.param_groups:
                group["fused"] = True
        return optimizer

    def _tensorboard(self, folder: Path) -> Board:
        from torch.utils.tensorboard import SummaryWriter

        try:
            return Board(SummaryWriter(str(folder)), folder)
        except OSError as error:
            must = f"be a folder that can be written to, or ~ for none ({error.strerror})"
            raise SettingError("tensorboard_dir", self.config["tensorboard_dir"], must=must) from error

    def fit(
        self,
        train_data: Any,
        valid_data: Any = None,
        verbose: bool = True,
        saved: bool = True,
        show_progress: bool = False,
        callback_fn: Callable[[int, float], Any] | None = None,
        on_epoch_end: EpochCallback | None = None,
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
            Whether to show progress bars.
        callback_fn : callable, optional
            RecBole's: called with the epoch and the validation score after each validation.
        on_epoch_end : callable, optional
            Called with an `Epoch` after each epoch, before its checkpoints are written: a run that is broken off
            in between trains that epoch again.

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
        OutOfTime
            Where another epoch does not fit before `deadline`, or what follows the last one; the last checkpoint is
            whole.
        """
        on_epoch_end = on_epoch_end or self.on_epoch_end
        self.check_catalogue(train_data)
        self.eval_collector.data_collect(train_data)
        if self.config["train_neg_sample_args"].get("dynamic", False):
            train_data.get_model(self.model)
        self._begin(train_data, saved)
        # Trainers of models that train for one epoch set `epochs` after RecBole has settled `eval_step`.
        eval_step = min(self.eval_step, self.epochs)

        if verbose and self.epoch + 1 >= self.epochs:
            self.logger.info(f"nothing to train: {self.epoch + 1} epochs are done, and epochs={self.epochs}")
        # Of as many epochs as have a validation among them.
        seconds, valid_seconds = deque([0.0], maxlen=max(1, eval_step)), 0.0
        with closing(self.tensorboard), closing(self.steps):
            while self.epoch + 1 < self.epochs and self.cur_step <= self.stopping_step:
                self.processes.first(partial(self._require_time, max(seconds), valid_seconds))
                begin, number = perf_counter(), self.epoch + 1
                epoch, line = self._train_and_record(train_data, number, show_progress)
                self.epoch = number
                if eval_step > 0 and valid_data and (number + 1) % eval_step == 0:
                    epoch, more = self._validate_and_record(valid_data, epoch, show_progress)
                    line = f"{line}; {more}"
                if on_epoch_end:
                    self.processes.first(partial(on_epoch_end, epoch))
                if saved and self.best_epoch == number:
                    self._write(self.saved_model_file)
                if saved:
                    self._write(checkpoint.last_path(self.saved_model_file))
                if verbose:
                    self.logger.info(line)
                if callback_fn and epoch.valid_score is not None:
                    self.processes.first(partial(callback_fn, number, epoch.valid_score))
                seconds.append(perf_counter() - begin)
                valid_seconds = epoch.valid_seconds or valid_seconds
            if saved and self.best_epoch is None:
                self._write(self.saved_model_file)
            if verbose and self.cur_step > self.stopping_step:
                self.logger.info(f"stopped early, the best {self.valid_metric} was at epoch {self.best_epoch}")
            self._add_hparam_to_tensorboard(self.best_valid_score)
        return self.best_valid_score, self.best_valid_result

    def _require_time(self, epoch: float, validation: float) -> None:
        """Require the seconds of an epoch before the deadline; and where it may be the last, of what follows it."""
        may_be_last = self.epoch + 2 >= self.epochs or self.cur_step >= self.stopping_step
        after = self.validations_after * validation if may_be_last else 0.0
        self.deadline.require(epoch + after, f"the next epoch{' with the tests after it' if after else ''}")

    def _train_and_record(self, train_data: Any, number: int, show_progress: bool) -> tuple[Epoch, str]:
        self.steps.start_epoch(number, self._optimizers().values())
        begin = perf_counter()
        losses = self._train_epoch(train_data, number, show_progress=show_progress)
        self.processes.agree(self.model)
        self._require_finite_weights(number)
        seconds = perf_counter() - begin
        self._note_changes()
        total = sum(losses) if isinstance(losses, tuple) else losses
        self.train_loss_dict[number] = total
        self._add_train_loss_to_tensorboard(number, losses)
        self.wandblogger.log_metrics({"epoch": number, "train_loss": losses, "train_step": number}, head="train")
        # A mean means something by itself; the sums that RecBole works with go to tensorboard and wandb.
        parts = [part / len(train_data) for part in (losses if isinstance(losses, tuple) else (losses,))]
        means = " + ".join(f"{part:.{self.config['loss_decimal_place'] or 4}f}" for part in parts)
        return Epoch(number, total / len(train_data), seconds), f"epoch {number}: loss {means}, {seconds:.1f} s"

    def _validate_and_record(self, valid_data: Any, epoch: Epoch, show_progress: bool) -> tuple[Epoch, str]:
        begin = perf_counter()
        with self.averaged():
            score, result = self._valid_epoch(valid_data, show_progress=show_progress)
        seconds = perf_counter() - begin
        self.best_valid_score, self.cur_step, _, improved = early_stopping(
            score,
            self.best_valid_score,
            self.cur_step,
            max_step=self.stopping_step,
            bigger=self.valid_metric_bigger,
        )
        if improved:
            self._keep_as_best(epoch.number)
            self.best_valid_result = result
        # RecBole's spelling, for dashboards that know it.
        self.tensorboard.add_scalar("Vaild_score", score, epoch.number)
        self.wandblogger.log_metrics({**result, "valid_step": epoch.number // self.eval_step}, head="valid")
        verdict = "the best so far" if improved else f"no better for {self.cur_step}"
        metrics = ", ".join(f"{name} {value:.4f}" for name, value in result.items())
        return (
            epoch._replace(valid_score=score, valid_seconds=seconds),
            f"{self.valid_metric} {score:.4f} ({verdict}), {seconds:.1f} s: {metrics}",
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
        losses = EpochLosses()

        def look() -> float:
            mean, bad = losses.look()
            if bad is not None:
                batch, value = bad
                where = f"epoch {epoch_idx}, batch {batch} of {len(train_data)}"
                raise self._gone_bad(f"the loss is {value}", where, untouched=(epoch_idx, batch) == (0, 1))
            return mean

        # Where a bar would not be seen to move.
        heartbeat = Heartbeat() if self.config["show_progress"] and not show_progress else None
        bar = tqdm(train_data, f"Train {epoch_idx:>5}", ncols=100, leave=False, disable=not show_progress)
        try:
            for batch, interaction in enumerate(bar, start=1):
                if batch == 1:
                    # The epoch's order of millions of rows takes several times what is left of it.
                    self.freed_memory.give_back()
                time_to_look = losses.add(self.steps.take(self.optimizer, interaction.to(self.device), loss_func))
                self.freed_memory.after_step()
                if heartbeat is not None and heartbeat.due():
                    self.logger.info(f"epoch {epoch_idx}: batch {batch} of {len(train_data)}")
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


class NCLTrainer(Trainer):
    """RecBole's NCLTrainer: an E-step every `m_step` epochs, and no prototype loss before `warm_up_step`.

    Raises
    ------
    UserError
        Where faiss is not installed, which the E-step needs.
    """

    def __init__(self, config: Any, model: nn.Module) -> None:
        if find_spec("faiss") is None:
            raise UserError(f"{config['model']} needs the package faiss, which is not installed")
        super().__init__(config, model)

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
    The network is compiled where `compile` says so.
    """
    compat.undo_anomaly_detection()
    compat.mend_loss(model)
    if config["compile"]:
        compile_network(model, config["device"])
    # The nearest ancestor of RecBole's, so that a subclass of S3Rec is trained as S3Rec is.
    ancestor = next(c for c in type(model).__mro__ if is_recboles(c))
    theirs = get_trainer(config["MODEL_TYPE"], ancestor.__name__)
    if theirs is recbole.trainer.Trainer:
        return Trainer(config, model)
    distributed.present().refuse(config["model"], f"it is trained by RecBole's {theirs.__name__}, which computes alone")
    if theirs is recbole.trainer.NCLTrainer:
        return NCLTrainer(config, model)

    def fit(self: Any, *args: Any, on_epoch_end: EpochCallback | None = None, **kwargs: Any) -> Any:
        # RecBole's trainers that have a `fit` of their own know nothing of it.
        self.on_epoch_end = on_epoch_end
        return theirs.fit(self, *args, **kwargs)

    methods: dict[str, Any] = {}
    if "fit" in vars(theirs):
        methods["fit"] = fit
    if issubclass(theirs, recbole.trainer.PretrainTrainer):
        methods["pretrain"] = _pretrain
    return type(theirs.__name__, (theirs, Trainer), methods)(config, model)
