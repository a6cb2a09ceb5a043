"""Mistakes of the user's, each one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something that the user can mend; the script prints it as one line and exits with 2."""


class ReportedElsewhere(UserError):
    """A run of several processes has ended with an error, which another of them tells the user."""


class OutOfTime(Exception):
    """A command has to end before all is done; what is left can be gone on with. It exits with `exit_code`."""

    # EX_TEMPFAIL of sysexits.h: try again later.
    exit_code = 75


class SettingError(UserError):
    """A setting that cannot be used.

    Parameters
    ----------
    key : str
        Name of the setting, as the user wrote it.
    value : object
        What it was set to.
    problem : str
        What is wrong, as a sentence of its own; only where `must` cannot say it.
    must : str
        What must hold, so that "KEY must MUST, got VALUE" is a sentence: "be positive".
    """

    def __init__(self, key: str, value: object, problem: str = "", *, must: str = "") -> None:
        super().__init__(f"{key} must {must}, got {value!r}" if must else f"{key}={value!r}: {problem}")
        self.key = key

    def __reduce__(self) -> tuple[type[UserError], tuple[str, ...]]:
        # What another process raises arrives as its message alone.
        return UserError, self.args


class ModelError(UserError, NotImplementedError):
    """A mistake in the file of a model: a method that is missing, or that gives something else than it must."""


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The known name that is most like `name`, whatever the case; None where none is like it."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[near[0]] if near else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """`; did you mean X?` for the nearest of the known names, or nothing."""
    near = nearest(name, known)
    return f"; did you mean {near}?" if near else ""
