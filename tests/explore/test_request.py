from __future__ import annotations

from typing import Any

import pytest

from recbole_diffusion.errors import UserError
from recbole_diffusion.explore.request import Request, read_request


def test_what_is_left_out_has_a_default() -> None:
    assert read_request({}, 2) == Request([], None, 10, False, [{}, {}])
    given = {"history": ["1"], "held_out": "2", "topk": 3, "include_seen": True, "settings": [{"seed": 4}]}
    assert read_request(given, 1) == Request(["1"], "2", 3, True, [{"seed": 4}])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "a request must be a json object"),
        ({"histroy": []}, "histroy must be one of history, "),
        ({"history": "1"}, "history must be a list of item tokens, got '1'"),
        ({"history": [1]}, "history must be a list of item tokens"),
        ({"held_out": 7}, "held_out must be the token of an item, got 7"),
        ({"topk": True}, "topk must be a whole number, got True"),
        ({"topk": 2.5}, "topk must be a whole number"),
        ({"include_seen": 1}, "include_seen must be true or false"),
        ({"settings": [{}]}, "settings must be a list of 2 objects, one for each model"),
        ({"settings": [{}, []]}, "settings must be a list of 2 objects"),
    ],
)
def test_data_of_another_form_is_named(given: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_request(given, 2)
