"""RFMRec: Riemannian flow matching for sequential recommendation (code of Bai, 2025; no paper was found)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..common.setting import Setting, at_least, one_of, probability
from ..diffusion.noise import Noise, Shape
from ..diffusion.process import Process
from ..diffusion.sphere import SphereFlow
from ..diffusion.timesteps import FlowSteps, StepSampler
from ..errors import SettingError
from .base import ENCODER, DiffusionRecommender, History, Losses, TrainingStep, make_encoder, mean_by_row
from .layers import Dropout, StepMLP

RANK_BY = ("flow", "encoder")


class RFMRec(DiffusionRecommender):
    """RFMRec: a flow on the unit sphere leads from what the encoder says to the next item.

    A causal encoder with rotary positions reads the history and gives h at each place. For each place x_t lies on the
    shortest path from the next item's embedding (t = 0) to h (t = 1), at a time of its own; both ends have length 1.
    The network reads x_t, at full scale, and the time, and nothing else; it predicts the velocity dx_t/dt.

    The loss is the cross-entropy over all items of the cosine of h, divided by `similarity_temperature`, averaged over
    places; and the squared error of the velocity, averaged over places within a row and then over rows. The true
    velocity is detached; x_t is not, so the second loss trains encoder and embeddings too. Inference starts from h and
    takes `inference_steps` Euler steps to the next item. Nothing is random but the training times.

    A predicted velocity is at first as long as a quarter turn, the angle between unrelated vectors; in the author's
    code it is √d long.

    With `rank_by: encoder` both losses are trained, but items are ranked by h itself. With `diffusion: False` they are
    too, and the cross-entropy alone is trained.

    See `DiffusionRecommender` for the parameters.
    """

    settings: ClassVar[Mapping[str, Setting]] = {
        **ENCODER,
        "embedding_dropout_prob": probability(),
        "velocity_weight": at_least(0, "float"),
        "rank_by": one_of(RANK_BY, at_inference=True),
    }
    trains_on = "sequences"
    records_steps = True
    splits_items: ClassVar[Mapping[str, Any] | None] = {}
    process: Any

    @classmethod
    def check_settings(cls, config: Any) -> None:
        super().check_settings(config)
        width, heads = config["hidden_size"], config["n_heads"]
        if width % (2 * heads):
            raise SettingError("hidden_size", width, must=f"be a multiple of 2 n_heads={2 * heads}")

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        d = self.hidden_size
        self.velocity_weight: float = config["velocity_weight"]
        self.ranks_by_encoder: bool = config["rank_by"] == "encoder"
        self.embedding_dropout = Dropout(config["embedding_dropout_prob"])
        self.embedding_norm = nn.LayerNorm(d, eps=config["layer_norm_eps"])
        self.encoder = make_encoder(config, post_norm=True, rotary=True)
        self.step_mlp = StepMLP(d, 1000.0)
        norm = nn.LayerNorm(d)
        # Else a velocity would start √d long, and steps would lead nowhere until training has shrunk it.
        nn.init.constant_(norm.weight, math.pi / 2 / math.sqrt(d))
        self.flow = nn.Sequential(nn.Linear(2 * d, 4 * d), nn.SiLU(), nn.Linear(4 * d, d), norm)

    # The process.

    def make_process(self, config: Any) -> Process:
        return SphereFlow()

    def make_step_sampler(self, config: Any) -> StepSampler:
        return FlowSteps("uniform")

    def x_start(self, items: Tensor, noise: Noise) -> Tensor:
        return self.item_embedding(items)

    def end_point(self, condition: Tensor, history: History) -> Tensor:
        return condition

    def state_shape(self, history: History) -> Shape:
        """At inference the newest place alone is restored."""
        return (len(history.length), self.hidden_size)

    def sample_x_0(self, history: History, noise: Noise) -> Tensor:
        """Where the flow leads to, or with `rank_by: encoder` where it starts."""
        return self.encode(history, noise) if self.ranks_by_encoder else super().sample_x_0(history, noise)

    # The network.

    def encode(self, history: History, noise: Noise) -> Tensor:
        """h [B, L, d]."""
        embedded = math.sqrt(self.hidden_size) * self.item_embedding(history.items)
        places = torch.arange(history.items.shape[1], device=embedded.device)
        # Padding stands behind a history, so that a causal encoder does not see it.
        back = (places[:, None] >= places)[None]
        return self.encoder(self.embedding_norm(self.embedding_dropout(embedded)), None, back)

    def denoise(self, x_t: Tensor, timestep: Tensor, condition: Tensor, noise: Noise) -> Tensor:
        """The velocity [..., d] at x_t [..., d] and times [...]; with `diffusion: False` h, which x_t then is."""
        if not self.use_diffusion:
            return x_t
        step = self.step_mlp(timestep.flatten()).view_as(x_t)
        return self.flow(torch.cat([x_t, step], dim=-1))

    def to_x_0(self, output: Tensor, x_t: Tensor, timestep: Tensor) -> Tensor:
        """Where the velocity leads back to in a straight line; a step of the process keeps to the sphere."""
        return x_t - timestep[..., None] * output if self.use_diffusion else output

    # The loss.

    def losses(self, step: TrainingStep) -> Losses:
        """Cross-entropy by h, and the squared error of the velocity."""
        ce = self.ranking_loss(step.condition, step.target, step.interaction)
        if not self.use_diffusion:
            return Losses(ce)
        velocity = self.process.velocity(step.x_0, step.timestep, step.condition).detach()
        mse = (step.output - velocity).square().mean(dim=-1)
        return Losses(ce + self.velocity_weight * mean_by_row(mse, step))
