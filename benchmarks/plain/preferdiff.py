"""PreferDiff in plain code."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from benchmarks.plain.dreamrec import PlainDreamRec
from recbole_diffusion.diffusion.noise import Noise
from recbole_diffusion.model.losses import distances
from recbole_diffusion.model.preferdiff import PreferDiff, preference_loss


class PlainPreferDiff(PlainDreamRec, PreferDiff):
    """PreferDiff: DreamRec's plain form with a second pass in training, for the mean of the other rows' targets.

    That mean is the sum less the row's own, where its authors look all other targets up for each row. Their third pass,
    whose outcome the objective `neg` leaves out, is left out.
    """

    given: ClassVar = {"objective": ("neg",), "preference": ("batch",), "negatives": (None,)}

    def compared(self, distance: Tensor, x_0: Tensor, timestep: Tensor, h: Tensor, noise: Noise) -> Tensor:
        others = (x_0.sum(dim=0) - x_0) / max(len(x_0) - 1, 1)
        x_t = self.process.sample(others, timestep, noise.normal("x_t_negative", tuple(x_0.shape)))
        further = distances(others, self.restore(x_t, timestep, h), self.distance)
        preference = preference_loss(self.preference_scale * (further.mean() - distance.mean()))
        return self.reconstruction_weight * distance + (1 - self.reconstruction_weight) * preference
