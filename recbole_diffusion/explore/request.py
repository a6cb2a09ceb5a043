"""What the reader of the page chose, checked."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import SettingError, UserError


class Request(NamedTuple):
    """A question to the models.

    history : list of str
        Tokens of items, oldest first.
    held_out : str or None
        An item whose rank is looked for.
    topk : int
    include_seen : bool
        Whether items of the history may be recommended.
    settings : list of mapping
        One for each model; see `sliders.chosen`.
    """

    history: list[str]
    held_out: str | None
    topk: int
    include_seen: bool
    settings: list[dict[str, Any]]


def read_request(given: Any, models: int) -> Request:
    """A request to so many models, from plain data.

    Raises
    ------
    UserError
        For data of another form.
    """
    if not isinstance(given, dict):
        raise UserError("a request must be a json object")
    defaults: dict[str, Any] = {
        "history": [],
        "held_out": None,
        "topk": 10,
        "include_seen": False,
        "settings": [{}] * models,
    }
    for key, value in given.items():
        if key not in defaults:
            raise SettingError(key, value, must=f"be one of {', '.join(defaults)}")
    request = Request(**{**defaults, **given})
    if not isinstance(request.history, list) or not all(isinstance(token, str) for token in request.history):
        raise SettingError("history", request.history, must="be a list of item tokens")
    if request.held_out is not None and not isinstance(request.held_out, str):
        raise SettingError("held_out", request.held_out, must="be the token of an item")
    if type(request.topk) is not int:
        raise SettingError("topk", request.topk, must="be a whole number")
    if type(request.include_seen) is not bool:
        raise SettingError("include_seen", request.include_seen, must="be true or false")
    if not isinstance(request.settings, list) or [type(one) for one in request.settings] != [dict] * models:
        raise SettingError("settings", request.settings, must=f"be a list of {models} objects, one for each model")
    return request
