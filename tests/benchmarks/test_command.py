from __future__ import annotations

import pytest

from benchmarks.command import whole_numbers
from recbole_diffusion.errors import SettingError


def test_numbers_of_a_flag_are_different_and_ascending() -> None:
    assert whole_numbers("steps", "4,1, 2,4", (7,)) == whole_numbers("steps", "[1,2,4]", (7,)) == [1, 2, 4]
    assert whole_numbers("steps", None, (7, 3)) == [7, 3]


@pytest.mark.parametrize("text", ["", "0,3", "2,x", "-1", "1.5", "1,,2"])
def test_what_is_no_positive_number_is_one_line(text: str) -> None:
    with pytest.raises(SettingError, match=r"^steps must be positive whole numbers, such as 1,2,4, got "):
        whole_numbers("steps", text, ())
