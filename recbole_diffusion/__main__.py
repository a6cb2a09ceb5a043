"""`python -m recbole_diffusion`: the command `recbole-diffusion`."""

from __future__ import annotations

import sys

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
