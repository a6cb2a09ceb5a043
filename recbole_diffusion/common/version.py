"""The version of this package, which records and checkpoints hold too: every room may ask for it."""

from __future__ import annotations

__version__ = "0.1.0"
