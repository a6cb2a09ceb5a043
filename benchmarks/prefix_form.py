"""ADRec in prefix form, to set against its own form: `--model=benchmarks/prefix_form.py:PrefixADRec`."""

from __future__ import annotations

from typing import ClassVar

from recbole_diffusion.model.adrec import ADRec


class PrefixADRec(ADRec):
    """ADRec with a training row for each interaction but a user's first, of which the newest place alone is restored.

    Network, losses, settings and inference are ADRec's. As at inference, the earlier places hold their items, clean,
    and the decoder's last block is computed for the newest place alone.
    """

    trains_on: ClassVar[str] = "prefixes"
