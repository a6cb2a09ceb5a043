from __future__ import annotations

import pytest

from recbole_diffusion.errors import UserError
from recbole_diffusion.inference.vocabulary import Vocabulary

TOKENS = ["[PAD]", "b07", "7", "B01LYX"]


def test_ids_of_tokens_and_numbers() -> None:
    known = Vocabulary(TOKENS)
    assert len(known) == 3
    assert known.ids(["7", 7, " b07 "]).tolist() == [2, 2, 1]
    assert known.ids(["x", "7"], skip_unknown=True).tolist() == [2]


def test_spaces_and_commas_of_an_id_count_where_it_has_them() -> None:
    known = Vocabulary(["[PAD]", " a", "a", "b ", "c, d"])
    assert known.ids([" a", "a", "a ", "b ", " b", "c, d"], skip_unknown=True).tolist() == [1, 2, 2, 3, 4]


@pytest.mark.parametrize(
    ("history", "message"),
    [
        (["B01LYY"], "item 'B01LYY': not among the 3 items that the model knows; did you mean B01LYX?"),
        (["[PAD]"], r"item '\[PAD\]': not among the 3 items"),
        ([], "a history must hold at least one item; it is empty"),
    ],
)
def test_items_that_are_not_known(history: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Vocabulary(TOKENS).ids(history)


def test_items_go_by_their_title_where_they_have_one() -> None:
    known = Vocabulary(TOKENS)
    assert known.names().tolist() == TOKENS
    assert known.entitle({"7": "seven", "8": "eight"}) == 1
    assert known.names().tolist() == ["[PAD]", "b07", "seven", "B01LYX"]
    assert Vocabulary(TOKENS, ["", "x", "", ""]).names().tolist() == ["[PAD]", "x", "7", "B01LYX"]
