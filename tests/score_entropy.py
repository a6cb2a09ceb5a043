"""The loss of `ScoreEntropyProcess` by s as a whole."""

from __future__ import annotations

from torch import Tensor

from recbole_diffusion.diffusion.score_entropy import ScoreEntropyProcess


def score_entropy(
    process: ScoreEntropyProcess, s: Tensor, x_0: Tensor, x_t: Tensor, timestep: Tensor, prior: Tensor
) -> Tensor:
    """The loss [B] of s [B, K]."""
    s_0 = s.gather(1, x_0[:, None])[:, 0]
    return process.loss(s.exp().sum(dim=-1), s @ prior, s_0, x_0, x_t, timestep, prior)
