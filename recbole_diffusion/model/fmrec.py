"""FMRec (Liu et al.: "Flow Matching based Sequential Recommender Model", IJCAI 2025)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..common.setting import Setting, at_least, one_of, positive
from ..diffusion.flow import FlowProcess
from ..diffusion.noise import Noise
from ..diffusion.process import Process
from ..diffusion.samplers import Denoise, ReverseStep, ancestral
from ..diffusion.timesteps import FLOW_STEPS, FlowSteps, StepSampler
from ..errors import SettingError
from .base import Losses, TrainingStep
from .diffurec import Condition, DiffuRec
from .gaussian import check_fixed
from .sharing import Batch

# Where fewer than one cell in so many is needed, computing these alone is cheaper than the whole table.
CHEAP_CELLS = 300


class Prediction(NamedTuple):
    """x0_hat [B, d], and what the history decoder reads [B, d]."""

    x0_hat: Tensor
    encoded: Tensor


class HistoryCells(NamedTuple):
    """Cells of the table [B, V] of who has which item, by their number row · V + item; where `valid`, all different.

    ones, zeros : int64 [N], [M]; items of the histories, and sampled items that are not in them
    ones_valid, zeros_valid : bool [N], [M]
    """

    ones: Tensor
    ones_valid: Tensor
    zeros: Tensor
    zeros_valid: Tensor


def first_of_each(numbers: Tensor) -> Tensor:
    """True at the first of each run of equal numbers, along the last dimension."""
    changes = numbers[..., 1:] != numbers[..., :-1]
    return torch.cat([torch.ones_like(numbers[..., :1], dtype=torch.bool), changes], dim=-1)


def history_cells(items: Tensor, n_items: int, ratio: float, uniform: Tensor) -> HistoryCells:
    """The items of histories, and about `ratio` times as many cells of the rest, drawn with replacement.

    Every shape is known before the numbers are, so a GPU waits for nothing.

    Parameters
    ----------
    items : int64 Tensor [B, L]
        Histories, padded with 0, which is no item of them.
    n_items : int
        V.
    ratio : float
    uniform : Tensor [M]
        Uniform numbers; the first q of them choose, where q = min(number of zeros, ratio · number of ones).
    """
    cells = len(items) * n_items
    ordered = items.sort(dim=1).values
    ones_valid = (first_of_each(ordered) & (ordered > 0)).flatten()
    rows = torch.arange(len(items), device=items.device)[:, None]
    ones = (rows * n_items + ordered).flatten()

    # The r-th zero stands at r plus the number of ones before it. Valid ones are in order; the others go to the end.
    ranked, order = torch.where(ones_valid, ones, cells).sort()
    before = torch.where(ones_valid[order], ranked - torch.arange(len(ranked), device=items.device), cells)
    n_ones = ones_valid.sum()
    n_zeros = cells - n_ones
    rank = (uniform.double() * n_zeros).long().minimum(n_zeros - 1)
    zeros = rank + torch.searchsorted(before, rank, right=True)
    number = (ratio * n_ones.double()).long().minimum(n_zeros)
    drawn = torch.arange(len(uniform), device=items.device) < number
    # What was not drawn goes to the end.
    zeros = torch.where(drawn, zeros, cells).sort().values
    zeros_valid = first_of_each(zeros) & (zeros < cells)
    return HistoryCells(ones, ones_valid, zeros.clamp(max=cells - 1), zeros_valid)


class FMRec(DiffuRec):
    """FMRec: a straight flow from noise to the next item, on DiffuRec's network, with a decoder of the history.

    The path is x_t = t x_0 + (1 - t) z with z ~ N(0, I); t is continuous, 1 is data. The network reads it as DiffuRec's
    does: λ (x_t + step) is added to every item of the history, with λ ~ N(δ, δ) for every place, dimension and step,
    where δ is the setting `noise_scale`. A second branch, in training alone, rebuilds which items the history holds,
    from the newest place `decoder_depth` blocks before the end.

    The loss is the squared error of x0_hat, the cross-entropy over all items, and the squared error of the rebuilt
    history on its items and as many others. Inference takes N = `inference_steps` steps x + (x0_hat - z) / N, whose
    outcome is the mean of the N predictions.

    With `diffusion: False` neither x_t, the time nor λ enters. What is left is a transformer of the history with
    the same three losses, run once.

    With `attention_mask: reference` padding takes part as in the authors' published code. See `DiffuRec` for that, and
    `DiffusionRecommender` for the parameters.
    """

    settings: ClassVar[Mapping[str, Setting]] = {
        "step_sampler": one_of(FLOW_STEPS),
        "time_eps": Setting("float", "be above 0 and below 1", lambda value: 0 < value < 1),
        "mode_scale": Setting(
            "float", "be from -1 to 2 / (π - 2) = 1.75", lambda value: -1 <= value <= 2 / (math.pi - 2)
        ),
        "logit_mean": Setting("float"),
        "logit_std": positive("float"),
        "mse_weight": at_least(0, "float"),
        "ce_weight": at_least(0, "float"),
        "decoder_weight": at_least(0, "float"),
        "decoder_depth": at_least(0, "int"),
        "decoder_sizes": Setting(
            "list of int", "be positive numbers", lambda sizes: all(isinstance(n, int) and n > 0 for n in sizes)
        ),
        "zeros_ratio": at_least(0, "float"),
    }
    records_steps = True

    @classmethod
    def check_settings(cls, config: Any) -> None:
        super().check_settings(config)
        depth, blocks = config["decoder_depth"], config["n_layers"]
        if depth >= blocks:
            raise SettingError("decoder_depth", depth, must=f"be below n_layers={blocks}")

    @classmethod
    def check_process(cls, config: Any) -> None:
        check_fixed(config, {"prediction_type": "x0", "consistency_weight": 0}, "in a flow")

    @classmethod
    def unread(cls, settings: Mapping[str, Any]) -> set[str]:
        of_steps = {"diffusion_steps", "noise_schedule", "rescale_timesteps"}
        return {*of_steps, "reverse_sampler", "reverse_variance", "ddim_eta"}

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.weights = {name: float(config[f"{name}_weight"]) for name in ("mse", "ce", "decoder")}
        self.zeros_ratio: float = config["zeros_ratio"]
        self.tapped_block: int = config["n_layers"] - config["decoder_depth"]
        if self.weights["decoder"]:
            sizes = [self.hidden_size, *config["decoder_sizes"]]
            layers = [part for pair in itertools.pairwise(sizes) for part in (nn.Linear(*pair), nn.Tanh())]
            self.history_decoder: Any = nn.Sequential(*layers, nn.Linear(sizes[-1], self.n_items))

    def make_process(self, config: Any) -> Process:
        return FlowProcess(config["time_eps"])

    def make_step_sampler(self, config: Any) -> StepSampler:
        names = ("mode_scale", "logit_mean", "logit_std")
        return FlowSteps(config["step_sampler"], config["time_eps"], **{name: config[name] for name in names})

    def step_scale(self, config: Any) -> float:
        """The step's encoding runs from about 1 to 1 / eps."""
        return 1 / config["time_eps"] - 1

    def sampler(self, denoise: Denoise, x: Tensor, noise: Noise, end: Tensor | None) -> Iterator[ReverseStep]:
        return ancestral(denoise, x, self.process, self.timesteps, noise, end=x)

    def denoise(self, x_t: Tensor, timestep: Tensor, condition: Condition, noise: Noise) -> Prediction:
        z = self.mixed(x_t, timestep, condition, noise)
        masks = condition.key_mask, condition.query_mask
        x, encoded = self.encoder(z, condition.last, *masks, tap=self.tapped_block)
        return Prediction(self.output_norm(self.output_dropout(x)), encoded)

    def to_x_0(self, output: Prediction, x_t: Tensor, timestep: Tensor) -> Tensor:
        return output.x0_hat

    def losses(self, step: TrainingStep) -> Losses:
        """The weighted sum of the three losses; the target embedding takes part in the gradient."""
        mse = (step.x0_hat - step.x_0).square().mean(dim=-1)
        ce = self.ranking_loss(step.x0_hat, step.target, step.interaction)
        rows = self.weights["mse"] * mse + self.weights["ce"] * ce
        if not self.weights["decoder"]:
            return Losses(rows)
        return Losses(rows, self.weights["decoder"] * self.decoder_loss(step.output.encoded, step.batch))

    def decoder_loss(self, encoded: Tensor, batch: Batch) -> Tensor:
        """Squared error of the rebuilt history, a scalar, over `history_cells`; divided by B · V, as in their code."""
        items = batch.history.items
        number = math.ceil(max(1.0, self.zeros_ratio)) * items.numel()
        uniform = batch.noise.uniform("history_zeros", (number,))
        cells = history_cells(items, self.n_items, self.zeros_ratio, uniform)
        hidden = self.history_decoder[:-1](encoded)
        numbers = torch.cat([cells.ones, cells.zeros])
        held = torch.arange(len(numbers), device=numbers.device) < len(cells.ones)
        counts = torch.cat([cells.ones_valid, cells.zeros_valid])
        if len(hidden) < len(batch):
            # Of the whole batch's cells those of the rows at hand.
            first, end = (row * self.n_items for row in (batch.rows.start, batch.rows.stop))
            here = (numbers >= first) & (numbers < end)
            numbers, held, counts = numbers[here] - first, held[here], counts[here]
        rebuilt = self.rebuilt(hidden, numbers)
        return ((rebuilt - held.to(rebuilt.dtype)).square() * counts).sum() / (len(hidden) * self.n_items)

    def rebuilt(self, hidden: Tensor, cells: Tensor) -> Tensor:
        """The rebuilt table [B, V] at its cells [N], by the decoder's last inner layer [B, h]."""
        last = self.history_decoder[-1]
        if len(cells) * CHEAP_CELLS > len(hidden) * self.n_items:
            return last(hidden).flatten()[cells]
        rows, items = cells // self.n_items, cells % self.n_items
        return (hidden[rows] * last.weight[items]).sum(dim=-1) + last.bias[items]
