from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from saved_models import Saved

from recbole_diffusion.inference import Recommender
from recbole_diffusion.inference.sampling import overridden, with_settings


@pytest.mark.parametrize(
    ("model", "changes"),
    [
        ("DiffuRec", {"noise_scale": 2.0}),
        ("DreamRec", {"guidance_scale": 5.0, "noise_scale": 0.5}),
        ("ADRec", {"guidance_scale": 0.5, "noise_scale": 3.0}),
        ("PreferGrow", {"guidance_scale": 3.0}),
    ],
)
def test_settings_in_a_context_are_those_given_at_loading(
    saved: Callable[..., Saved], model: str, changes: dict[str, Any]
) -> None:
    checkpoint = saved(model, **({"guidance_drop": 0.1} if model == "ADRec" else {})).path
    recommender = Recommender.load(checkpoint, device="cpu")
    expected = Recommender.load(checkpoint, device="cpu", settings=changes).recommend(["50", "258"])
    plain = recommender.recommend(["50", "258"])
    with with_settings(recommender.model, changes):
        given = recommender.recommend(["50", "258"])
    np.testing.assert_array_equal(given.scores, expected.scores)
    assert given.items.tolist() == expected.items.tolist()
    assert (plain.scores != given.scores).any()
    np.testing.assert_array_equal(recommender.recommend(["50", "258"]).scores, plain.scores)


def test_the_models_own_number_of_steps_is_its_own_chain(saved: Callable[..., Saved]) -> None:
    chain = {"reverse_sampler": "ddim", "ddim_stride": 50, "fold_chain": False}
    recommender = Recommender.load(saved("PreferDiff", **chain).path, device="cpu")
    own = recommender.model.timesteps
    with overridden(recommender.model, len(own), seed=None):
        assert recommender.model.timesteps == own
    with overridden(recommender.model, 4, seed=None):
        assert len(recommender.model.timesteps) == 4
    assert recommender.model.timesteps == own
