from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from made_data import HEADER, ROWS, load

from recbole_diffusion.errors import SettingError


@pytest.mark.parametrize(
    ("key", "value", "must"),
    [
        ("alias_of_item_id", ["x"], "name columns that are read; x is none of user_id, item_id, timestamp"),
        ("alias_of_user_id", ["user"], "user is none of user_id, item_id, timestamp; did you mean user_id"),
        ("numerical_features", ["price"], "price is none of user_id, item_id, timestamp"),
        ("numerical_features", ["item_id"], "of type float or float_seq; item_id is of type token"),
        ("seq_len", {"itm_id": 3}, "itm_id is none of user_id, item_id, timestamp; did you mean item_id"),
        ("unused_col", {"item": ["price"]}, "name files that are read: inter,"),
        ("unused_col", {"timestamp": ["x"]}, "name files that are read: inter,"),
    ],
)
def test_a_setting_must_name_what_is_read(atomic: Callable[..., str], key: str, value: Any, must: str) -> None:
    path = atomic(inter=f"{HEADER}\n{ROWS}\n")
    with pytest.raises(SettingError, match=f"^{key} must .*{must}"):
        load(path, **{key: value}).build()


def test_settings_that_name_what_is_read_are_taken(atomic: Callable[..., str]) -> None:
    rows = "\n".join(f"{row}\tx y" for row in ROWS.splitlines())
    path = atomic(inter=f"{HEADER}\twords:token_seq\n{rows}\n")
    settings = {"load_col": {"inter": "*"}, "seq_len": {"words": 1}, "alias_of_word": ["words"]}
    dataset = load(path, **settings, unused_col={"inter": ["words"]})
    assert [list(map(str, dataset.id2token("words", row))) for row in dataset.inter_feat["words"][:2]] == [["x"], ["x"]]
    assert all("words" not in part.inter_feat for part in dataset.build())
