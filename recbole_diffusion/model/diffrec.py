"""DiffRec (Du, Yuan, Huang, Zhao, Zhou: "Sequential Recommendation with Diffusion Models", arXiv 2304.04541)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.setting import Setting, at_least, one_of
from ..diffusion.noise import Noise
from .base import ENCODER, History, Losses, TrainingStep, make_encoder
from .discrete import mean_log_probability
from .gaussian import GaussianRecommender
from .layers import Dropout, step_angles

NOISE_POSITIONS = ("last", "all")
ROUNDINGS = ("tied", "linear")
ROUNDING_READS = ("prediction", "truth")


class Condition(NamedTuple):
    """What the denoiser reads of the history, with a slot for the next item behind the newest one.

    embedded : [B, L, d], position : [B, L + 1, d], slot and mask : bool [B, L + 1] or None, last : int64 [B], the slot
    """

    embedded: Tensor
    position: Tensor
    slot: Tensor
    mask: Tensor | None
    last: Tensor


class DiffRec(GaussianRecommender):
    """DiffRec: a slot for the next item is appended to the history, noised, and restored by a transformer.

    Not the model of the same name of SIGIR 2023, which RecBole has among its general recommenders.

    The paper leaves open the network's details, the weight of its two loss terms and every setting. Chosen here:

    - pre-norm blocks as in `layers.EncoderBlock` between a LayerNorm of the input and one of the output, then a linear
      map, so that x0_hat may have the spread of the embeddings;
    - positions are counted from the newest item, so that the slot has the same one in every history;
    - the step's encoding is brought to the size that embeddings start with (`step_encoding_scale`);
    - the slot stands after the newest item (the position table has one row more than the longest history), where the
      paper drops the oldest item instead;
    - the embedding noise β_0 is a setting of its own, drawn for the history in training only;
    - by default the rounding is tied to the item embeddings and its loss reads x0_hat, where the paper has a W and b of
      its own (`rounding`, `rounding_reads`), and inference takes one seed, where the paper averages several
      (`inference_seeds`).

    `timestep` runs from 0; the paper's step n is `timestep + 1`.

    See `DiffusionRecommender` for the parameters.
    """

    settings: ClassVar[Mapping[str, Setting]] = {
        **ENCODER,
        "step_encoding_scale": at_least(0, "float"),
        "noise_positions": one_of(NOISE_POSITIONS),
        "embedding_noise": at_least(0, "float"),
        "rounding": one_of(ROUNDINGS),
        "rounding_reads": one_of(ROUNDING_READS),
        "rounding_weight": at_least(0, "float"),
    }
    records_steps = True
    splits_items: ClassVar[Mapping[str, Any] | None] = {"rounding": "tied"}

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.noise_history = config["noise_positions"] == "all" and self.use_diffusion
        self.step_encoding_scale: float = config["step_encoding_scale"]
        self.rounding_reads: str = config["rounding_reads"]
        self.rounding_weight: float = config["rounding_weight"]
        self.embedding_spread: float = config["embedding_noise"] ** 0.5 if self.use_diffusion else 0.0
        self.position_embedding = nn.Embedding(self.max_seq_length + 1, self.hidden_size)
        nn.init.normal_(self.position_embedding.weight, std=config["initializer_range"])
        self.rounding = nn.Linear(self.hidden_size, self.n_items) if config["rounding"] == "linear" else None
        self.input_norm = nn.LayerNorm(self.hidden_size, eps=config["layer_norm_eps"])
        self.input_dropout = Dropout(config["hidden_dropout_prob"])
        self.encoder = make_encoder(config)
        self.output_norm = nn.LayerNorm(self.hidden_size, eps=config["layer_norm_eps"])
        self.output = nn.Linear(self.hidden_size, self.hidden_size)

    def output_embeddings(self) -> tuple[Tensor, Tensor | None]:
        if self.rounding is None:
            return super().output_embeddings()
        return self.rounding.weight, self.rounding.bias

    def to_continuous(self, items: Tensor, name: str, noise: Noise) -> Tensor:
        """The extra forward transition q(h^0 | v) = N(E(v), β_0 I); items [B] or [B, L] gain a dimension d."""
        embedded = self.embed(items)
        return embedded + self.embedding_spread * noise.normal(name, tuple(embedded.shape))

    def x_start(self, items: Tensor, noise: Noise) -> Tensor:
        return self.to_continuous(items, "target", noise)

    def encode(self, history: History, noise: Noise) -> Condition:
        """Embeddings and positions; the history's embedding noise [B, L, d] is drawn in training, as 'history'."""
        items = history.items
        embedded = self.to_continuous(items, "history", noise) if self.training else self.embed(items)
        from_oldest = torch.arange(items.shape[1] + 1, device=embedded.device)
        # Rows that are all full count alike.
        lengths = history.length if history.mask is not None else history.length[:1]
        from_newest = lengths[:, None] - from_oldest
        slot = from_newest == 0
        mask = None if history.mask is None else slot | F.pad(history.mask, (0, 1))
        position = self.position_embedding(from_newest.clamp(min=0))
        return Condition(embedded, position, slot, mask, history.length)

    def denoise(self, x_t: Tensor, timestep: Tensor, condition: Condition, noise: Noise) -> Tensor:
        """The denoiser f_θ, which reads the noised slot behind the history; the step's encoding is added everywhere.

        With `noise_positions: all` the history is noised at every step, by 'history_x_t' [B, L, d].
        """
        embedded = condition.embedded
        if self.noise_history:
            more = noise.normal("history_x_t", tuple(embedded.shape))
            embedded = self.process.sample(embedded, timestep, more)
        sequence = torch.where(condition.slot[:, :, None], x_t[:, None], F.pad(embedded, (0, 0, 0, 1)))
        sequence = sequence + condition.position
        if self.use_diffusion:
            angles = step_angles(timestep + 1, self.hidden_size)
            step = torch.stack([angles.sin(), angles.cos()], dim=-1).view(len(timestep), 1, self.hidden_size)
            sequence = sequence + self.step_encoding_scale * step.to(x_t.dtype)
        encoded = self.encoder(self.input_dropout(self.input_norm(sequence)), condition.last, condition.mask)
        return self.output(self.output_norm(encoded))

    def losses(self, step: TrainingStep) -> Losses:
        """The simplified bound on one drawn step, and the weighted rounding term. The sampler learns from the bound."""
        # For the paper's n = 1 the bound compares with the embedding itself.
        truth = torch.where((step.timestep == 0)[:, None], self.embed(step.target), step.x_0)
        reconstruction = (truth - step.x0_hat).square().sum(dim=-1)
        if self.rounding_reads == "prediction":
            rounding = self.ranking_loss(step.x0_hat, step.target, step.interaction)
            return Losses(reconstruction + self.rounding_weight * rounding, learns_from=reconstruction)
        rounding = self.ranking_loss(step.x_0, step.target, step.interaction)
        return Losses(reconstruction, self.rounding_weight * rounding)

    def score(self, x_0: Tensor) -> Tensor:
        """Log of the items' probabilities [B, V], averaged over draws of x_0 [S, B, d] ("efficient inference").

        As logarithms, small probabilities stay apart that would all be 0 in float32.
        """
        return mean_log_probability(self.log_probabilities(self.logits(draw)) for draw in x_0)
