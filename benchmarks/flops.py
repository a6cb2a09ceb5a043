"""Floating-point operations that a model needs: products of matrices alone, without padding.

A multiply-add counts as two operations. What depends on the diffusion step alone (its encoding and the MLP behind it)
could be tabulated and is left out, as are biases, norms and activations.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

# The forward pass, and one product each for the gradients of input and weight.
TRAINING = 3

BLOCK = "block(k keys, q queries, p pairs) = 4kd² + 4qd² + 4pd + 4qd·inner"
FORMULAS = {
    "DiffuRec": "(layers - 1)·block(n, n, n²) + block(n, 1, n) a step, + 2dV a user",
    "DiffRec": "(layers - 1)·block(m, m, m²) + block(m, 1, m) + 2d² a step, m = n + 1, + 2dV a user; times the seeds",
    "SASRec": "(layers - 1)·block(n, n, n(n + 1)/2) + block(n, 1, n) + 2dV",
    "BERT4Rec": "(layers - 1)·block(n, n, n²) + block(n, r, rn) + r(2d² + 2dV), r positions read",
}


class Network(NamedTuple):
    """Sizes of a model.

    hidden_size, inner_size, n_layers : int
        d, the inner size of the feed-forward layers, and the number of blocks.
    """

    hidden_size: int
    inner_size: int
    n_layers: int


Counts = NDArray[np.float64]


def block(network: Network, keys: ArrayLike, queries: ArrayLike, pairs: ArrayLike) -> Counts:
    """A transformer block: `queries` positions are computed from `keys`, `pairs` of which attend to each other."""
    d, inner = network.hidden_size, network.inner_size
    keys, queries, pairs = (np.asarray(count, dtype=np.float64) for count in (keys, queries, pairs))
    return 4 * keys * d**2 + 4 * queries * d**2 + 4 * pairs * d + 4 * queries * d * inner


def encoder(network: Network, lengths: ArrayLike, read: ArrayLike = 1, causal: bool = False) -> Counts:
    """A transformer over histories of `lengths` [B], whose last block is computed for `read` [B] positions alone."""
    n, read = np.asarray(lengths, dtype=np.float64), np.asarray(read, dtype=np.float64)
    pairs = n * (n + 1) / 2 if causal else n**2
    return (network.n_layers - 1) * block(network, n, n, pairs) + block(network, n, read, read * n)


def rounding(network: Network, items: int) -> int:
    """Scores of `items` items for one user."""
    return 2 * network.hidden_size * items


def diffurec(network: Network, lengths: ArrayLike, items: int, steps: int = 1) -> Counts:
    """DiffuRec, forward, for histories of `lengths` [B]; `steps` of the reverse chain."""
    return steps * encoder(network, lengths) + rounding(network, items)


def diffrec(network: Network, lengths: ArrayLike, items: int, steps: int = 1, seeds: int = 1) -> Counts:
    """DiffRec, forward, for histories of `lengths` [B], behind which the slot of the next item stands."""
    step = encoder(network, np.asarray(lengths) + 1) + 2 * network.hidden_size**2
    return seeds * (steps * step + rounding(network, items))


def sasrec(network: Network, lengths: ArrayLike, items: int) -> Counts:
    """SASRec, forward, for histories of `lengths` [B]; no position attends to later ones."""
    return encoder(network, lengths, causal=True) + rounding(network, items)


def bert4rec(network: Network, lengths: ArrayLike, items: int, read: ArrayLike = 1) -> Counts:
    """BERT4Rec, forward, for sequences of `lengths` [B] with `read` [B] masked positions."""
    head = 2 * network.hidden_size**2 + rounding(network, items)
    return encoder(network, lengths, read) + np.asarray(read) * head


def training_work(config: Any, items: int, lengths: ArrayLike, read: ArrayLike = 1) -> float | None:
    """Operations that training on rows of `lengths` [B] needs; None where the model has no formula.

    Parameters
    ----------
    config : recbole Config
    items : int
        Size of the catalogue, without padding.
    lengths : array [B]
    read : array [B]
        Masked positions of a row, for BERT4Rec.
    """
    # The positive and the negative.
    scored = 2 if config["loss_type"] == "BPR" else items
    return _total(config, scored, lengths, 1, 1, read, TRAINING)


def evaluation_work(config: Any, items: int, lengths: ArrayLike) -> float | None:
    """Operations that full ranking for histories of `lengths` [B] needs; None where the model has no formula."""
    lengths = np.asarray(lengths)
    if config["model"] == "BERT4Rec":
        # The mask takes a position, the oldest item's where the history is full.
        lengths = np.minimum(lengths + 1, config["MAX_ITEM_LIST_LENGTH"])
    return _total(config, items, lengths, config["inference_steps"], config["inference_seeds"], 1, 1)


def _total(
    config: Any, items: int, lengths: ArrayLike, steps: int, seeds: int, read: ArrayLike, passes: int
) -> float | None:
    if config["model"] not in FORMULAS:
        return None
    network = Network(config["hidden_size"], config["inner_size"], config["n_layers"])
    counts = {
        "DiffuRec": lambda: diffurec(network, lengths, items, steps),
        "DiffRec": lambda: diffrec(network, lengths, items, steps, seeds),
        "SASRec": lambda: sasrec(network, lengths, items),
        "BERT4Rec": lambda: bert4rec(network, lengths, items, read),
    }
    return passes * float(counts[config["model"]]().sum())
