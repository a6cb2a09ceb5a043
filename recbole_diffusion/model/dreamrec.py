"""DreamRec (Yang et al.: "Generate What You Prefer", NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.setting import Setting, at_least, one_of, probability, switch
from ..diffusion.folding import FoldedChain, fold
from ..diffusion.noise import Noise
from ..diffusion.samplers import chain_coefficients
from ..errors import SettingError
from .base import History, Losses, TrainingStep, make_history_encoder
from .gaussian import GaussianRecommender
from .layers import Dropout, GELUStepMLP, HistoryEncoder
from .losses import DISTANCES, distances

DENOISERS = ("mlp1", "mlp2")
# The settings whose chain can be folded.
FOLDED = {"denoiser": ("mlp1",), "prediction_type": ("x0",), "reverse_sampler": ("ddpm", "ddim")}


class DreamRec(GaussianRecommender):
    """DreamRec: the next item's embedding is restored from noise under the guidance of the history.

    A transformer block makes a vector h [B, d] of the history. The denoiser reads [x_t; h; step] at full scale; it is
    one linear layer (`denoiser: mlp1`, that of the published results) or has a hidden layer (`mlp2`). In training a
    row's h is replaced by a trained vector with probability `guidance_drop`; inference guides with `guidance_scale`.
    The loss is the distance of x0_hat from the target's embedding, whose gradient reaches the embeddings too;
    `ce_weight` adds the cross-entropy over all items.

    With `mlp1` the whole guided chain is affine in h and in its random numbers, and `fold_chain` computes it as such.

    With `diffusion: False` x_t and step are left out: the denoiser reads h alone, and x0_hat is its only answer.
    Dropping and guidance stay.

    See `DiffusionRecommender` for the parameters.
    """

    settings: ClassVar[Mapping[str, Setting]] = {
        "denoiser": one_of(DENOISERS),
        "hidden_dropout_prob": probability(),
        "attn_dropout_prob": probability(),
        "distance": one_of(DISTANCES),
        "ce_weight": at_least(0, "float"),
        "fold_chain": switch(at_inference=True),
    }
    records_steps = True
    splits_items: ClassVar[Mapping[str, Any] | None] = {}

    @classmethod
    def check_settings(cls, config: Any) -> None:
        super().check_settings(config)
        if config["fold_chain"]:
            for key, affine in FOLDED.items():
                if config[key] not in affine:
                    must = f"be False with {key}={config[key]}, whose chain is not folded"
                    raise SettingError("fold_chain", True, must=must)

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        d = self.hidden_size
        self.distance: str = config["distance"]
        self.ce_weight: float = config["ce_weight"]
        self.fold_chain: bool = config["fold_chain"] and self.use_diffusion
        self.sampler_name: str = config["reverse_sampler"]
        self.position_embedding = nn.Embedding(self.max_seq_length, d)
        self.no_history = nn.Parameter(torch.empty(d))
        for table in (self.position_embedding.weight, self.no_history):
            nn.init.normal_(table, std=config["initializer_range"])
        self.embedding_dropout = Dropout(config["hidden_dropout_prob"])
        self.encoder = self.make_history_encoder(config)
        self.step_mlp = GELUStepMLP(d)
        deep = config["denoiser"] == "mlp2"
        # Over [x_t; h; step].
        self.mix = nn.Linear(3 * d, 2 * d if deep else d)
        self.output = nn.Sequential(nn.GELU(), nn.Linear(2 * d, d)) if deep else nn.Identity()

    def make_history_encoder(self, config: Any) -> HistoryEncoder:
        """One block with one head, without residuals."""
        return make_history_encoder(config, n_layers=1, n_heads=1)

    def encode(self, history: History, noise: Noise) -> Tensor:
        """The part of the denoiser's first layer that reads the history, [B, d], or [B, 2d] for `mlp2`."""
        items = history.items
        embedded = self.item_embedding(items) + self.position_embedding.weight[: items.shape[1]]
        return self._read(self.encoder(self.embedding_dropout(embedded), items > 0, history.length - 1))

    def unconditional(self, condition: Tensor) -> Tensor:
        """A trained vector in place of h, as `encode` gives it."""
        return self._read(self.no_history)

    def _parts(self) -> tuple[Tensor, ...]:
        """The weights of the denoiser's first layer: those that read x_t, h and the step."""
        return self.mix.weight.chunk(3, dim=1)

    def _read(self, h: Tensor) -> Tensor:
        return F.linear(h, self._parts()[1], self.mix.bias)

    def denoise(self, x_t: Tensor, timestep: Tensor, condition: Tensor, noise: Noise) -> Tensor:
        """x0_hat [B, d]."""
        if not self.use_diffusion:
            return self.output(condition)
        of_x_t, _, of_step = self._parts()
        return self.output(condition + F.linear(x_t, of_x_t) + F.linear(self.step_mlp(timestep), of_step))

    def losses(self, step: TrainingStep) -> Losses:
        """The distance of each x0_hat from x_0, and the weighted cross-entropy."""
        return Losses(self.with_ranking(distances(step.x_0, step.x0_hat, self.distance), step))

    def with_ranking(self, loss: Tensor, step: TrainingStep) -> Tensor:
        """A loss with the ranking loss added, by `ce_weight`."""
        if not self.ce_weight:
            return loss
        return loss + self.ce_weight * self.ranking_loss(step.x0_hat, step.target, step.interaction)

    # The folded chain.

    def given_step(self, timestep: int) -> int:
        """The step that the network is given where x_t is at `timestep` of the reverse chain: the same."""
        return timestep

    def folded(self, timesteps: list[int]) -> FoldedChain:
        """The reverse chain over `timesteps` as matrices; its g is the guided condition."""
        of_x_t, _, of_step = self._parts()
        given = torch.tensor([self.given_step(timestep) for timestep in timesteps], device=of_x_t.device)
        coefficients = chain_coefficients(self.process, timesteps, self.sampler_name, **self.reverse_settings)
        offsets = F.linear(self.step_mlp(given), of_step)
        return fold(self.noise_scale * of_x_t, offsets, coefficients)

    def sample_x_0(self, history: History, noise: Noise) -> Tensor:
        if not self.fold_chain:
            return super().sample_x_0(history, noise)
        condition = self.encode(history, noise)
        condition = (1 + self.guidance_scale) * condition - self.guidance_scale * self.unconditional(condition)
        timesteps, shape = [int(timestep) for timestep in self.timesteps], self.state_shape(history)
        chain = self.folded(timesteps)
        start = self.process.start(shape, noise.at(timesteps[0])).to(condition)
        x_0 = chain(start, condition)
        for timestep, matrix in zip(timesteps, chain.noise, strict=True):
            if matrix is not None:
                x_0 = torch.addmm(x_0, noise.at(timestep).normal("reverse", shape).to(x_0), matrix.T)
        return x_0
