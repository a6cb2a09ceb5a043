from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from recbole_diffusion.explore import embedding_map
from recbole_diffusion.explore.embedding_map import EmbeddingMap, item_vectors
from recbole_diffusion.inference import Recommender


def test_spots_are_scikit_learns_principal_components_of_the_directions() -> None:
    from sklearn.decomposition import PCA

    vectors = torch.from_numpy(np.random.default_rng(1).standard_normal((40, 6)).astype(np.float32))
    made = EmbeddingMap(vectors)
    directions = torch.nn.functional.normalize(vectors[1:], dim=1).numpy()
    pca = PCA(2).fit(directions)
    np.testing.assert_allclose(np.abs(made.spots[1:]), np.abs(pca.transform(directions)), atol=1e-5)
    np.testing.assert_allclose(made.share, pca.explained_variance_ratio_, atol=1e-5)
    # A point twice as long lies in the same direction.
    np.testing.assert_allclose(made.place(2 * vectors[3:5]), made.spots[3:5], atol=1e-6)


def test_of_a_large_catalogue_a_part_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    made = EmbeddingMap(torch.randn(11, 4, generator=torch.Generator().manual_seed(0)))
    assert list(made.shown()) == list(range(1, 11))
    monkeypatch.setattr(embedding_map, "MOST_POINTS", 4)
    assert list(made.shown()) == [1, 4, 7, 10]


def test_models_of_every_kind_have_vectors_or_none(loaded: Callable[[str], Recommender]) -> None:
    for model in ("DiffuRec", "SASRec"):
        network = loaded(model).model
        vectors = item_vectors(network)
        assert vectors is not None and vectors.shape == (network.n_items, network.hidden_size)
    assert item_vectors(loaded("Pop").model) is None
