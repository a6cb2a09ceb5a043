"""DiffRec (Du, Yuan, Huang, Zhao, Zhou: "Sequential Recommendation with Diffusion Models", arXiv 2304.04541)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..diffusion.noise import NoiseSource
from .base import Denoiser, DiffusionRecommender, Draw, History, at_step, check_encoder, one_of, require
from .layers import Dropout, step_angles

NOISE_POSITIONS = ("last", "all")
POSITIONS_FROM = ("newest", "oldest")
ROUNDINGS = ("tied", "linear")
ROUNDING_READS = ("prediction", "truth")


class DiffRec(DiffusionRecommender):
    """DiffRec: a slot for the next item is appended to the history, noised, and restored by a transformer.

    Not the model of the same name of SIGIR 2023, which RecBole has among its general recommenders.

    The paper leaves open the network's details, the weight of its two loss terms and every setting. Chosen here:

    - pre-norm blocks as in `layers.EncoderBlock` between a LayerNorm of the input and one of the output, then a linear
      map, so that x0_hat may have the spread of the embeddings;
    - positions are counted from the newest item (`positions_from`), so that the slot has the same one in every history;
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

    records_steps = True

    @classmethod
    def check_settings(cls, config: Any) -> None:
        super().check_settings(config)
        check_encoder(config)
        one_of(config, "noise_positions", NOISE_POSITIONS)
        one_of(config, "positions_from", POSITIONS_FROM)
        one_of(config, "rounding", ROUNDINGS)
        one_of(config, "rounding_reads", ROUNDING_READS)
        require(config, "inference_seeds", config["inference_seeds"] > 0, "a positive number is wanted")
        for key in ("embedding_noise", "rounding_weight", "step_encoding_scale"):
            require(config, key, config[key] >= 0, "a number of at least 0 is wanted")

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.noises_all = config["noise_positions"] == "all"
        self.counts_from_newest = config["positions_from"] == "newest"
        self.step_encoding_scale: float = config["step_encoding_scale"]
        self.rounding_reads: str = config["rounding_reads"]
        self.rounding_weight: float = config["rounding_weight"]
        self.embedding_spread: float = config["embedding_noise"] ** 0.5 if self.diffuses else 0.0
        self.noises_history_at_inference: bool = config["embedding_noise_at_inference"]
        self.inference_seeds: int = config["inference_seeds"]
        self.position_embedding = nn.Embedding(self.max_seq_length + 1, self.hidden_size)
        nn.init.normal_(self.position_embedding.weight, std=config["initializer_range"])
        self.rounding = nn.Linear(self.hidden_size, self.n_items) if config["rounding"] == "linear" else None
        self.input_norm = nn.LayerNorm(self.hidden_size, eps=config["layer_norm_eps"])
        self.input_dropout = Dropout(config["hidden_dropout_prob"])
        self.encoder = self.make_encoder(config)
        self.output_norm = nn.LayerNorm(self.hidden_size, eps=config["layer_norm_eps"])
        self.output = nn.Linear(self.hidden_size, self.hidden_size)

    def rounding_parameters(self) -> tuple[Tensor, Tensor | None]:
        if self.rounding is None:
            return super().rounding_parameters()
        return self.rounding.weight, self.rounding.bias

    def to_continuous(self, items: Tensor, kind: str, draw: Draw) -> Tensor:
        """The extra forward transition q(h^0 | v) = N(E(v), β_0 I); items [B] or [B, L] gain a dimension d."""
        embedded = self.x_0(items)
        return embedded + self.embedding_spread * draw(kind, embedded.shape)

    def denoiser(self, history: History, draw: Draw) -> Denoiser:
        """The denoiser f_θ, which reads the noised slot behind the history; the step's encoding is added everywhere.

        Kinds of draws: "history" [B, L, d] for the embedding noise, and with `noise_positions: all` at every step
        "history_x_t" [B, L, d].
        """
        if self.training or self.noises_history_at_inference:
            embedded = self.to_continuous(history.items, "history", draw)
        else:
            embedded = self.x_0(history.items)
        rows, length, width = embedded.shape
        from_oldest = torch.arange(length + 1, device=embedded.device)
        # Rows that are all full count alike.
        lengths = history.length if history.real is not None else history.length[:1]
        from_newest = lengths[:, None] - from_oldest
        slot = from_newest == 0
        position = self.position_embedding(from_newest.clamp(min=0) if self.counts_from_newest else from_oldest)
        mask = None if history.real is None else slot | F.pad(history.real, (0, 1))

        def reconstruct(x_t: Tensor, timestep: Tensor, draw: Draw) -> Tensor:
            seen = embedded
            if self.noises_all and self.diffuses:
                seen = self.process.q_sample(seen, timestep, draw("history_x_t", seen.shape))
            sequence = torch.where(slot[:, :, None], x_t[:, None], F.pad(seen, (0, 0, 0, 1)))
            sequence = sequence + position
            if self.diffuses:
                angles = step_angles(timestep + 1, width)
                step = torch.stack([angles.sin(), angles.cos()], dim=-1).view(rows, 1, width)
                sequence = sequence + self.step_encoding_scale * step.to(x_t.dtype)
            encoded = self.encoder(self.input_dropout(self.input_norm(sequence)), history.length, mask)
            return self.output(self.output_norm(encoded))

        return reconstruct

    def calculate_loss(
        self, interaction: Any, timestep: Tensor | None = None, noise: NoiseSource | None = None
    ) -> Tensor:
        """Training loss, a scalar: the simplified bound on one drawn step, plus the weighted rounding term.

        Parameters
        ----------
        interaction : recbole Interaction
        timestep : int64 Tensor [B], optional
            The diffusion steps; drawn by the step sampler if not given.
        noise : NoiseSource, optional
            Gives every normal draw: "target" [B, d] for the embedding noise, "x_t" [B, d], and those of the denoiser.
        """
        history = self.history(interaction)
        draw = at_step(noise or self.training_noise(), 0)
        timestep, weight = self.draw_timestep(len(history.length), timestep)
        target = interaction[self.POS_ITEM_ID]
        truth = self.to_continuous(target, "target", draw)
        x_t = self.noised(truth, timestep, draw)
        x0_hat = self.denoiser(history, draw)(x_t, timestep, draw)
        # For the paper's n = 1 the bound compares with the embedding itself.
        wanted = torch.where((timestep == 0)[:, None], self.x_0(target), truth)
        reconstruction = (wanted - x0_hat).square().sum(dim=-1)
        self.step_sampler.update(timestep, reconstruction.detach())
        if self.rounding_reads == "prediction":
            return (weight * (reconstruction + self.rounding_weight * self.item_loss(x0_hat, interaction))).mean()
        return (weight * reconstruction + self.rounding_weight * self.item_loss(truth, interaction)).mean()

    def score(self, draws: Tensor) -> Tensor:
        """Log of the items' probabilities [B, V], averaged over draws of x_0 [S, B, d] ("efficient inference").

        As logarithms, small probabilities stay apart that would all be 0 in float32.
        """
        total: Tensor | None = None
        for x_0 in draws:
            scores = F.linear(x_0, *self.rounding_parameters())
            scores[:, : self.first_item] = -torch.inf
            log_probability = scores.log_softmax(dim=-1)
            total = log_probability if total is None else torch.logaddexp(total, log_probability)
        assert total is not None
        return total - math.log(len(draws))
