"""`python -m recbole_diffusion`: the script, for where only the package is installed."""

from __future__ import annotations

import sys

from .cli.train import main

if __name__ == "__main__":
    sys.exit(main())
