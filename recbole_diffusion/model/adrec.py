"""ADRec (Chen et al.: "Unlocking the Power of Diffusion Models in Sequential Recommendation", KDD 2025)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..common.setting import Setting, at_least, one_of, positive, probability, switch
from ..diffusion.bridge import BridgeProcess
from ..diffusion.geodesic import GeodesicProcess
from ..diffusion.guidance import Network
from ..diffusion.noise import Noise, Shape
from ..diffusion.process import GaussianProcess, Process
from ..diffusion.timesteps import SharedSteps, StepSampler
from ..errors import SettingError
from .base import ENCODER, History, Losses, TrainingStep, make_encoder, mean_by_row
from .gaussian import GaussianRecommender, check_fixed, step_factor
from .layers import Dropout, StepMLP
from .padding import counted_keys, with_padding_place

PROCESSES = ("gaussian", "bridge")
DECODERS = ("attention", "mlp")
ATTENTION_MASKS = ("keys", "counted")


class Condition(NamedTuple):
    """What the decoder reads of the history.

    encoded : [B, L, d], what the encoder says at each place
    history : History
    earlier : of the places before the newest, what does not change from step to step of a chain; None in training.
        Keys and values [B, L, 2d] of each block of a causal decoder, or its input [B, L, d]; nothing for `mlp`.
    """

    encoded: Tensor
    history: History
    earlier: tuple[Tensor, ...] | None = None


class ADRec(GaussianRecommender):
    """ADRec: the next item at every place is noised, each with a timestep of its own; the network is causal.

    An encoder of post-norm blocks reads the history and gives c at each place. The decoder, blocks of the same kind,
    reads z = c + λ (x_t + step) with the setting `noise_scale` for λ, and gives x0_hat at each place. The loss is the
    cross-entropy over all items, averaged over places, and the squared error of x0_hat, averaged over places within a
    row and then over rows. At inference the places before the newest hold their items, clean, with t = 0; only the
    newest is denoised, and where the decoder is causal the other places are computed once a chain.

    With `process: bridge` it is BBDRec (Bai et al., arXiv 2507.06121): x_t is a Brownian bridge from the next item to
    c, and the reverse process starts from c.

    With `diffusion: False` the decoder reads c itself: neither x_t nor the step enters, and nothing is guided. What is
    left is a causal transformer of all blocks with the same two losses.

    With `attention_mask: counted` padding takes part as in the authors' code: it is attended to as often as it stands
    to the left of a history, and is a candidate of the softmax. See `DiffusionRecommender` for the parameters.
    """

    settings: ClassVar[Mapping[str, Setting]] = {
        **ENCODER,
        "process": one_of(PROCESSES),
        "bridge_variance": at_least(0, "float"),
        "geodesic": switch(),
        "shared_timestep": switch(),
        "rescale_timesteps": switch(),
        "decoder": one_of(DECODERS),
        "decoder_layers": positive("int"),
        "causal": switch(),
        "attention_mask": one_of(ATTENTION_MASKS),
        "embedding_dropout_prob": probability(),
        "ce_weight": at_least(0, "float"),
        "mse_weight": at_least(0, "float"),
        "pcgrad": switch(),
    }
    trains_on = "sequences"
    records_steps = True
    splits_items: ClassVar[Mapping[str, Any] | None] = {"pcgrad": False}
    scales_x_t = True

    @classmethod
    def check_process(cls, config: Any) -> None:
        super().check_process(config)
        bridge = config["process"] == "bridge"
        if bridge and config["diffusion_steps"] < 2:
            raise SettingError("diffusion_steps", config["diffusion_steps"], must="be at least 2 with process=bridge")
        if bridge and config["geodesic"]:
            raise SettingError("geodesic", True, must="be False with process=bridge")
        if bridge or config["geodesic"]:
            fixed = {"reverse_sampler": "ddpm", "prediction_type": "x0", "consistency_weight": 0}
            check_fixed(config, fixed, "with process=bridge and with geodesic")

    @classmethod
    def unread(cls, settings: Mapping[str, Any]) -> set[str]:
        unread = set() if settings["decoder"] == "attention" else {"decoder_layers"}
        if settings["process"] == "bridge":
            return unread | {"noise_schedule", "reverse_variance", "ddim_eta"}
        return unread | {"bridge_variance"} | super().unread(settings)

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        # A row without its history would read zeros alone, at which LayerNorms have gradients beyond all numbers.
        if not (self.use_diffusion and self.noise_scale):
            self.guidance_drop = 0.0
        if not self.use_diffusion:
            self.guidance_scale = 0.0
        self.geodesic: bool = config["geodesic"]
        # Looking padding up does not train it; the softmax does where it is a candidate.
        self.item_embedding.padding_idx = 0
        self.counts_padding: bool = config["attention_mask"] == "counted"
        if self.counts_padding:
            self.first_candidate = 0
        self.causal: bool = config["causal"]
        self.shared_timestep: bool = config["shared_timestep"]
        self.pcgrad: bool = config["pcgrad"]
        self.ce_weight: float = config["ce_weight"]
        self.mse_weight: float = config["mse_weight"]
        d, eps = self.hidden_size, config["layer_norm_eps"]
        self.embedding_dropout = Dropout(config["embedding_dropout_prob"])
        self.embedding_norm = nn.LayerNorm(d, eps=eps)
        self.encoder = make_encoder(config, post_norm=True)
        self.step_mlp = StepMLP(d, step_factor(config))
        self.register_buffer("steps", torch.arange(config["diffusion_steps"]), persistent=False)
        self.attends: bool = config["decoder"] == "attention"
        self.decoder: nn.Module = (
            make_encoder(config, "decoder_layers", post_norm=True)
            if self.attends
            else nn.Sequential(nn.Linear(d, 4 * d), nn.SiLU(), nn.Linear(4 * d, d), nn.LayerNorm(d))
        )

    # The process.

    def make_process(self, config: Any) -> Process:
        if config["process"] == "bridge":
            return BridgeProcess(config["diffusion_steps"], config["bridge_variance"])
        gaussian = super().make_process(config)
        assert isinstance(gaussian, GaussianProcess)
        return GeodesicProcess(gaussian, config["reverse_variance"]) if config["geodesic"] else gaussian

    def make_step_sampler(self, config: Any) -> StepSampler:
        sampler = super().make_step_sampler(config)
        return SharedSteps(sampler) if config["shared_timestep"] else sampler

    def embed(self, items: Tensor) -> Tensor:
        embedded = super().embed(items)
        return F.normalize(embedded, dim=-1) if self.geodesic else embedded

    def state_shape(self, history: History) -> Shape:
        """At inference the newest place alone is denoised."""
        return (len(history.length), self.hidden_size)

    def end_point(self, condition: Condition, history: History) -> Tensor:
        return condition.encoded

    # The network.

    def history(self, interaction: Any) -> History:
        history = super().history(interaction)
        return with_padding_place(history) if self.counts_padding else history

    def masks(self, history: History) -> tuple[Tensor | None, Tensor | None]:
        """What every place sees of the others: `key_mask` and `query_mask` of `Attention`."""
        places = torch.arange(history.items.shape[1], device=history.items.device)
        back = places[:, None] >= places
        if not self.counts_padding:
            # Padding stands behind a history, so that a causal network does not see it.
            return (back[None], None) if self.causal else (history.mask, None)
        keys, mask = self.newest_sees(history), history.mask
        assert keys is not None and mask is not None
        if not self.causal:
            return keys, mask
        # Padding belongs in front: every item sees it, and it sees itself alone.
        seen = (back | ~mask[:, None]) & mask[:, :, None]
        itself = torch.eye(len(places), dtype=torch.bool, device=places.device)
        return keys[:, None].masked_fill(~seen, -torch.inf).masked_fill(itself, 0.0), None

    def newest_sees(self, history: History) -> Tensor | None:
        """`key_mask` [B, L] of the newest place."""
        if not self.counts_padding:
            return history.mask
        return counted_keys(history, self.max_seq_length, self.item_embedding.weight.dtype)

    def encode(self, history: History, noise: Noise) -> Condition:
        embedded = self.embedding_norm(self.embedding_dropout(self.item_embedding(history.items)))
        key_mask, query_mask = self.masks(history)
        return Condition(self.encoder(embedded, None, key_mask, query_mask), history)

    def unconditional(self, condition: Condition) -> Condition:
        """Zeros in place of what the encoder says."""
        return condition._replace(encoded=torch.zeros_like(condition.encoded[:1, :1]))

    def mixed(self, encoded: Tensor, x_t: Tensor, timestep: Tensor) -> Tensor:
        """What the decoder reads, z [..., d], at timesteps [...]."""
        if not self.use_diffusion:
            return encoded
        # There are fewer timesteps than places.
        step = F.embedding(timestep, self.step_mlp(self.steps))
        return encoded + self.noise_scale * (x_t + step)

    def denoise(self, x_t: Tensor, timestep: Tensor, condition: Condition, noise: Noise) -> Tensor:
        """x0_hat: [B, L, d] from x_t [B, L, d] of every place, or [B, d] from x_t [B, d] of the newest place alone."""
        if x_t.dim() == 2:
            return self.newest(x_t, timestep, condition)
        history = condition.history
        if self.counts_padding:
            mask = history.mask
            assert mask is not None
            x_t = torch.where(mask[..., None], x_t, self.embed(torch.zeros_like(history.items[:1, :1])))
            timestep = timestep if self.shared_timestep else timestep * mask
        z = self.mixed(condition.encoded, x_t, timestep)
        return self.decoder(z, None, *self.masks(history)) if self.attends else self.decoder(z)

    def newest(self, x_t: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """x0_hat [B, d] of the newest place; before it the items stand clean, with t = 0."""
        history = condition.history
        last = history.length - 1
        rows = torch.arange(len(last), device=last.device)
        z = self.mixed(condition.encoded[rows, last], x_t, timestep)
        if not self.attends:
            return self.decoder(z)
        earlier = self.earlier(condition) if condition.earlier is None else condition.earlier
        if self.causal:
            return self.decoder.at_place(z, last, earlier, self.newest_sees(history))  # type: ignore[operator]
        return self.decoder(earlier[0].index_put((rows, last), z), last, *self.masks(history))

    def earlier(self, condition: Condition) -> tuple[Tensor, ...]:
        """See `Condition`."""
        if not self.attends:
            return ()
        history = condition.history
        items = F.pad(history.items[:, 1:], (0, 1))
        z = self.mixed(condition.encoded, self.embed(items), torch.zeros_like(items))
        return tuple(self.decoder.keys_and_values(z, self.masks(history)[0])) if self.causal else (z,)  # type: ignore[operator]

    def _network(self, condition: Condition) -> Network:
        return super()._network(condition._replace(earlier=self.earlier(condition)))

    # The loss.

    def losses(self, step: TrainingStep) -> Losses:
        """Cross-entropy and squared error at every place; the target embeddings take part in the gradient."""
        ce = self.ce_weight * self.ranking_loss(step.x0_hat, step.target, step.interaction)
        mse = self.mse_weight * mean_by_row((step.x0_hat - step.x_0).square().mean(dim=-1), step)
        if not (self.pcgrad and torch.is_grad_enabled()):
            return Losses(ce + mse)
        first, second = (step.batch.loss(step.weight * loss) for loss in (ce, mse))
        projected = self.projected(first, second, step.batch.added)
        return Losses(torch.zeros_like(ce), unweighted=projected, learns_from=ce + mse)

    @property
    def two_gradients_by(self) -> str | None:
        return "pcgrad" if self.pcgrad else None

    def projected(
        self, first: Tensor, second: Tensor, added: Callable[[Tensor], Tensor] = torch.Tensor.detach
    ) -> Tensor:
        """The sum of two losses, whose gradients lose what contradicts the other: PCGrad (Yu et al., 2020).

        Where the gradients of all parameters, taken as one vector each, have a negative product, each loses its part
        along the other. Of losses that are parts of a batch's, `added` gives the sum over the processes that share it.
        """
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        pair = []
        for loss in (first, second):
            found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            gradients = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found, strict=True)]
            pair.append([added(gradient) for gradient in gradients])
        one, other = pair
        contradiction = inner(one, other).clamp(max=0.0)
        of_one, of_other = (contradiction / inner(part, part).clamp(min=1e-30) for part in pair)
        merged = [a * (1 - of_one) + b * (1 - of_other) for a, b in zip(one, other, strict=True)]
        # 0 in value, `merged` in gradient.
        carrier = [((p - p.detach()) * g).sum() for p, g in zip(parameters, merged, strict=True)]
        return added(first + second) + torch.stack(carrier).sum()


def inner(one: list[Tensor], other: list[Tensor]) -> Tensor:
    """Inner product of two vectors in pieces."""
    return torch.stack([(a * b).sum() for a, b in zip(one, other, strict=True)]).sum()
