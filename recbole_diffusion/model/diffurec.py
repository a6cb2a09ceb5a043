"""DiffuRec (Li, Sun, Li: "DiffuRec: A Diffusion Model for Sequential Recommendation", ACM TOIS 2023)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Denoiser, DiffusionRecommender, Draw, History, check_encoder, one_of, real_places, require
from .layers import Dropout, step_angles

ATTENTION_MASKS = ("keys", "reference", "counted")


class DiffuRec(DiffusionRecommender):
    """DiffuRec: the noised next item, scaled by a random λ, is added to every item of the history.

    The approximator (section 4.1) reads z_i = e_i + λ_i ⊙ (x_t + step) with λ_i ~ N(δ, δ) drawn afresh for every
    position, dimension and step, and its output at the newest item is x0_hat. Training (section 4.2) scores
    x0_hat against all items; inference (section 4.3) reverses from N(0, I) and ranks by dot product.

    With `attention_mask: reference` the network treats padding as the authors' published code does: rows
    are padded to the full length, padding has a trained embedding and is attended to, padded positions
    themselves attend uniformly, and index 0 is a candidate of the softmax. With `keys` padding is invisible. With
    `counted` it takes part as in `reference`, but stands once and counts as often as it would stand, which costs
    hardly more than `keys`. All padding of a row is alike but for what is drawn, dropout and λ; so without draws both
    are the same network, and with them `counted` draws once where `reference` draws for every place.

    See `DiffusionRecommender` for the parameters.
    """

    records_steps = True

    @classmethod
    def check_settings(cls, config: Any) -> None:
        super().check_settings(config)
        check_encoder(config)
        one_of(config, "attention_mask", ATTENTION_MASKS)
        require(config, "lambda_uncertainty", config["lambda_uncertainty"] >= 0, "a number of at least 0 is wanted")
        dropout = config["embedding_dropout_prob"]
        require(config, "embedding_dropout_prob", 0 <= dropout < 1, "a number from 0 to below 1 is wanted")

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.attention_mask: str = config["attention_mask"]
        if self.attention_mask != "keys":
            self.first_item = 0
        if self.attention_mask == "reference":
            self.pads_to = self.max_seq_length
        self.lambda_uncertainty: float = config["lambda_uncertainty"]
        self.step_scale = 1000.0 / config["diffusion_steps"] if config["rescale_timesteps"] else 1.0
        self.embedding_dropout = Dropout(config["embedding_dropout_prob"])
        self.embedding_norm = nn.LayerNorm(self.hidden_size, eps=config["layer_norm_eps"])
        self.step_mlp = nn.Sequential(
            nn.Linear(self.hidden_size, 4 * self.hidden_size),
            nn.SiLU(),
            nn.Linear(4 * self.hidden_size, self.hidden_size),
        )
        self.encoder = self.make_encoder(config)
        self.output_dropout = Dropout(config["hidden_dropout_prob"])
        self.output_norm = nn.LayerNorm(self.hidden_size, eps=config["layer_norm_eps"])

    def history(self, interaction: Any) -> History:
        history = super().history(interaction)
        if self.attention_mask != "counted":
            return history
        # Behind the newest item is the place of the padding.
        items = F.pad(history.items, (0, 1))
        return History(items, history.length, real_places(items, history.length))

    def visibility(self, history: History) -> tuple[Tensor | None, Tensor | None]:
        """The encoder's masks [B, L]: of the keys, or what is added to their scores, and of the queries."""
        if self.attention_mask != "counted":
            return (history.real, None) if self.pads_to is None else (None, history.real)
        length = history.length[:, None]
        behind = torch.arange(history.items.shape[1], device=length.device) - length
        # A key that stands n times is one whose score has log n added; -inf where the history is full.
        log_count = (self.max_seq_length - length).to(self.item_embedding.weight.dtype).log().expand(behind.shape)
        return log_count.masked_fill(behind < 0, 0.0).masked_fill(behind > 0, -math.inf), history.real

    def embed_history(self, history: History) -> Tensor:
        """Embeddings e [B, L, d] of the history: LayerNorm(Dropout(E[v])), without positions."""
        return self.embedding_norm(self.embedding_dropout(self.item_embedding(history.items)))

    def denoiser(self, history: History, draw: Draw) -> Denoiser:
        """The approximator f_θ (section 4.1); λ [B, L, d] is drawn at every step, as kind "lambda"."""
        embedded = self.embed_history(history)
        key_mask, query_mask = self.visibility(history)

        def conditioned(x_t: Tensor, timestep: Tensor, draw: Draw) -> Tensor:
            angles = step_angles(timestep * self.step_scale, self.hidden_size)
            step = self.step_mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(x_t.dtype))
            scale = self.lambda_uncertainty * (1.0 + draw("lambda", embedded.shape))
            return embedded + scale * (x_t + step)[:, None]

        def approximate(x_t: Tensor, timestep: Tensor, draw: Draw) -> Tensor:
            z = conditioned(x_t, timestep, draw) if self.diffuses else embedded
            encoded = self.encoder(z, history.length - 1, key_mask, query_mask)
            return self.output_norm(self.output_dropout(encoded))

        return approximate
