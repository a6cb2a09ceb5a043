"""Mistakes of the user's, told in one line each."""

from __future__ import annotations


class UserError(Exception):
    """Something that the user can mend; the script prints it as one line and exits with 2."""


class SettingError(UserError):
    """A setting that cannot be used.

    Parameters
    ----------
    key : str
        Name of the setting, as the user wrote it.
    value : object
        What it was set to.
    wanted : str
        What would do.
    """

    def __init__(self, key: str, value: object, wanted: str) -> None:
        super().__init__(f"{key}={value!r}: {wanted}")
        self.key, self.value, self.wanted = key, value, wanted
