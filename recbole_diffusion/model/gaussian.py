"""Models whose state is a vector, or one a place, that Gaussian noise is added to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.setting import Setting, at_least, one_of, positive, share, switch
from ..diffusion.noise import Noise, Shape
from ..diffusion.process import PREDICTION_TYPES, GaussianProcess, Process
from ..diffusion.samplers import REVERSE_VARIANCES, SAMPLERS, Denoise, ReverseStep
from ..diffusion.schedules import SCHEDULES, betas_of
from ..diffusion.timesteps import STEP_SAMPLERS, StepSampler, make_step_sampler
from ..errors import ModelError, SettingError
from .base import DiffusionRecommender, History, Losses, TrainingStep


def _known_schedule(schedule: Any) -> bool:
    if isinstance(schedule, str):
        return schedule in SCHEDULES
    return isinstance(schedule, list) and all(isinstance(beta, int | float) for beta in schedule)


# T of the literature is 32 to 4000; each step has its own numbers in tables.
MOST_STEPS = 100_000
# The settings of every process that has T steps, with betas.
STEPS: dict[str, Setting] = {
    "diffusion_steps": positive("int", most=MOST_STEPS),
    "noise_schedule": Setting(
        "str or list", f"be one of {', '.join(SCHEDULES)}, or a list of numbers, one a step", _known_schedule
    ),
    "step_sampler": one_of(STEP_SAMPLERS),
}


def check_steps(config: Any) -> None:
    """Check the settings of `STEPS` against each other and against `inference_steps`.

    Raises
    ------
    SettingError
    """
    steps, reverse = config["diffusion_steps"], config["inference_steps"]
    if reverse > steps:
        raise SettingError("inference_steps", reverse, must=f"be from 1 to diffusion_steps={steps}")
    try:
        betas_of(config["noise_schedule"], steps)
    except ValueError as error:
        raise SettingError("noise_schedule", config["noise_schedule"], str(error)) from None


def step_factor(config: Any) -> float:
    """What a timestep is multiplied by before it is encoded: 1000 / T with `rescale_timesteps`, else 1."""
    return 1000.0 / config["diffusion_steps"] if config["rescale_timesteps"] else 1.0


def check_fixed(config: Any, fixed: Mapping[str, Any], where: str) -> None:
    """Refuse every other value of the settings that a process fixes, key -> value; `where` ends "KEY must be VALUE".

    Raises
    ------
    SettingError
    """
    for key, value in fixed.items():
        if config[key] != value:
            raise SettingError(key, config[key], must=f"be {value} {where}")


class GaussianRecommender(DiffusionRecommender):
    """A model that noises the embedding of the next item, [B, d], or of the next item at every place, [B, L, d].

    The second form is that of a model with `trains_on = "sequences"`: each place has a timestep of its own in training,
    and the newest place is read.

    Parameters
    ----------
    config : recbole Config
    dataset : recbole Dataset
    """

    settings: ClassVar[Mapping[str, Setting]] = {
        **STEPS,
        "prediction_type": one_of(PREDICTION_TYPES),
        "normalize_x_0": switch(),
        "consistency_weight": at_least(0, "float"),
        "noise_scale": at_least(0, "float", at_inference=True),
        "reverse_sampler": one_of(tuple(SAMPLERS), at_inference=True),
        "reverse_variance": one_of(REVERSE_VARIANCES, at_inference=True),
        "ddim_eta": share(at_inference=True),
    }
    # Whether `denoise` multiplies by `noise_scale` itself; else x_t comes multiplied.
    scales_x_t: ClassVar[bool] = False
    process: Any

    @classmethod
    def check_settings(cls, config: Any) -> None:
        super().check_settings(config)
        cls.check_process(config)

    @classmethod
    def check_process(cls, config: Any) -> None:
        """Check the settings of the process against each other.

        Raises
        ------
        SettingError
        """
        check_steps(config)

    @classmethod
    def unread(cls, settings: Mapping[str, Any]) -> set[str]:
        """The settings of the class that have no effect as the others are."""
        read_by = {"reverse_variance": "ddpm", "ddim_eta": "ddim"}
        return {key for key, sampler in read_by.items() if settings["reverse_sampler"] != sampler}

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.prediction_type: str = config["prediction_type"]
        self.normalize_x_0: bool = config["normalize_x_0"]
        self.noise_scale: float = config["noise_scale"]
        self.consistency_weight: float = config["consistency_weight"] if self.use_diffusion else 0.0
        if self.consistency_weight and not isinstance(self.process, GaussianProcess):
            must = f"be 0, as the process of {type(self).__name__} is not the Gaussian one"
            raise SettingError("consistency_weight", self.consistency_weight, must=must)
        self.reverse_sampler = SAMPLERS[config["reverse_sampler"]]
        self.reverse_settings = {"reverse_variance": config["reverse_variance"], "eta": config["ddim_eta"]}

    def make_process(self, config: Any) -> Process:
        return GaussianProcess(betas_of(config["noise_schedule"], config["diffusion_steps"]))

    def make_step_sampler(self, config: Any) -> StepSampler:
        return make_step_sampler(config["step_sampler"], config["diffusion_steps"])

    def embed(self, items: Tensor) -> Tensor:
        """Embeddings [..., d] of items [...], brought to mean 0 and variance 1 with `normalize_x_0`."""
        embedded = self.item_embedding(items)
        return F.layer_norm(embedded, embedded.shape[-1:]) if self.normalize_x_0 else embedded

    def x_start(self, items: Tensor, noise: Noise) -> Tensor:
        return self.embed(items)

    def seen(self, x_t: Tensor) -> Tensor:
        return x_t if self.scales_x_t or self.noise_scale == 1 else self.noise_scale * x_t

    def to_x_0(self, output: Any, x_t: Tensor, timestep: Tensor) -> Any:
        if self.prediction_type == "x0" or not self.use_diffusion:
            return output
        return self.process.to_x_0(output, x_t, timestep, self.prediction_type)

    def check_output(self, output: Any, x_0: Tensor) -> None:
        if isinstance(output, Tensor) and output.shape != x_0.shape:
            shapes = f"{list(x_0.shape)}, the shape of x_t, got {list(output.shape)}"
            raise ModelError(f"{type(self).__name__}: denoise must return {shapes}")

    def state_shape(self, history: History) -> Shape:
        rows, length = history.items.shape
        return (rows, length, self.hidden_size) if self.trains_on == "sequences" else (rows, self.hidden_size)

    def losses(self, step: TrainingStep) -> Losses:
        """The cross-entropy over all items, or BPR, of the prediction."""
        return Losses(self.ranking_loss(step.x0_hat, step.target, step.interaction))

    def all_losses(self, step: TrainingStep) -> Losses:
        losses = self.losses(step)
        if not self.consistency_weight:
            return losses
        return losses._replace(rows=losses.rows + self.consistency_weight * self.inconsistency(step))

    def inconsistency(self, step: TrainingStep) -> Tensor:
        """How far x0_hat is from that of the step before, [B] or [B, L]; 0 where there is none before.

        The mean over d of (f(x_t) - f(x_{t-1}))², where x_{t-1} is made with the noise of x_t, and no gradient reaches
        f(x_{t-1}). A network that has learnt it needs fewer reverse steps.
        """
        before = (step.timestep - 1).clamp(min=0)
        with torch.no_grad():
            x_before = self.process.sample(step.x_0, before, step.noise_used)
            output = self.denoise(self.seen(x_before), before, step.condition, step.noise)
            x0_hat = self.to_x_0(output, x_before, before)
        return (step.x0_hat - x0_hat).square().mean(dim=-1) * (step.timestep > 0)

    def sampler(self, denoise: Denoise, x: Tensor, noise: Noise, end: Tensor | None) -> Iterator[ReverseStep]:
        if not isinstance(self.process, GaussianProcess):
            return super().sampler(denoise, x, noise, end)
        return self.reverse_sampler(denoise, x, self.process, self.timesteps, noise, **self.reverse_settings)
