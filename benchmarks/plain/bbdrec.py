"""BBDRec in plain code."""

from __future__ import annotations

from benchmarks.plain.adrec import PlainADRec
from recbole_diffusion.model.bbdrec import BBDRec


class PlainBBDRec(PlainADRec, BBDRec):
    """BBDRec: as in its authors' code ADRec with another process."""
