"""BBDRec (Bai et al.: "Brownian bridge diffusion for sequential recommendation", arXiv 2507.06121)."""

from .adrec import ADRec


class BBDRec(ADRec):
    """ADRec with a Brownian bridge from the next item to what the encoder says: see `ADRec`, `process: bridge`."""
