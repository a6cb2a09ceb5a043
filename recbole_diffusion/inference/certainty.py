"""How sure a model is of what it recommends, by draws of its reverse process."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..evaluation.ranking import top_items
from .sampling import item_scores


class Certainty(NamedTuple):
    """What S draws say of k recommended items and of the user.

    share : float [B, k]
        Share of the draws in which the item was among the best k.
    mean, spread : float [B, k]
        Mean and standard deviation over the draws of the item's score.
    distance : float [B]
        Mean distance between two draws of x_0, as a share of their mean length.
    entropy : float [B]
        Entropy in nats of the draws' best item: 0 where all agree, log S where no two do.
    """

    share: Tensor
    mean: Tensor
    spread: Tensor
    distance: Tensor
    entropy: Tensor


def draw_tops(model: Any, x_0: Tensor, k: int, hidden: Tensor | None) -> Tensor:
    """The best items by each draw: x_0 [S, B, d] -> int64 [S, B, k], with 0 where none is left.

    Parameters
    ----------
    hidden : int64 Tensor [B, H], optional
        As in `ranking.top_items`.
    """
    samples, rows = x_0.shape[:2]
    flat = x_0.reshape(1, samples * rows, *x_0.shape[2:])
    repeated = None if hidden is None else hidden.repeat(samples, 1)
    best = top_items(lambda piece: model.score(flat[:, piece]), samples * rows, model.n_items, k, repeated)
    return best.items.masked_fill(best.scores == -torch.inf, 0).view(samples, rows, k)


def relative_distance(x_0: Tensor) -> Tensor:
    """Mean Euclidean distance [B] between two of the draws x_0 [S, B, d], over their mean length; S is 2 or more.

    A longer x_0 is a bolder one, whose draws lie further apart without ranking otherwise: undivided, the distance
    is the larger the more accurate DiffRec is.
    """
    samples = len(x_0)
    # By products it would lose the digits of draws that lie close together.
    points = x_0.transpose(0, 1)
    distances = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.sum(dim=(1, 2)) / (samples * (samples - 1)) / x_0.norm(dim=-1).mean(dim=0)


def choice_entropy(choices: Tensor) -> Tensor:
    """Entropy [B] in nats of the draws' choices, int64 [S, B]."""
    same = (choices[:, None] == choices[None]).float().mean(dim=0)
    # Each draw holds the share of its own choice, so that the mean over draws weighs choices by their share.
    return same.log().mean(dim=0).abs()


def measure(model: Any, x_0: Tensor, items: Tensor, tops: Tensor) -> Certainty:
    """What draws x_0 [S, B, d] with best items `tops` [S, B, k] say of the recommended `items` [B, k]."""
    scores = torch.stack([item_scores(model, x_0[draw : draw + 1], items) for draw in range(len(x_0))])
    share = (tops[:, :, None, :] == items[None, :, :, None]).any(dim=-1).float().mean(dim=0)
    return Certainty(
        share,
        scores.mean(dim=0),
        scores.std(dim=0),
        relative_distance(model.points(x_0)),
        choice_entropy(tops[:, :, 0]),
    )


def cover(tops: Tensor) -> Tensor:
    """A list that covers the draws: int64 [B, k] from the draws' best items, int64 [S, B, k].

    An item at rank r of a draw serves it by 1 / (1 + r). Greedily, the next item is the one that serves most, where
    a draw counts by what the items before left it wanting: xQuAD (Santos, Macdonald and Ounis, 2010), with
    draws as the aspects. Where all draws agree the list is theirs.
    """
    samples, rows, k = tops.shape
    candidates = tops.transpose(0, 1).reshape(rows, samples * k)
    serves = 1.0 / torch.arange(2, k + 2, device=tops.device)
    wanting = torch.ones(rows, samples, device=tops.device)
    chosen: list[Tensor] = []
    gain = torch.zeros(rows, samples * k, samples, device=tops.device)
    for rank in range(k):
        same = candidates[:, :, None] == tops[:, :, rank].t()[:, None]
        gain = gain + same * serves[rank]
    gain = gain.masked_fill((candidates == 0)[:, :, None], 0.0)
    left = candidates != 0
    for _ in range(k):
        worth = (gain * wanting[:, None]).sum(dim=-1).masked_fill(~left, -1.0)
        best = worth.argmax(dim=1, keepdim=True)
        # Where fewer than k items are left, 0 fills up.
        item = candidates.gather(1, best).masked_fill(~left.gather(1, best), 0)
        served = gain.gather(1, best[:, :, None].expand(-1, -1, samples))[:, 0]
        wanting = wanting * (1.0 - served)
        left = left & (candidates != item)
        chosen.append(item)
    return torch.cat(chosen, dim=1)
