from __future__ import annotations

import json

import numpy as np

from recbole_diffusion.inference.certainty import Certainty
from recbole_diffusion.inference.results import Recommendations, joined

ITEMS = np.array([["a", "b"], ["c", None]], dtype=object)
SCORES = np.array([[0.1, 0.2], [0.3, np.nan]], dtype=np.float32)
TITLES = np.array([["A", "B"], ["C", ""]], dtype=object)
SURE = Certainty(SCORES, SCORES, SCORES, SCORES[:, 0], SCORES[:, 0])  # type: ignore[arg-type]
GIVEN = Recommendations(["u", "v"], ITEMS, SCORES, TITLES, SURE)


def test_a_frame_has_a_row_an_item() -> None:
    frame = GIVEN.to_frame()
    assert frame["user"].tolist() == ["u", "u", "v"] and frame["rank"].tolist() == [1, 2, 1]
    assert frame["item"].tolist() == ["a", "b", "c"] and frame["title"].tolist() == ["A", "B", "C"]
    np.testing.assert_array_equal(frame["share"], SCORES.ravel()[:3])
    np.testing.assert_array_equal(frame["entropy"], SCORES[[0, 0, 1], 0])
    plain = Recommendations(["u", "v"], ITEMS, SCORES)
    assert plain.to_frame().columns.tolist() == ["user", "rank", "item", "score"]


def test_records_are_plain_data() -> None:
    first, second = json.loads(json.dumps(list(GIVEN.records())))
    assert first["scores"] == [0.1, 0.2] and first["titles"] == ["A", "B"] and first["distance"] == 0.1
    assert second == {
        **{"user": "v", "items": ["c"], "scores": [0.3], "titles": ["C"], "share": [0.3], "mean": [0.3]},
        **{"spread": [0.3], "distance": 0.3, "entropy": 0.3},
    }


def test_parts_are_joined_and_reordered() -> None:
    whole = joined([GIVEN, GIVEN]).reordered(np.array([3, 0]))
    assert whole.users == ["v", "u"] and whole.items.tolist() == [["c", None], ["a", "b"]]
    assert whole.titles is not None and whole.titles.tolist() == [["C", ""], ["A", "B"]]
    assert whole.certainty is not None
    np.testing.assert_array_equal(whole.certainty.mean, SCORES[[1, 0]])
    np.testing.assert_array_equal(whole.certainty.distance, SCORES[[1, 0], 0])
