"""What a setting may be: its type, what must hold, and what depends on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from ..errors import SettingError


def _anything(value: Any) -> bool:
    return True


class Setting(NamedTuple):
    """One row of a table of settings. A class states its own rows; it inherits those of its base classes.

    Attributes
    ----------
    kind : str
        The type, as the yaml comment beside the key opens with it: `int`, `float`, `bool`, `str`, `path`, `list`,
        `list of int`, `dict`, or several, as in `str or list`; with ` or ~` where the setting may be absent.
    must : str
        What must hold beyond the type, so that "KEY must MUST, got VALUE" is a sentence: "be positive".
    holds : callable
        Whether it holds for a value of that type.
    at_inference : bool
        Whether a trained model may be given another value: the weights do not depend on it.
    changes_results : bool
        Whether a run's figures depend on it, beyond rounding.
    shared : bool
        Whether all models of a comparison must have the same value, so that their figures can be compared.
    """

    kind: str
    must: str = ""
    holds: Callable[[Any], bool] = _anything
    at_inference: bool = False
    changes_results: bool = True
    shared: bool = False

    def check(self, key: str, value: Any) -> None:
        """Refuse a value for which what must hold does not.

        Raises
        ------
        SettingError
            Naming the key, what must hold, and the value.
        """
        if value is None:
            if not self.kind.endswith(" or ~"):
                raise SettingError(key, value, must="be given: the yaml of the model has no default for it")
        elif not self.holds(value):
            raise SettingError(key, value, must=self.must)


def positive(kind: str, most: float = math.inf, **more: Any) -> Setting:
    """A number above 0, and at most `most`."""
    must = "be positive" if most == math.inf else f"be positive and at most {most:g}"
    return Setting(kind, must, lambda value: 0 < value <= most, **more)


def at_least(least: float, kind: str, **more: Any) -> Setting:
    """A number from `least` on."""
    return Setting(kind, f"be at least {least:g}", lambda value: value >= least, **more)


def within(least: float, most: float, kind: str, **more: Any) -> Setting:
    """A number from `least` to `most`."""
    return Setting(kind, f"be from {least:g} to {most:g}", lambda value: least <= value <= most, **more)


def share(**more: Any) -> Setting:
    """A number from 0 to 1."""
    return within(0, 1, "float", **more)


def probability(**more: Any) -> Setting:
    """A chance that is not certain, as dropout takes it."""
    return Setting("float", "be from 0 to below 1", lambda value: 0 <= value < 1, **more)


def one_of(names: Collection[str], kind: str = "str", ignore_case: bool = False, **more: Any) -> Setting:
    """One of some names; with `ignore_case` the names are in small letters, and a value may be in any."""
    must = f"be {'one of ' if len(names) > 1 else ''}{', '.join(names)}"
    return Setting(kind, must, lambda value: (value.lower() if ignore_case else value) in names, **more)


def switch(**more: Any) -> Setting:
    """True or False."""
    return Setting("bool", **more)


def without_effect(model: type, settings: Mapping[str, Any], changed: Collection[str]) -> list[str]:
    """A warning for each changed setting that the model does not read as its other settings are.

    A class says which by `unread(settings)`.
    """
    unread = model.unread(settings) if hasattr(model, "unread") else ()
    name = model.__name__
    return [
        f"{key}={settings[key]} has no effect: {name} does not read it with its other settings"
        for key in changed
        if key in unread
    ]


def table_of(model: type) -> dict[str, Setting]:
    """The settings of a class with those of its base classes; a row of a class replaces that of its base."""
    return _along_bases(model, "settings")


def aliases_of(model: type) -> dict[str, str]:
    """Other names of a class's settings, name -> key, with those of its base classes."""
    return _along_bases(model, "aliases")


def _along_bases(model: type, attribute: str) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for base in reversed(model.__mro__):
        own: Mapping[str, Any] = vars(base).get(attribute, {})
        merged.update(own)
    return merged
