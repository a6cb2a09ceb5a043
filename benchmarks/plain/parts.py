"""What plain forms share: full padding, torch's dropout, blocks over every place, scores of all items, every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_diffusion.common.setting import table_of
from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.errors import SettingError
from recbole_diffusion.model.base import DiffusionRecommender, at_last
from recbole_diffusion.model.layers import Attention, Encoder, EncoderBlock, HistoryBlock, HistoryEncoder, rotated
from recbole_diffusion.model.sharing import History

# (x_t, timestep [B], noise) -> what the chain takes for x0_hat
Network = Callable[[Tensor, Tensor, Noise], Tensor]

# What every plain form takes as given.
_GIVEN: dict[str, tuple[Any, ...]] = {
    "diffusion": (True,),
    "loss_type": ("CE",),
    "similarity": ("dot",),
    "inference_seeds": (1,),
    "prediction_type": ("x0",),
    "normalize_x_0": (False,),
    "consistency_weight": (0,),
    "attention_mask": ("keys",),
}


class PlainForm(DiffusionRecommender):
    """Base of the plain forms: a model's parameters, settings, schedules and samplers, and all else written out.

    A plain form stands before its model's class among the bases and writes `loss` and `x_0_of`. Histories come as
    RecBole pads them, to the full length, and no place of them is left out but where a class says so.
    """

    # The values that a setting may have, beyond those that every plain form takes as given.
    given: ClassVar[Mapping[str, tuple[Any, ...]]] = {}

    @classmethod
    def check_settings(cls, config: Any) -> None:
        super().check_settings(config)
        table = table_of(cls)
        for key, values in {**_GIVEN, **cls.given}.items():
            if key in table and config[key] not in values:
                raise SettingError(key, config[key], must=f"be {' or '.join(map(str, values))} in the plain form")

    @classmethod
    def authors_steps(cls, config: Any) -> int:
        """Reverse steps that the authors' code takes: by default all of the process."""
        return config["diffusion_steps"]

    # What a plain form writes.

    def loss(self, items: Tensor, length: Tensor, target: Tensor, noise: Noise) -> Tensor:
        """The training loss, a scalar, of histories [B, L] of `length` [B] and next items `target` [B]."""
        raise NotImplementedError(f"{type(self).__name__} needs a method 'loss(items, length, target, noise)'")

    def x_0_of(self, items: Tensor, length: Tensor, noise: Noise) -> Tensor:
        """The end of the reverse process for histories [B, L] of `length` [B]."""
        raise NotImplementedError(f"{type(self).__name__} needs a method 'x_0_of(items, length, noise)'")

    def scored(self, x: Tensor) -> Tensor:
        """Scores [N, V] of all items by x [N, d]; by default dot products."""
        scores = x @ self.item_embedding.weight.T
        return scores if self.similarity_temperature == 1 else scores / self.similarity_temperature

    def ranked(self, x_0: Tensor) -> Tensor:
        """What ranks the items, [B, V], by the end of the reverse process; by default its scores."""
        return self.scored(x_0)

    # What RecBole calls.

    def calculate_loss(self, interaction: Any, noise: Noise | None = None) -> Tensor:
        items, length, target = (interaction[key] for key in (self.ITEM_SEQ, self.ITEM_SEQ_LEN, self.POS_ITEM_ID))
        return self.loss(items, length, target, noise or self.training_noise())

    def full_sort_predict(self, interaction: Any, noise: Noise | None = None) -> Tensor:
        items, length = interaction[self.ITEM_SEQ], interaction[self.ITEM_SEQ_LEN]
        return self.ranked(self.x_0_of(items, length, noise or self.training_noise()))

    # Networks.

    def dropped(self, x: Tensor, probability: float) -> Tensor:
        return F.dropout(x, probability, self.training)

    def through(self, encoder: Encoder, x: Tensor, seen: Tensor) -> list[Tensor]:
        """What each block gives, [B, L, d] at every place; `seen` bool [B or 1, 1, L or 1, L] by query and key."""
        outputs = []
        for block in encoder.blocks:
            x = self._block(block, x, seen)
            outputs.append(x)
        return outputs

    def _block(self, block: EncoderBlock, x: Tensor, seen: Tensor) -> Tensor:
        dropout = block.dropout.probability
        attended = self._attended(block.attention, x if block.post_norm else block.attention_norm(x), seen)
        x = x + self.dropped(attended, dropout)
        if block.post_norm:
            x = block.attention_norm(x)
        inner = block.activation(block.expand(x if block.post_norm else block.feed_forward_norm(x)))
        x = x + self.dropped(block.contract(self.dropped(inner, dropout)), dropout)
        return block.feed_forward_norm(x) if block.post_norm else self.dropped(x, dropout)

    def _attended(self, attention: Attention, x: Tensor, seen: Tensor) -> Tensor:
        parts = (attention.query(x), *attention.key_value(x).chunk(2, dim=-1))
        query, key, value = (_heads(part, attention.n_heads) for part in parts)
        if attention.rotary:
            query, key = rotated(query), rotated(key)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        weights = scores.masked_fill(~seen, float("-inf")).softmax(dim=-1)
        mixed = self.dropped(weights, attention.dropout.probability) @ value
        return attention.output(mixed.transpose(1, 2).flatten(2))

    def read_newest(self, encoder: HistoryEncoder, z: Tensor, items: Tensor, length: Tensor) -> Tensor:
        """What DreamRec's blocks over every place of z [B, L, d] give at the newest, [B, d]."""
        for block in encoder.blocks:
            z = self._history_block(block, z, items > 0)
        return at_last(z, length)

    def _history_block(self, block: Any, z: Tensor, real: Tensor) -> Tensor:
        assert isinstance(block, HistoryBlock)
        attention, mask = block.attention, real[:, :, None]
        z = z * mask
        normed = block.attention_norm(z)
        parts = (attention.query(normed), attention.key(z), attention.value(z))
        query, key, value = (_heads(part, attention.n_heads) for part in parts)
        scores = query @ key.transpose(-1, -2) / z.shape[-1] ** 0.5
        seen = keys_seen(real) & places_before(z.shape[1], z.device)
        weights = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(dim=-1)
        mixed = self.dropped(weights, attention.dropout.probability) @ value
        attended = normed + mixed.transpose(1, 2).flatten(2)
        if block.residual:
            attended = z + attended
        inner = block.feed_forward_norm(attended)
        more = self.dropped(block.contract(F.relu(block.expand(inner))), block.dropout.probability)
        inner = block.inner_norm(inner + more) * mask
        return block.output_norm(attended + inner if block.residual else inner)

    # Training.

    def noised(self, target: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x_0 [B, d] of next items [B], a timestep [B] for each, the weight [B] of that, and x_t [B, d]."""
        timestep, weight = self.step_sampler.sample((len(target),), noise)
        x_0 = self.item_embedding(target)
        return x_0, timestep, weight, self.process.sample(x_0, timestep, noise.normal("x_t", tuple(x_0.shape)))

    def some_without(self, h: Tensor, nothing: Tensor, noise: Noise) -> Tensor:
        """h [B, d], in which each row is `nothing` [d] with probability `guidance_drop`."""
        if not self.guidance_drop:
            return h
        return torch.where(noise.uniform("guidance_drop", (len(h), 1)) > self.guidance_drop, h, nothing)

    def cross_entropy(self, x: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy [N] of x [N, d] over all items but padding."""
        return F.cross_entropy(self.scored(x)[:, 1:], target - 1, reduction="none")

    def mean_loss(self, losses: Tensor, timestep: Tensor, weight: Tensor, learns_from: Tensor | None = None) -> Tensor:
        """The weighted mean of losses [B]; the step sampler takes note of them, or of `learns_from`."""
        self.step_sampler.update(timestep, (losses if learns_from is None else learns_from).detach())
        return (weight * losses).mean()

    def targets_of(self, items: Tensor, length: Tensor, target: Tensor) -> Tensor:
        """The next item at every place, [B, L], for a model that trains on sequences."""
        return self.targets(History(items, length, None), {self.POS_ITEM_ID: target})

    # The reverse process.

    def reverse(self, network: Network, rows: int, noise: Noise, end: Tensor | None = None) -> Tensor:
        """The end of the chain for a state [B, d]: a pass of the network at each step, each row with its timestep."""
        device, first = self.item_embedding.weight.device, self.timesteps[0]
        here = noise.at(first if isinstance(first, int) else 0)
        x = self.process.start((rows, self.hidden_size), here, end)

        def denoise(x_t: Tensor, timestep: float, noise: Noise) -> Tensor:
            return network(x_t, torch.full((rows,), timestep, device=device), noise)

        for step in self.sampler(denoise, x, noise, end):
            x = step.x
        return x


def _heads(x: Tensor, number: int) -> Tensor:
    """[B, L, d] as [B, number, L, d / number]."""
    return x.unflatten(-1, (number, -1)).transpose(1, 2)


def keys_seen(real: Tensor) -> Tensor:
    """[B, 1, 1, L]: every place sees the keys where `real` bool [B, L] is true."""
    return real[:, None, None]


def places_before(length: int, device: Any) -> Tensor:
    """Bool [L, L]: a place sees those before it and itself."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()
