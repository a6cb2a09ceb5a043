"""From atomic files to batches."""

from __future__ import annotations

from .. import compat

compat.apply()

from .dataset import build_dataset  # noqa: E402
from .loaders import build_loaders  # noqa: E402

__all__ = ["build_dataset", "build_loaders"]
