"""Floating-point operations that a model needs: products of matrices alone, without padding.

A multiply-add counts as two operations. What depends on the diffusion step alone (its encoding and the MLP behind it)
could be tabulated and is left out, as are biases, norms and activations.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

# The forward pass, and one product each for the gradients of input and weight.
TRAINING = 3

BLOCK = "block(k keys, q queries, p pairs) = 4kd² + 4qd² + 4pd + 4qd·inner"
HISTORY = "history(h heads) = (layers - 1)·(10nd² + 2n(n + 1)d) + 10d² + 4hnd"

Counts = NDArray[np.float64]
# A recbole Config, or in its place the settings that a formula reads.
Sizes = Any


class Work(NamedTuple):
    """Operations of a forward pass for each of B histories, [B] or one number, by how often they are needed.

    history : once
    chain : once for each reverse chain; twice where it is guided
    step : once for each step of a chain, and for each state that training restores; twice where it is guided
    state : as `step`, but once where it is guided
    score : once
    """

    history: Counts | float = 0.0
    chain: Counts | float = 0.0
    step: Counts | float = 0.0
    state: Counts | float = 0.0
    score: Counts | float = 0.0


def block(sizes: Sizes, keys: ArrayLike, queries: ArrayLike, pairs: ArrayLike) -> Counts:
    """A transformer block: `queries` positions are computed from `keys`, `pairs` of which attend to each other."""
    d, inner = sizes["hidden_size"], sizes["inner_size"]
    keys, queries, pairs = (np.asarray(count, dtype=np.float64) for count in (keys, queries, pairs))
    return 4 * keys * d**2 + 4 * queries * d**2 + 4 * pairs * d + 4 * queries * d * inner


def attending(n: Counts, causal: bool) -> Counts:
    """Pairs of n positions that attend to each other."""
    return n * (n + 1) / 2 if causal else n**2


def encoder(sizes: Sizes, n: ArrayLike, read: ArrayLike = 1, causal: bool = False, layers: int | None = None) -> Counts:
    """A transformer over n [B] places, whose last block is computed for `read` [B] places alone."""
    n, read = np.asarray(n, dtype=np.float64), np.asarray(read, dtype=np.float64)
    layers = sizes["n_layers"] if layers is None else layers
    return (layers - 1) * block(sizes, n, n, attending(n, causal)) + block(sizes, n, read, read * n)


def all_places(sizes: Sizes, n: Counts, layers: int, causal: bool) -> Counts:
    """Blocks of which all n [B] places are read."""
    return layers * block(sizes, n, n, attending(n, causal))


def history_encoder(sizes: Sizes, n: ArrayLike, layers: int, heads: int) -> Counts:
    """DreamRec's blocks, of which the newest of n [B] places is read: its query goes through the map of the keys."""
    n, d = np.asarray(n, dtype=np.float64), sizes["hidden_size"]
    whole = 10 * n * d**2 + 4 * d * attending(n, True)
    return (layers - 1) * whole + 10 * d**2 + 4 * heads * n * d


def rounding(sizes: Sizes, items: int) -> int:
    """Scores of `items` items for one user."""
    return 2 * sizes["hidden_size"] * items


# A function a model: (sizes, n [B], scored, targets [B]) -> Work. n are lengths of histories, `targets` the numbers of
# their places that are restored or ranked for, and `scored` the number of items that each of these is ranked among.


def diffurec(sizes: Sizes, n: Counts, scored: int, targets: Counts) -> Work:
    """DiffuRec."""
    return Work(step=encoder(sizes, n), score=rounding(sizes, scored))


def diffrec(sizes: Sizes, n: Counts, scored: int, targets: Counts) -> Work:
    """DiffRec: the slot of the next item stands behind the history, and each chain is scored by itself."""
    return Work(chain=rounding(sizes, scored), step=encoder(sizes, n + 1) + 2 * sizes["hidden_size"] ** 2)


def sasrec(sizes: Sizes, n: Counts, scored: int, targets: Counts) -> Work:
    """SASRec: no position attends to later ones."""
    return Work(history=encoder(sizes, n, causal=True), score=rounding(sizes, scored))


def bert4rec(sizes: Sizes, n: Counts, scored: int, targets: Counts) -> Work:
    """BERT4Rec: masked positions alone are read."""
    head = 2 * sizes["hidden_size"] ** 2 + rounding(sizes, scored)
    return Work(history=encoder(sizes, n, targets) + targets * head)


def _restored_under(sizes: Sizes, history: Counts, scored: int) -> Work:
    """DreamRec's denoiser behind an encoded history; `diffusion: False` leaves x_t out."""
    d = sizes["hidden_size"]
    first, second = (4 * d**2, 4 * d**2) if sizes["denoiser"] == "mlp2" else (2 * d**2, 0)
    return Work(history + first, step=sizes["diffusion"] * first + second, score=rounding(sizes, scored))


def dreamrec(sizes: Sizes, n: Counts, scored: int, targets: Counts) -> Work:
    """DreamRec."""
    return _restored_under(sizes, history_encoder(sizes, n, layers=1, heads=1), scored)


def preferdiff(sizes: Sizes, n: Counts, scored: int, targets: Counts) -> Work:
    """PreferDiff: DreamRec with blocks of its own number."""
    return _restored_under(sizes, history_encoder(sizes, n, sizes["n_layers"], sizes["n_heads"]), scored)


def prefergrow(sizes: Sizes, n: Counts, scored: int, targets: Counts) -> Work:
    """PreferGrow: each step gives the ratios of all items; `diffusion: False` leaves x_t out."""
    d = sizes["hidden_size"]
    history = history_encoder(sizes, n, sizes["n_layers"], sizes["n_heads"]) + 2 * d**2
    return Work(history, step=sizes["diffusion"] * 2 * d**2, state=rounding(sizes, scored))


def history_decoder(sizes: Sizes, n: Counts) -> Counts:
    """FMRec's decoder of the history, whose last layer gives the history's items and the zeros that count."""
    if not sizes["decoder_weight"]:
        return 0 * n
    widths = [sizes["hidden_size"], *sizes["decoder_sizes"]]
    return sum(2 * a * b for a, b in pairwise(widths)) + 2 * widths[-1] * (1 + sizes["zeros_ratio"]) * n


def adrec(sizes: Sizes, n: Counts, scored: int, targets: Counts) -> Work:
    """ADRec and BBDRec; where the newest place alone is restored, the keys of the others are computed once a chain."""
    d, causal, layers = sizes["hidden_size"], sizes["causal"], sizes["decoder_layers"]
    attends, everywhere = sizes["decoder"] == "attention", np.array_equal(n, targets)
    score = targets * rounding(sizes, scored)
    history = all_places(sizes, n, sizes["n_layers"], causal)
    if not attends:
        return Work(history if everywhere else encoder(sizes, n, causal=causal), step=targets * 16 * d**2, score=score)
    if everywhere:
        return Work(history, step=all_places(sizes, n, layers, causal), score=score)
    if not causal:
        return Work(history, step=encoder(sizes, n, layers=layers), score=score)
    chain = all_places(sizes, n - 1, layers - 1, causal) + 4 * (n - 1) * d**2
    return Work(history, chain, layers * block(sizes, 1, 1, n), score=score)


def rfmrec(sizes: Sizes, n: Counts, scored: int, targets: Counts) -> Work:
    """RFMRec; `diffusion: False` has no flow."""
    everywhere = np.array_equal(n, targets)
    history = all_places(sizes, n, sizes["n_layers"], True) if everywhere else encoder(sizes, n, causal=True)
    step = sizes["diffusion"] * targets * 16 * sizes["hidden_size"] ** 2
    return Work(history, step=step, score=targets * rounding(sizes, scored))


class Formula(NamedTuple):
    """How a model's operations are counted.

    text : str
        In words, for a history of n items.
    work : callable
    in_training : callable, optional
        (sizes, n [B]) -> [B], what training alone needs for each history.
    """

    text: str
    work: Callable[[Sizes, Counts, int, Counts], Work]
    in_training: Callable[[Sizes, Counts], Counts] | None = None


_ADREC = Formula(
    "layers·block(n, n, n(n + 1)/2); in training decoder_layers·block(n, n, n(n + 1)/2) + 2ndV; at inference, with "
    "m = n - 1, (decoder_layers - 1)·block(m, m, m(m + 1)/2) + 4md², decoder_layers·block(1, 1, n) a step, + 2dV",
    adrec,
)
FORMULAS = {
    "DiffuRec": Formula("(layers - 1)·block(n, n, n²) + block(n, 1, n) a step, + 2dV a user", diffurec),
    "DiffRec": Formula(
        "(layers - 1)·block(m, m, m²) + block(m, 1, m) + 2d² a step, m = n + 1, + 2dV a user; times the seeds", diffrec
    ),
    "SASRec": Formula("(layers - 1)·block(n, n, n(n + 1)/2) + block(n, 1, n) + 2dV", sasrec),
    "BERT4Rec": Formula("(layers - 1)·block(n, n, n²) + block(n, r, rn) + r(2d² + 2dV), r positions read", bert4rec),
    "DreamRec": Formula(
        "history(1) + f, + f + g a step, + 2dV where items are ranked; f = 2d², g = 0 for mlp1, both 4d² for mlp2",
        dreamrec,
    ),
    "PreferDiff": Formula(
        "history(heads) + f, + f + g a step, + 2dV where items are ranked; f = 2d², g = 0 for mlp1, both 4d² for mlp2; "
        "training restores two states or more",
        preferdiff,
    ),
    "ADRec": _ADREC,
    "BBDRec": _ADREC,
    "FMRec": Formula(
        "(layers - 1)·block(n, n, n²) + block(n, 1, n) a step, + 2dV a user; in training the decoder's inner layers "
        "and 2h·(1 + zeros_ratio)·n, h its last inner size",
        diffurec,
        history_decoder,
    ),
    "RFMRec": Formula(
        "(layers - 1)·block(n, n, n(n + 1)/2) + block(n, 1, n), + 16d² a step, + 2dV a user; in training "
        "layers·block(n, n, n(n + 1)/2) + n(16d² + 2dV)",
        rfmrec,
    ),
    "PreferGrow": Formula("history(heads) + 2d², + 2d² + 2dV a step", prefergrow),
}


def formula_of(config: Any) -> Formula | None:
    """The formula of a model, or of the model that its class derives from."""
    names = (base.__name__ for base in config.model_class.__mro__)
    return next((FORMULAS[name] for name in names if name in FORMULAS), None)


def training_work(config: Any, items: int, lengths: ArrayLike, targets: ArrayLike = 1) -> float | None:
    """Operations that training on rows of `lengths` [B] needs; None where the model has no formula.

    Parameters
    ----------
    config : recbole Config
    items : int
        Size of the catalogue, without padding.
    lengths : array [B]
    targets : array [B]
        Places of a row that have a target: for BERT4Rec the masked ones.
    """
    formula = formula_of(config)
    if formula is None:
        return None
    # Of a pairwise loss the positive and the negative.
    scored = 0 if config["ce_weight"] == 0 else 2 if config["loss_type"] == "BPR" else items
    n, of = _floats(lengths, targets)
    work = formula.work(config, n, scored, of)
    once = work.history + work.chain + work.score
    if formula.in_training is not None:
        once = once + formula.in_training(config, n)
    total = TRAINING * (once + restored_states(config) * (work.step + work.state))
    if config["consistency_weight"] and config["diffusion"]:
        # The step before, without gradient.
        total = total + work.step
    if config["pcgrad"]:
        # Gradients of two losses, of which one ranks no item.
        total = total + (TRAINING - 1) * (work.history + work.chain + work.step)
    return _sum(total, n)


def restored_states(config: Any) -> int:
    """How many states x_t a training row restores."""
    if config["objective"] is None or not config["diffusion"]:
        return 1
    others = config["negatives"] or config["train_batch_size"] - 1
    return {"negh": 3, "sdpo": 1 + others}.get(config["objective"], 2)


def evaluation_work(config: Any, items: int, lengths: ArrayLike, steps: int = 1) -> float | None:
    """Operations that full ranking for histories of `lengths` [B] needs; None where the model has no formula.

    `steps` are those of a reverse chain.
    """
    formula = formula_of(config)
    if formula is None:
        return None
    n, one = _floats(lengths, 1)
    if config["model"] == "BERT4Rec":
        # The mask takes a position, the oldest item's where the history is full.
        n = np.minimum(n + 1, config["MAX_ITEM_LIST_LENGTH"])
    work = formula.work(config, n, items, one)
    networks = 2 if config["guidance_scale"] else 1
    chain = networks * (work.chain + steps * work.step) + steps * work.state
    if config["fold_chain"] and config["diffusion"]:
        chain = folded_chain(config, steps)
    return _sum(work.history + (config["inference_seeds"] or 1) * chain + work.score, n)


def folded_chain(sizes: Sizes, steps: int) -> int:
    """A chain that was folded into one product, with one for the noise of each step but the last."""
    noisy = sizes["reverse_sampler"] == "ddpm" or sizes["ddim_eta"] > 0
    return (2 + noisy * (steps - 1)) * 2 * sizes["hidden_size"] ** 2


def _floats(*counts: ArrayLike) -> list[Counts]:
    return [np.asarray(count, dtype=np.float64) for count in counts]


def _sum(work: Counts | float, n: Counts) -> float:
    return float(np.broadcast_to(np.asarray(work, dtype=np.float64), n.shape).sum())
