from __future__ import annotations

import pytest

from recbole_diffusion.explore.search import ItemSearch, beginning_with
from recbole_diffusion.inference.vocabulary import Vocabulary

TITLES = ["", "Stargate", "Star Wars", "Lone Star", "Bastard", "The Wars of Stars", "<b>Star</b>", ""]
SEARCH = ItemSearch(Vocabulary(["[PAD]", *"abcdef", "star7"], TITLES))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Whole words first, at the beginning before within; then parts of words.
        ("star", [2, 1, 7, 3, 6, 5, 4]),
        ("STAR  wars ", [2, 5]),
        ("wars star", [2, 5]),
        # The token itself; no title has the letter.
        ("c", [3]),
        ("<b>", [6]),
        (".*", []),
        ("pad", []),
        ("", []),
        ("  ", []),
    ],
)
def test_items_are_found_by_title_and_token(text: str, expected: list[int]) -> None:
    found = SEARCH.find(text)
    assert found == expected
    assert SEARCH.find(text, limit=1) == expected[:1]


def test_users_are_found_by_the_beginning() -> None:
    assert beginning_with("1", ["21", "110", "1", "12", "11"]) == ["1", "11", "12", "110"]
    assert beginning_with("", map(str, range(50)), limit=3) == ["0", "1", "2"]
