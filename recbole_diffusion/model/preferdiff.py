"""PreferDiff (Liu et al.: "Preference Diffusion for Recommendation", ICLR 2025)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.setting import Setting, at_least, one_of, positive, share
from ..diffusion.noise import Noise
from ..diffusion.samplers import Denoise, ReverseStep
from ..errors import SettingError
from .base import Losses, TrainingStep, make_history_encoder
from .dreamrec import DreamRec
from .layers import HistoryAttention, HistoryEncoder
from .losses import distances

OBJECTIVES = ("neg", "neg_sample", "negh", "sdpo")
PREFERENCES = ("batch", "row")
# Of the condition of another row, in the objective `negh`.
OTHER_SCALE = 0.01
# The authors add it inside of every log-sigmoid.
TINY = 1e-8


class Negatives(NamedTuple):
    """Embeddings x_0 and predictions x0_hat of what is not the target, [B, d], or [B, N, d] of N apart."""

    x_0: Tensor
    x0_hat: Tensor


def preference_loss(margin: Tensor) -> Tensor:
    """-log sigmoid of how much nearer the preferred one is."""
    return -F.logsigmoid(margin + TINY)


def strided_steps(diffusion_steps: int, stride: int) -> list[int]:
    """The steps of the authors' DDIM, descending: stride - 1, 2 stride - 1 and so on, and 0 as the last."""
    return [max(mark - 1, 0) for mark in range(0, diffusion_steps + 1, stride)][::-1]


class PreferDiff(DreamRec):
    """PreferDiff: DreamRec with a loss that prefers the target to the other targets of the batch.

    The centroid of the other rows' targets is noised with numbers of its own and restored under the same history and
    step. With D_p the distance of the target from its prediction and D_n that of the centroid, the loss is
    λ D_p + (1 - λ) [-log sigmoid(γ (D_n - D_p))]; λ is `reconstruction_weight` and γ `preference_scale`. With
    `preference: batch` both D are means over the batch, as in the authors' code; with `row` each row has its own.

    With `diffusion: False` the denoiser reads the history alone, so that both predictions are the same one: what is
    left is a distance from the target, and that of the centroid to be held above it.

    See `DiffusionRecommender` for the parameters.
    """

    settings: ClassVar[Mapping[str, Setting]] = {
        "n_layers": positive("int"),
        "n_heads": positive("int"),
        "objective": one_of(OBJECTIVES),
        "preference": one_of(PREFERENCES),
        "reconstruction_weight": share(),
        "preference_scale": at_least(0, "float"),
        "negatives": Setting("int or ~", "be positive, or ~ for all other rows", lambda number: number > 0),
        "ddim_stride": Setting("int or ~", "be at least 2, or ~", lambda stride: stride > 1, at_inference=True),
    }
    records_steps = True
    splits_items: ClassVar[Mapping[str, Any] | None] = {}

    @classmethod
    def check_settings(cls, config: Any) -> None:
        super().check_settings(config)
        stride = config["ddim_stride"]
        if stride is None:
            return
        if stride > config["diffusion_steps"]:
            raise SettingError("ddim_stride", stride, must=f"be at most diffusion_steps={config['diffusion_steps']}")
        for key, value in (("reverse_sampler", "ddim"), ("prediction_type", "x0")):
            if config[key] != value:
                raise SettingError("ddim_stride", stride, must=f"be ~ with {key}={config[key]}")

    @classmethod
    def unread(cls, settings: Mapping[str, Any]) -> set[str]:
        return super().unread(settings) | ({"inference_steps"} if settings["ddim_stride"] is not None else set())

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.objective: str = config["objective"]
        self.preference: str = config["preference"]
        self.reconstruction_weight: float = config["reconstruction_weight"]
        self.preference_scale: float = config["preference_scale"]
        self.negatives: int | None = config["negatives"]
        self.authors_chain: list[int] | None = None
        if config["ddim_stride"] is not None and self.use_diffusion:
            self.authors_chain = strided_steps(config["diffusion_steps"], config["ddim_stride"])
            self.timesteps = self.authors_chain

    def make_history_encoder(self, config: Any) -> HistoryEncoder:
        """Blocks with residuals, whose attention starts Xavier-uniform with biases of 0."""
        encoder = make_history_encoder(config, config["n_layers"], config["n_heads"], residual=True)
        for module in encoder.modules():
            if isinstance(module, HistoryAttention):
                module.start_xavier()
        return encoder

    # The loss.

    def losses(self, step: TrainingStep) -> Losses:
        distance = distances(step.x_0, step.x0_hat, self.distance)
        if self.objective == "sdpo":
            loss = self.softmax_preference(step.batch.mean(distance), step)
        else:
            loss = self.objective_of(distance, distances(*self.centroid(step), self.distance), step)
        return Losses(self.with_ranking(loss, step), learns_from=distance)

    def objective_of(self, positive: Tensor, negative: Tensor, step: TrainingStep) -> Tensor:
        """The loss by the distances [B] of the target and of the centroid from their predictions."""
        compared = self._compared(positive, step)
        preference = preference_loss(self.preference_scale * (self._compared(negative, step) - compared))
        if self.objective == "neg_sample":
            return preference
        if self.objective == "neg":
            return self.reconstruction_weight * positive + (1 - self.reconstruction_weight) * preference
        # The target's distance from what the history of another row makes of it.
        chances = torch.ones(len(step.batch), device=positive.device)
        row = step.noise.choice("other_history", chances, (len(positive),))
        x0_hat = self._predicted(step.x_t, step.timestep, step.batch.every(step.condition)[row], step.noise)
        other = self._compared(distances(step.x_0, x0_hat, self.distance), step)
        return positive + preference_loss(OTHER_SCALE * (other - compared)) + preference

    def _compared(self, distance: Tensor, step: TrainingStep) -> Tensor:
        return step.batch.mean(distance) if self.preference == "batch" else distance

    def _predicted(self, x_t: Tensor, timestep: Tensor, condition: Tensor, noise: Noise) -> Tensor:
        return self.to_x_0(self.denoise(self.seen(x_t), timestep, condition, noise), x_t, timestep)

    def _restored(self, x_0: Tensor, step: TrainingStep) -> Negatives:
        """x_0 [B, ..., d] noised by 'x_t_negative' to the step of its row, and restored under the row's history."""
        noise = step.noise.normal("x_t_negative", tuple(x_0.shape)) if self.use_diffusion else x_0
        x_t = self.process.sample(x_0, step.timestep, noise)
        if x_0.dim() == 2:
            return Negatives(x_0, self._predicted(x_t, step.timestep, step.condition, step.noise))
        apart = x_0.shape[1]
        timestep, condition = (part.repeat_interleave(apart, dim=0) for part in (step.timestep, step.condition))
        x0_hat = self._predicted(x_t.flatten(0, 1), timestep, condition, step.noise)
        return Negatives(x_0, x0_hat.view_as(x_0))

    def centroid(self, step: TrainingStep) -> Negatives:
        """The mean of the other rows' targets, or of `negatives` of them; 0 where there is no other row."""
        if self.negatives is None:
            others = step.batch.total(step.x_0) - step.x_0
            return self._restored(others / max(len(step.batch) - 1, 1), step)
        others = step.batch.every(step.x_0)[self._other_rows(step)]
        return self._restored(others.sum(dim=1) / max(others.shape[1], 1), step)

    def _other_rows(self, step: TrainingStep) -> Tensor:
        """For each row the numbers [b, N] of other rows: all, or `negatives` of them, by 'negatives' [b, B - 1]."""
        rows, others, device = len(step.x_0), len(step.batch) - 1, step.x_0.device
        columns = torch.arange(others, device=device).expand(rows, -1)
        if self.negatives is not None:
            chances = step.noise.uniform("negatives", (rows, others))
            columns = chances.topk(min(self.negatives, others), dim=1).indices
        number = torch.arange(step.batch.rows.start, step.batch.rows.stop, device=device)
        return columns + (columns >= number[:, None])

    def softmax_preference(self, positive: Tensor, step: TrainingStep) -> Tensor:
        """The objective `sdpo`: the target against each of the negatives apart.

        As in the authors' code a sum over d is set against a mean, and the result is not a number where it is smaller.
        """
        x_0, x0_hat = self._restored(step.batch.every(step.x_0)[self._other_rows(step)], step)
        further = (x_0 - x0_hat).square().sum(dim=-1) - positive
        odds = step.batch.mean((self.preference_scale * further.log()).exp().sum(dim=-1))
        return positive + preference_loss(-(odds + TINY).log())

    # The authors' chain.

    def given_step(self, timestep: int) -> int:
        """The step after it in the authors' chain, but for the last one; in any other chain the same."""
        return timestep + 1 if timestep and self.timesteps == self.authors_chain else timestep

    def sampler(self, denoise: Denoise, x: Tensor, noise: Noise, end: Tensor | None) -> Iterator[ReverseStep]:
        def given(x_t: Tensor, timestep: float, noise: Noise) -> Tensor:
            return denoise(x_t, self.given_step(int(timestep)), noise)

        return super().sampler(given, x, noise, end)
