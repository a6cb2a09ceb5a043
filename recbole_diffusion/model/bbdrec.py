"""BBDRec (Bai et al., arXiv 2507.06121): a Brownian bridge in place of ADRec's noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .adrec import ADRec


class BBDRec(ADRec):
    """ADRec with a Brownian bridge from the next item to the encoder's output: see `ADRec`, `process: bridge`."""

    records_steps = True
    splits_items: ClassVar[Mapping[str, Any] | None] = ADRec.splits_items
