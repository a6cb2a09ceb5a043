"""Where items, histories and states of the reverse process lie, in two dimensions that stay as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..inference.trajectory import directions, embeddings, principal_axes

# More points than these are slow to draw: of a larger catalogue every n-th item is shown.
MOST_POINTS = 4000


def item_vectors(model: Any) -> Tensor | None:
    """The points [V, d] of a model's items; None for a model that has none, such as Pop."""
    if hasattr(model, "output_embeddings"):
        return embeddings(model)
    table = getattr(model, "item_embedding", None)
    return table.weight.detach() if isinstance(table, torch.nn.Embedding) else None


class EmbeddingMap:
    """Directions of a model's items on their two principal axes.

    Parameters
    ----------
    vectors : Tensor [V, d]

    Attributes
    ----------
    points : float Tensor [V, d]
        Directions of the items.
    spots : float array [V, 2]
        Where each item lies; that of the padding means nothing.
    share : list of float
        Of the directions' variance, along each axis.
    """

    def __init__(self, vectors: Tensor) -> None:
        self.points = directions(vectors.float()).cpu()
        self._centre = self.points[1:].double().mean(dim=0)
        found = principal_axes([self.points[1:].double() - self._centre])
        self._axes, self.share = found.axes, found.share.tolist()
        self.spots = self._project(self.points)

    def place(self, x: Any) -> np.ndarray:
        """Where the directions of points x [n, d] lie, [n, 2]."""
        return self._project(directions(torch.as_tensor(x).float().cpu()))

    def _project(self, points: Tensor) -> np.ndarray:
        return ((points.double() - self._centre) @ self._axes).numpy()

    def shown(self) -> range:
        """The items that are drawn as the ground of the map."""
        return range(1, len(self.spots), -(-(len(self.spots) - 1) // MOST_POINTS))
