"""Settings that name columns of the data, checked once the files are read."""

from __future__ import annotations

from typing import Any

from ..errors import SettingError, suggestion

# Settings that list columns or map them to something, beside alias_of_*. RecBole checks the others of this kind.
KEYS = ("numerical_features", "seq_len")


def check_fields(dataset: Any) -> None:
    """Refuse a setting of the user's that names a column or a file that was not read.

    Parameters
    ----------
    dataset : recbole Dataset
        With its files read, and nothing filtered or numbered yet.

    Raises
    ------
    SettingError
    """
    # A configuration of RecBole's own does not know what the user gave.
    given = getattr(dataset.config, "given", {})
    for key in (*KEYS, *sorted(key for key in given if key.startswith("alias_of_"))):
        for field in given.get(key) or ():
            if field not in dataset.field2type:
                there = f"{', '.join(dataset.field2type)}{suggestion(str(field), dataset.field2type)}"
                raise SettingError(key, given[key], must=f"name columns that are read; {field} is none of {there}")
    for field in given.get("numerical_features") or ():
        kind = dataset.field2type[field].value
        if not kind.startswith("float"):
            must = f"name columns of type float or float_seq; {field} is of type {kind}"
            raise SettingError("numerical_features", given["numerical_features"], must=must)
    for name in given.get("unused_col") or {}:
        if getattr(dataset, f"{name}_feat", None) is None:
            files = [name for name in ("inter", "user", "item") if getattr(dataset, f"{name}_feat") is not None]
            raise SettingError("unused_col", given["unused_col"], must=f"name files that are read: {', '.join(files)}")
