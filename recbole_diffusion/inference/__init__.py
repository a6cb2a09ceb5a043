"""From a saved model to recommendations."""

from __future__ import annotations

from .recommender import Recommender
from .results import Recommendations

__all__ = ["Recommendations", "Recommender"]
