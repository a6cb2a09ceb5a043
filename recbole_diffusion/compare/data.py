"""Whether the data of a comparison can be read, and is the same for all rows and runs, seen before any trains."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ..errors import UserError
from ..evaluation.ranks import load_ranks, training_popularity
from ..host.dataset import build_dataset
from ..host.loaders import split
from ..host.settings import load_config
from ..host.table import DATA
from .plan import Plan, Variant

# Settings of the data on which users, items and interactions do not depend.
OF_NO_WEIGHT = ("seed", "length_batching")


def check_data(plan: Plan) -> None:
    """Refuse data that cannot be read or has changed, and rows whose settings give them other data.

    The data is read for the first row, and again for rows with other settings of the data and models of another kind.
    Users, items, the number of interactions and the tested ones must be the same for all rows, and the test and the
    training those of the runs that are done.

    Raises
    ------
    UserError
        Naming the file, the row and the first setting that differs, or the run that has had other data.
    """
    keys = [key for key in DATA if key not in OF_NO_WEIGHT]
    first, *others = plan.variants
    dataset = _read(plan, first)
    of_first = _what_is_there(dataset)
    parts = cache(lambda: _parts(dataset))
    kinds = {first.config["MODEL_TYPE"]}
    for variant in others:
        differing = [key for key in keys if variant.config.get(key) != first.config.get(key)]
        of_a_kind = variant.config["MODEL_TYPE"] in kinds
        kinds.add(variant.config["MODEL_TYPE"])
        if not differing and of_a_kind:
            continue
        data = _read(plan, variant)
        here = _what_is_there(data)
        if here != of_first:
            raise UserError(
                f"{variant.name} works on other data than {first.name}: {_counts(here)}, not {_counts(of_first)}; "
                f"{differing[0]} is {variant.config.get(differing[0])!r}, not {first.config.get(differing[0])!r}"
            )
        if not of_a_kind and not np.array_equal(tested := _parts(data)[1], of_test := parts()[1]):
            raise UserError(
                f"{variant.name} is tested on {tested.shape[1]} interactions, {first.name} on {of_test.shape[1]}: a "
                "general model is tested for users with two, too; user_inter_num_interval=[3,inf) leaves them out"
            )
    # A split by chance depends on the seed: the report tells then.
    if first.config["eval_args"]["order"] != "RO":
        _check_done(plan, parts)


def _check_done(plan: Plan, parts: Callable[[], tuple[np.ndarray, np.ndarray]]) -> None:
    """Refuse runs that were trained or tested on other interactions than `parts`, split only where runs are done."""
    for run in plan.runs:
        if not all((run.folder / name).exists() for name in ("record.json", "ranks.npz")):
            continue
        ranks = load_ranks(run.folder / "ranks.npz")
        if not all(map(np.array_equal, parts(), (ranks.popularity, _in_order(ranks.user, ranks.item)))):
            place = "output" if plan.archive is None else "output and archive"
            problem = f"the data have changed since {run.title} was run; {place} must be others, or the data as before"
            raise UserError(f"output={plan.folder}: {problem}")


def _parts(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """How often each item is trained on [V], and the pairs of user and item that are tested [2, n], sorted."""
    train, *_, tested = split(dataset.config, dataset)
    rows = tested.inter_feat
    return training_popularity(train), _in_order(rows[tested.uid_field].numpy(), rows[tested.iid_field].numpy())


def _in_order(user: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Pairs of user and item [2, n], sorted."""
    return np.stack([user, item])[:, np.lexsort((item, user))]


def _read(plan: Plan, variant: Variant) -> Any:
    return build_dataset(load_config(variant.model, plan.dataset, None, variant.settings))


def _what_is_there(dataset: Any) -> tuple[Any, ...]:
    """Users and items in the order of their ids, and the number of interactions."""
    users, items = (dataset.field2id_token[field].tolist() for field in (dataset.uid_field, dataset.iid_field))
    return users, items, len(dataset.inter_feat)


def _counts(data: tuple[Any, ...]) -> str:
    users, items, interactions = data
    return f"{len(users) - 1} users, {len(items) - 1} items and {interactions} rows"
