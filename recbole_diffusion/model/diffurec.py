"""DiffuRec (Li, Sun, Li: "DiffuRec: A Diffusion Model for Sequential Recommendation", ACM TOIS 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

from torch import Tensor, nn

from ..common.setting import Setting, one_of, probability, switch
from ..diffusion.noise import Noise
from .base import ENCODER, History, make_encoder
from .gaussian import GaussianRecommender, step_factor
from .layers import Dropout, StepMLP
from .padding import counted_keys, with_padding_place

ATTENTION_MASKS = ("keys", "reference", "counted")


class Condition(NamedTuple):
    """What the approximator reads of the history.

    embedded : [B, L, d], key_mask and query_mask : [B, L] or None, last : int64 [B], the newest place
    """

    embedded: Tensor
    key_mask: Tensor | None
    query_mask: Tensor | None
    last: Tensor


class DiffuRec(GaussianRecommender):
    """DiffuRec: the noised next item, scaled by a random λ, is added to every item of the history.

    The approximator (section 4.1) reads z_i = e_i + λ_i ⊙ (x_t + step) with λ_i ~ N(δ, δ) drawn afresh for every
    position, dimension and step, and its output at the newest item is x0_hat. δ is the setting `noise_scale`, which the
    paper calls lambda_uncertainty. Training (section 4.2) scores x0_hat against all items; inference (section 4.3)
    reverses from N(0, I) and ranks by dot product.

    `attention_mask` says what padding does. With `keys` it is invisible. With `reference`, the authors' way, rows
    are padded to the full length, padding has a trained embedding and is attended to, padded positions attend
    uniformly, and index 0 is a candidate of the softmax. `counted` is the same network at hardly more than the cost of
    `keys`: one place stands for all padding of a row and counts as often, so dropout and λ are drawn for it once.

    See `DiffusionRecommender` for the parameters.
    """

    settings: ClassVar[Mapping[str, Setting]] = {
        **ENCODER,
        "attention_mask": one_of(ATTENTION_MASKS),
        "embedding_dropout_prob": probability(),
        "rescale_timesteps": switch(),
    }
    aliases: ClassVar[Mapping[str, str]] = {"lambda_uncertainty": "noise_scale"}
    records_steps = True
    splits_items: ClassVar[Mapping[str, Any] | None] = {}
    scales_x_t = True

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.attention_mask: str = config["attention_mask"]
        if self.attention_mask != "keys":
            self.first_candidate = 0
        if self.attention_mask == "reference":
            self.pad_length = self.max_seq_length
        self.embedding_dropout = Dropout(config["embedding_dropout_prob"])
        self.embedding_norm = nn.LayerNorm(self.hidden_size, eps=config["layer_norm_eps"])
        self.step_mlp = StepMLP(self.hidden_size, self.step_scale(config))
        self.encoder = make_encoder(config)
        self.output_dropout = Dropout(config["hidden_dropout_prob"])
        self.output_norm = nn.LayerNorm(self.hidden_size, eps=config["layer_norm_eps"])

    def step_scale(self, config: Any) -> float:
        """What a timestep is multiplied by before it is encoded."""
        return step_factor(config)

    def history(self, interaction: Any) -> History:
        history = super().history(interaction)
        return with_padding_place(history) if self.attention_mask == "counted" else history

    def visibility(self, history: History) -> tuple[Tensor | None, Tensor | None]:
        """The encoder's masks [B, L]: of the keys, or what is added to their scores, and of the queries."""
        if self.attention_mask != "counted":
            return (history.mask, None) if self.pad_length is None else (None, history.mask)
        return counted_keys(history, self.max_seq_length, self.item_embedding.weight.dtype), history.mask

    def embed_history(self, history: History) -> Tensor:
        """Embeddings e [B, L, d] of the history: LayerNorm(Dropout(E[v])), without positions."""
        return self.embedding_norm(self.embedding_dropout(self.item_embedding(history.items)))

    def encode(self, history: History, noise: Noise) -> Condition:
        return Condition(self.embed_history(history), *self.visibility(history), history.length - 1)

    def mixed(self, x_t: Tensor, timestep: Tensor, condition: Condition, noise: Noise) -> Tensor:
        """What the encoder reads, z [B, L, d]; λ [B, L, d] is drawn at every step, as 'lambda'."""
        z = condition.embedded
        if not self.use_diffusion:
            return z
        scale = self.noise_scale * (1.0 + noise.normal("lambda", tuple(z.shape)))
        return z + scale * (x_t + self.step_mlp(timestep))[:, None]

    def denoise(self, x_t: Tensor, timestep: Tensor, condition: Condition, noise: Noise) -> Any:
        """The approximator f_θ (section 4.1): x0_hat [B, d]."""
        z = self.mixed(x_t, timestep, condition, noise)
        encoded = self.encoder(z, condition.last, condition.key_mask, condition.query_mask)
        return self.output_norm(self.output_dropout(encoded))
