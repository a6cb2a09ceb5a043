"""Rankings of a catalogue of any size: best items, and the ranks of the test items, a block of scores at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..common.blocks import LARGEST_BLOCK, row_pieces


class TopItems(NamedTuple):
    """The best items of each row, best first.

    items : int64 [B, k]
    scores : float [B, k]
    target_ranks : int64 [B], optional
        Where an item of each row stands, from 1; 0 where the row must not get it.
    """

    items: Tensor
    scores: Tensor
    target_ranks: Tensor | None = None


class UserRanks(NamedTuple):
    """Where each test interaction's item came in the ranking of the whole catalogue.

    user, item : int64 [n]
        RecBole's internal ids.
    length : int64 [n]
        Length of the history; 0 for a model that is given a user instead.
    rank : int64 [n]
        From 1; items of the same score share the mean of their ranks, rounded down. The ranking is that which
        validation follows: with the history unless `history_in_ranking` is `out`.
    rank_out : int64 [n], optional
        The same without the history, where `history_in_ranking` is `both`.
    """

    user: np.ndarray
    item: np.ndarray
    length: np.ndarray
    rank: np.ndarray
    rank_out: np.ndarray | None = None


def top_items(
    score: Callable[[slice], Tensor],
    rows: int,
    n_items: int,
    k: int,
    hidden: Tensor | None = None,
    largest_block: int = LARGEST_BLOCK,
    targets: Tensor | None = None,
) -> TopItems:
    """The best `k` items of each row, and where `targets` stand.

    Parameters
    ----------
    score : callable
        A slice of the rows -> their scores [rows, V], which may be changed in place.
    rows, n_items : int
        B, and V with the padding item 0, which is never among the best.
    k : int
        At most V - 1.
    hidden : int64 Tensor [B, H], optional
        Items that a row must not get; 0 stands for none. Where fewer than `k` others are left, the rest scores -inf.
    largest_block : int
        Number of scores that may be held at once.
    targets : int64 Tensor [B], optional
    """
    best, ranks = [], []
    for piece in row_pieces(rows, n_items, largest_block):
        scores = score(piece)
        scores[:, 0] = -torch.inf
        if hidden is not None:
            scores.scatter_(1, hidden[piece], -torch.inf)
        best.append(scores.topk(k))
        if targets is not None:
            left_out = scores.gather(1, targets[piece, None])[:, 0].isneginf()
            ranks.append(_ranks_of(targets[piece], scores).masked_fill(left_out, 0))
    items, values = torch.cat([top.indices for top in best]), torch.cat([top.values for top in best])
    return TopItems(items, values, torch.cat(ranks) if ranks else None)


@torch.no_grad()
def user_ranks(trainer: Any, eval_data: Any) -> UserRanks:
    """Rank every test item of a loader of full ranking, with the weights that the model holds.

    Parameters
    ----------
    trainer : Trainer
    eval_data : FullSortEvalDataLoader
        Whose rows have a single target each, as leave-one-out gives them.
    """
    config, dataset = trainer.config, eval_data._dataset
    columns: list[tuple[Tensor, ...]] = []
    ranks: dict[str, list[Tensor]] = {protocol: [] for protocol in trainer.protocols}
    trainer.model.eval()
    for batch in eval_data:
        interaction, _, _, target = batch
        users = interaction[config["USER_ID_FIELD"]]
        field = config["ITEM_LIST_LENGTH_FIELD"]
        length = interaction[field] if field in interaction else torch.zeros_like(users)
        columns.append((users, target, length))
        for protocol, piece, scores in trainer.score_pieces(batch, dataset.item_num):
            ranks[protocol].append(_ranks_of(target[piece].to(scores.device), scores))
    found = [*zip(*columns, strict=True), *ranks.values()]
    return UserRanks(*(torch.cat([part.cpu() for part in parts]).numpy().astype(np.int64) for parts in found))


def _ranks_of(target: Tensor, scores: Tensor) -> Tensor:
    """Rank int64 [n] of each target [n] by scores [n, V]."""
    own = scores.gather(1, target[:, None])
    # A score that is not a number is beaten by all.
    beaten_by = (~(scores <= own)).sum(dim=1)
    tied = (scores == own).sum(dim=1).clamp(min=1)
    return (beaten_by + 1 + (tied - 1) // 2).clamp(max=scores.shape[1] - 1)
