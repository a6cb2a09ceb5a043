"""DiffuRec in plain code."""

from __future__ import annotations

from torch import Tensor

from benchmarks.plain.parts import PlainForm, keys_seen
from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.model.base import at_last
from recbole_diffusion.model.diffurec import DiffuRec


class PlainDiffuRec(PlainForm, DiffuRec):
    """DiffuRec: as in its authors' code the history is embedded once, and all blocks read it anew at each step."""

    def embedded(self, items: Tensor) -> Tensor:
        return self.embedding_norm(self.dropped(self.item_embedding(items), self.embedding_dropout.probability))

    def hidden(self, x_t: Tensor, timestep: Tensor, embedded: Tensor, items: Tensor, noise: Noise) -> list[Tensor]:
        """What each block gives, [B, L, d]."""
        spread = self.noise_scale * (1 + noise.normal("lambda", tuple(embedded.shape)))
        z = embedded + spread * (x_t + self.step_mlp(timestep))[:, None]
        return self.through(self.encoder, z, keys_seen(items > 0))

    def read(self, hidden: list[Tensor], length: Tensor) -> Tensor:
        """x0_hat [B, d]."""
        last = self.output_norm(self.dropped(hidden[-1], self.output_dropout.probability))
        return at_last(last, length)

    def loss(self, items: Tensor, length: Tensor, target: Tensor, noise: Noise) -> Tensor:
        _, timestep, weight, x_t = self.noised(target, noise)
        x0_hat = self.read(self.hidden(x_t, timestep, self.embedded(items), items, noise), length)
        return self.mean_loss(self.cross_entropy(x0_hat, target), timestep, weight)

    def x_0_of(self, items: Tensor, length: Tensor, noise: Noise) -> Tensor:
        embedded = self.embedded(items)

        def network(x_t: Tensor, timestep: Tensor, noise: Noise) -> Tensor:
            return self.read(self.hidden(x_t, timestep, embedded, items, noise), length)

        return self.reverse(network, len(items), noise)
