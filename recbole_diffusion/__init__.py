"""Diffusion models for sequential recommendation, as a plugin of RecBole 1.2.1."""

from __future__ import annotations

from typing import Any

from .common.version import __version__

__all__ = ["Recommender", "__version__", "run"]


def __getattr__(name: str) -> Any:
    # Loaded on demand: RecBole and what it pulls in are not needed for `recbole_diffusion.diffusion`.
    if name in ("run", "Recommender"):
        from .host.registry import require_recbole

        require_recbole()
    if name == "run":
        from .training.run import run

        return run
    if name == "Recommender":
        from .inference import Recommender

        return Recommender
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
