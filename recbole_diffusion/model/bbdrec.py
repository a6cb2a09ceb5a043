"""BBDRec (Bai et al., arXiv 2507.06121): a Brownian bridge in place of ADRec's noise."""

from .adrec import ADRec


class BBDRec(ADRec):
    """ADRec with a Brownian bridge from the next item to the encoder's output: see `ADRec`, `process: bridge`."""
