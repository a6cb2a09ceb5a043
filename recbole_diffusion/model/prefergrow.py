"""PreferGrow (NeurIPS 2025, arXiv 2509.26063): preferences grow and fade as discrete diffusion over item ids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..common.setting import Setting, one_of, positive, probability, share
from ..diffusion.noise import Noise
from ..diffusion.process import Process
from ..diffusion.samplers import Denoise, ReverseStep
from ..diffusion.schedules import betas_of
from ..diffusion.score_entropy import ScoreEntropyProcess
from ..errors import SettingError
from .base import History, Losses, TrainingStep, make_history_encoder
from .discrete import DiscreteRecommender
from .layers import Dropout, rotated, step_angles
from .losses import catalogue_exp_sum
from .similarity import scores_of

PRIORS = ("pair", "point", "hybrid", "adaptive")
# Numbers of the encoding of σ.
_SIGMA_WIDTH = 256
# s of a state that cannot be: the logarithm of no probability, without its infinity.
_NEVER = -1e4


class PreferGrow(DiscreteRecommender):
    """PreferGrow: the id of the next item fades into a prior, and ratios of probabilities bring it back.

    x_t is the next item with probability exp(-σ_t), and else drawn from the prior p. That is, by the setting `prior`,
    any item alike (`pair`), the disliked state 0 (`point`), a mixture of both by `hybrid_share` (`hybrid`), or trained
    probabilities of the items (`adaptive`). A history is read by causal blocks, its embeddings turned by their places.
    The network, one linear layer, reads [E[x_t]; history; σ] at full scale; its product with the item embeddings is
    s_y, the logarithm of p_t(y) / p_t(x_t). Training minimises the score entropy, which is right for any p. In training
    a row's history is replaced by a trained vector with probability `guidance_drop`, and inference guides s.

    Inference starts from p and draws ids step by step; the last step keeps the probabilities, by which items rank.

    With `prior: adaptive` the gradient of p is that of the whole expected loss: x_t is drawn from p too, so each row
    has a factor q(x_t) / q(x_t) of value 1, of which the denominator is held fixed.

    With `diffusion: False` it is classification at the disliked state: x_t and σ are left out, s are the logits of the
    next item, and their cross-entropy is trained. Dropping and guidance stay.

    See `DiffusionRecommender` for the parameters.
    """

    settings: ClassVar[Mapping[str, Setting]] = {
        "n_layers": positive("int"),
        "n_heads": positive("int"),
        "hidden_dropout_prob": probability(),
        "attn_dropout_prob": probability(),
        "prior": one_of(PRIORS),
        "hybrid_share": share(),
    }
    records_steps = True
    process: Any
    fixed_prior: Tensor
    disliked: Tensor

    @classmethod
    def check_settings(cls, config: Any) -> None:
        super().check_settings(config)
        if config["diffusion_steps"] < 2:
            raise SettingError("diffusion_steps", config["diffusion_steps"], must="be at least 2")

    @classmethod
    def unread(cls, settings: Mapping[str, Any]) -> set[str]:
        """The settings of the class that have no effect as the others are."""
        return set() if settings["prior"] == "hybrid" else {"hybrid_share"}

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        d = self.hidden_size
        of_items = {"point": 0.0, "hybrid": config["hybrid_share"]}.get(config["prior"], 1.0)
        prior = torch.full((self.n_items,), of_items / (self.n_items - 1))
        prior[0] = 1 - of_items
        self.register_buffer("fixed_prior", prior, persistent=False)
        self.register_buffer("disliked", torch.zeros(1, dtype=torch.int64), persistent=False)
        self.may_be_disliked: bool = of_items < 1
        adapts = config["prior"] == "adaptive" and self.use_diffusion
        self.prior_logits = nn.Parameter(torch.zeros(self.n_items - 1)) if adapts else None
        self.no_history = nn.Parameter(torch.empty(d).normal_(std=config["initializer_range"]))
        self.embedding_dropout = Dropout(config["hidden_dropout_prob"])
        self.encoder = make_history_encoder(config, config["n_layers"], config["n_heads"])
        self.sigma_mlp = nn.Sequential(nn.Linear(_SIGMA_WIDTH, d), nn.SiLU(), nn.Linear(d, d), nn.SiLU())
        # Over [x_t; history; σ].
        self.mix = nn.Linear(3 * d, d)

    # The process.

    def make_process(self, config: Any) -> Process:
        return ScoreEntropyProcess(betas_of(config["noise_schedule"], config["diffusion_steps"]))

    def prior(self) -> Tensor:
        """p [V]: where the process ends."""
        if self.prior_logits is None:
            return self.fixed_prior
        return torch.cat([self.fixed_prior[:1], self.prior_logits.softmax(dim=0)])

    def end_point(self, condition: Tensor, history: History) -> Tensor:
        return self.prior()

    # The network.

    def encode(self, history: History, noise: Noise) -> Tensor:
        """The history as one vector, [B, d]."""
        embedded = rotated(self.item_embedding(history.items))
        return self.encoder(self.embedding_dropout(embedded), history.items > 0, history.length - 1)

    def unconditional(self, condition: Tensor) -> Tensor:
        """A trained vector in place of the history."""
        return self.no_history

    def denoise(self, x_t: Tensor, timestep: Tensor, condition: Tensor, noise: Noise) -> Tensor:
        """A vector [B, d], whose scores of all items are s, or with `diffusion: False` the logits of the next item."""
        if not self.use_diffusion:
            nothing = torch.zeros_like(condition)
            return self.mix(torch.cat([nothing, condition, nothing], dim=-1))
        sigma = self.process.sigmas.like(self.item_embedding.weight)[timestep]
        angles = step_angles(sigma, _SIGMA_WIDTH)
        step = self.sigma_mlp(torch.cat([angles.cos(), angles.sin()], dim=-1).to(condition.dtype))
        return self.mix(torch.cat([self.item_embedding(x_t), condition, step], dim=-1))

    def to_x_0(self, output: Tensor, x_t: Tensor, timestep: Tensor) -> Tensor:
        """The vector as it is: training takes sums over s alone, and inference makes s of it (`ratios`).

        A dot product with the item embeddings is linear, so that guidance of vectors is guidance of s, at half the
        work. With `similarity: cosine` it is guidance of the vectors.
        """
        return output

    def ratios(self, output: Tensor, x_t: Tensor) -> Tensor:
        """s [B, V] by what `denoise` gave [B, d] for x_t [B]: 0 at x_t, and far below 0 for what cannot be."""
        s = self.logits(output)
        if not self.may_be_disliked:
            s[:, 0] = _NEVER
        return s.scatter_(1, x_t[:, None], 0.0)

    def sampler(self, denoise: Denoise, x: Tensor, noise: Noise, end: Tensor | None) -> Iterator[ReverseStep]:
        """The process's own steps; the last one gives log-probabilities of the items, without the disliked state."""

        def s_of(x_t: Tensor, timestep: float, noise: Noise) -> Tensor:
            output = denoise(x_t, timestep, noise)
            return self.ratios(output, x_t) if self.use_diffusion else self.logits(output)

        for step in super().sampler(s_of, x, noise, end):
            if step.x.is_floating_point():
                step = step._replace(x=step.x.index_fill(1, self.disliked, -torch.inf).log_softmax(dim=-1))
            yield step

    # The loss.

    def losses(self, step: TrainingStep) -> Losses:
        """The score entropy of a row, or its cross-entropy with `diffusion: False`."""
        if not self.use_diffusion:
            return Losses(self.ranking_loss(step.output, step.target, step.interaction))
        prior, x_0, x_t = self.prior(), step.target, step.x_t
        # Sums of exp(s) and of s are set off against each other, so all is computed in one precision.
        with torch.autocast(x_0.device.type, enabled=False):
            # A row whose x_t is not of the prior counts for nothing, however large its s.
            output = step.output.to(self.mix.weight.dtype).masked_fill((prior[x_t] == 0)[:, None], 0.0)
            query, weight, bias = self._scored(output)
            here, s_0 = (scores_of(query, weight, bias, items) for items in (x_t, x_0))
            exp_sum = 1 + catalogue_exp_sum(query, weight, bias, x_t, first_item=0 if self.may_be_disliked else 1)
            mean = query @ (prior @ weight) - prior[x_t] * here
            if bias is not None:
                mean = mean + prior @ bias
            s_0 = s_0.masked_fill(x_0 == x_t, 0.0)
            loss = self.process.loss(exp_sum, mean, s_0, x_0, x_t, step.timestep, prior)
        if self.prior_logits is None:
            return Losses(loss)
        chance = self.process.probability(step.x_t, step.target, step.timestep, prior)
        return Losses(loss * chance / chance.detach(), learns_from=loss)
