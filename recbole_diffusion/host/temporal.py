"""The global temporal split: boundaries in time that are the same for all users."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import SettingError
from .prefixes import Prefixes

SCHEME = "GTS"
TARGETS = ("last", "successive")


class Temporal(NamedTuple):
    """What a split by `SCHEME` says.

    quantiles : (float, float)
        Shares of all interactions up to the boundary of training, and up to that of validation.
    targets : str
        `last`: one target a user behind each boundary. `successive`: every interaction there.
    """

    quantiles: tuple[float, float]
    targets: str = "last"


def read_temporal(split: Mapping[str, Any]) -> Temporal | None:
    """What `eval_args.split` says of boundaries in time; None where the split is another one.

    Raises
    ------
    SettingError
    """
    if SCHEME not in split:
        return None
    value = split[SCHEME]
    parts = value if isinstance(value, Mapping) else {"quantiles": value}
    quantiles, targets = parts.get("quantiles"), parts.get("targets", "last")
    pair = quantiles if isinstance(quantiles, list | tuple) and len(quantiles) == 2 else (0, 0)
    if not all(type(q) in (int, float) for q in pair) or not 0 < pair[0] < pair[1] < 1:
        must = f"have {SCHEME}: two rising quantiles between 0 and 1, such as [0.8, 0.9]"
        raise SettingError("eval_args.split", split, must=must)
    if targets not in TARGETS or not set(parts) <= {"quantiles", "targets"}:
        must = f"have {SCHEME}: {{quantiles: [0.8, 0.9], targets: {' or '.join(TARGETS)}}}"
        raise SettingError("eval_args.split", split, must=must)
    return Temporal((pair[0], pair[1]), targets)


def boundaries(times: Tensor, quantiles: tuple[float, float]) -> tuple[float, float]:
    """The earliest times up to which there are these shares of the interactions; equal times are never cut apart."""
    first, second = np.quantile(times.double().numpy(), quantiles, method="inverted_cdf")
    return float(first), float(second)


def split_by_time(
    prefixes: Prefixes, time_field: str, item_field: str, split: Temporal
) -> tuple[Tensor, Tensor, Tensor, int]:
    """Numbers of the rows that train, validate and test.

    A row trains where its target is not behind the first boundary, so that neither it nor its history is. The targets
    of validation lie between the two boundaries, those of the test behind the second; their histories are all that the
    user did before. An item that no training row holds is no target; it stays in histories and in the ranking.

    Parameters
    ----------
    prefixes : Prefixes
        One row for each interaction but the first of each user.
    time_field, item_field : str
    split : Temporal

    Returns
    -------
    three int64 Tensors
        Ascending.
    int
        How many targets were left out because training does not know their item.
    """
    columns, start = prefixes.sequences.columns, prefixes.sequences.start.long()
    rows = prefixes.rows.long()
    first, second = boundaries(columns[time_field], split.quantiles)
    time = columns[time_field].double()[rows]
    item = columns[item_field][rows]
    trains = time <= first
    known = torch.zeros(int(columns[item_field].max()) + 1, dtype=torch.bool)
    # Of a user with training rows, the places between the first interaction and the last row are rows themselves.
    known[item[trains]] = True
    known[columns[item_field][start[rows[trains]]]] = True
    parts, unknown = [trains.nonzero().flatten()], 0
    for inside in ((time > first) & (time <= second), time > second):
        unknown += int((inside & ~known[item]).sum())
        chosen = (inside & known[item]).nonzero().flatten()
        if split.targets == "last":
            chosen = _last_of_each(chosen, start[rows], rows)
        parts.append(chosen)
    return parts[0], parts[1], parts[2], unknown


def _last_of_each(chosen: Tensor, user: Tensor, place: Tensor) -> Tensor:
    """Of the chosen rows the one with the last place of each user."""
    if not len(chosen):
        return chosen
    last = torch.full((int(user.max()) + 1,), -1).scatter_reduce(0, user[chosen], place[chosen], "amax")
    return chosen[place[chosen] == last[user[chosen]]]
