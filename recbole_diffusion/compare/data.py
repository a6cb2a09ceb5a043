"""Whether the data of a comparison can be read, and is the same for all rows, seen before any of them trains."""

from __future__ import annotations

from typing import Any

from ..errors import UserError
from ..host.dataset import build_dataset
from ..host.settings import load_config
from ..host.table import DATA
from .plan import Plan, Variant

# Settings of the data on which users, items and interactions do not depend.
OF_NO_WEIGHT = ("seed", "length_batching")


def check_data(plan: Plan) -> None:
    """Refuse data that cannot be read, and rows whose settings give them other users, items or interactions.

    The data is read for the first row, and again for rows with other settings of the data.

    Raises
    ------
    UserError
        Naming the file, or the row and the first setting that differs.
    """
    keys = [key for key in DATA if key not in OF_NO_WEIGHT]
    first, *others = plan.variants
    of_first = _what_is_there(plan, first)
    for variant in others:
        differing = [key for key in keys if variant.config.get(key) != first.config.get(key)]
        if not differing:
            continue
        here = _what_is_there(plan, variant)
        if here != of_first:
            raise UserError(
                f"{variant.name} works on other data than {first.name}: {_counts(here)}, not {_counts(of_first)}; "
                f"{differing[0]} is {variant.config.get(differing[0])!r}, not {first.config.get(differing[0])!r}"
            )


def _what_is_there(plan: Plan, variant: Variant) -> tuple[Any, ...]:
    """Users and items in the order of their ids, and the number of interactions."""
    dataset = build_dataset(load_config(variant.model, plan.dataset, None, variant.settings))
    users, items = (dataset.field2id_token[field].tolist() for field in (dataset.uid_field, dataset.iid_field))
    return users, items, len(dataset.inter_feat)


def _counts(data: tuple[Any, ...]) -> str:
    users, items, interactions = data
    return f"{len(users) - 1} users, {len(items) - 1} items and {interactions} rows"
