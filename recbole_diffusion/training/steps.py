"""One training step: loss, gradients, clipping, the optimizer's step and the average of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from math import cos, isfinite, pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from . import distributed
from .average import AveragedWeights
from .frozen import frozen_parameters
from .recording import RecordedSteps, obstacle

# Batches between two looks at the loss: each look makes a GPU wait for the host.
LOOK_EVERY = 50


class EpochLosses:
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


def epoch_rate(config: Any, epoch: int) -> float:
    """The learning rate of an epoch, from 0 on: `learning_rate`, lowered as the other keys say.

    `lr_step_size` multiplies it by `lr_gamma` each time so many epochs have passed; `lr_cosine_epochs` by half of
    1 + cos(π epoch / `lr_cosine_epochs`), which ends at 0 (Loshchilov and Hutter, 2017: "SGDR").
    """
    rate, size, span = config["learning_rate"], config["lr_step_size"], config["lr_cosine_epochs"]
    if size:
        rate *= config["lr_gamma"] ** (epoch // size)
    return rate * (1 + cos(pi * min(epoch / span, 1))) / 2 if span else rate


class TrainingSteps:
    """Takes training steps, plain or recorded, and counts them.

    Parameters
    ----------
    config : recbole Config
        Read are the keys of `epoch_rate`, `warmup_steps`, `clip_grad_norm`, `enable_amp`,
        `enable_scaler`, `cuda_graphs`, `ema_decay`, `frozen` and `frozen_epochs`.
    model : nn.Module
    optimizer : Optimizer
        The one of the first step.

    Raises
    ------
    SettingError
        Where `frozen` does not fit the model.
    """

    def __init__(self, config: Any, model: nn.Module, optimizer: Optimizer) -> None:
        self.config = config
        self.model = model
        self.processes = distributed.present()
        self.device: torch.device = config["device"]
        half = bool(config["enable_amp"] and config["enable_scaler"]) and self.device.type == "cuda"
        self.amp_dtype = torch.float16 if half else torch.bfloat16
        self.scaler = torch.amp.GradScaler("cuda", enabled=half)
        self.rate: float = config["learning_rate"]
        self.rate_changes = any(config[key] for key in ("lr_step_size", "lr_cosine_epochs", "warmup_steps"))
        self.warmup_steps: int = config["warmup_steps"]
        # Of the optimizer, so far: the warm-up depends on it.
        self.taken = 0
        decay = config["ema_decay"]
        self.average = None if decay is None else AveragedWeights(model, decay)
        self.frozen_epochs: int = config["frozen_epochs"]
        self.frozen = frozen_parameters(model, config["frozen"]) if self.frozen_epochs else []
        self._recorded: RecordedSteps | None = None
        self.obstacle = None
        if config["cuda_graphs"]:
            self.obstacle = self.processes.obstacle or obstacle(config, model, optimizer, scaled=half)
        self.recording = bool(config["cuda_graphs"]) and self.obstacle is None
        if self.recording:
            # Of each shape the first step is not recorded, about which torch would warn.
            optimizer._warned_capturable_if_run_uncaptured = True
            for group in optimizer.param_groups:
                group["capturable"] = True
                if self.rate_changes:
                    # A recording reads the tensor, and would keep the number that it was made with.
                    group["lr"] = torch.tensor(group["lr"], device=self.device)

    def start_epoch(self, epoch: int, optimizers: Iterable[Optimizer]) -> None:
        """Set what is a function of the epoch: the learning rate, and which parameters are trained."""
        if self.rate_changes:
            self.rate = epoch_rate(self.config, epoch)
            for optimizer in optimizers:
                self._set_rate(optimizer, self.rate)
        self._freeze(epoch < self.frozen_epochs)

    def close(self) -> None:
        """Let go of what training held: no parameter stays frozen."""
        self._freeze(False)

    def _freeze(self, freeze: bool) -> None:
        # Without a gradient, a parameter is left out of the optimizer's step, its weight decay included.
        for parameter in self.frozen:
            if parameter.requires_grad == freeze:
                parameter.requires_grad_(not freeze)
                self.forget_recordings()

    def _set_rate(self, optimizer: Optimizer, rate: float) -> None:
        for group in optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def forget_recordings(self) -> None:
        """Record anew: a recording is of the tensors and the gradients that it was made with."""
        self._recorded = None

    def take(self, optimizer: Optimizer, interaction: Any, loss_func: Callable[[Any], Any] | None = None) -> Tensor:
        """Take a step; gives the batch's loss by its parts, [parts].

        Parameters
        ----------
        optimizer : Optimizer
        interaction : recbole Interaction
            On the device.
        loss_func : callable, optional
            Gives a batch's loss, or a tuple of losses to be summed; by default the model's `calculate_loss`.
        """
        if self.taken < self.warmup_steps:
            self._set_rate(optimizer, self.rate * min(1.0, (self.taken + 1) / self.warmup_steps))
        losses = self.stepper(optimizer, loss_func)(interaction)
        self.taken += 1
        return losses

    def stepper(self, optimizer: Optimizer, loss_func: Callable[[Any], Any] | None = None) -> Callable[[Any], Tensor]:
        """What takes a step: a recorded one where that is set, allowed, and the loss is the model's own."""
        if loss_func is not None or not self.recording:
            return partial(self._step, optimizer, loss_func or self.processes.loss(self.model))
        if self._recorded is None:
            self._recorded = RecordedSteps(partial(self._step, optimizer, self.model.calculate_loss))
        return self._recorded

    def _step(self, optimizer: Optimizer, loss_func: Any, interaction: Any) -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(self.device.type, dtype=self.amp_dtype, enabled=self.config["enable_amp"]):
            parts = loss_func(interaction)
        parts = parts if isinstance(parts, tuple) else (parts,)
        loss: Any = sum(parts[1:], parts[0])
        self.scaler.scale(loss).backward()
        losses = torch.stack([part.detach().float().reshape(()) for part in parts])
        losses = self.processes.add_up(self.model, losses)
        if self.config["clip_grad_norm"]:
            self.scaler.unscale_(optimizer)
            clip_grad_norm_(self.model.parameters(), **self.config["clip_grad_norm"])
        self.scaler.step(optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update()
        return losses

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it, as `load` takes it."""
        average = None if self.average is None else self.average.state
        return {"steps": self.taken, "scaler": self.scaler.state_dict(), "average": average}

    def load(self, state: dict[str, Any]) -> None:
        """Go on from where a checkpoint left off, once the model has its weights."""
        self.taken = state["steps"]
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.restart(state["average"])
        self.forget_recordings()
