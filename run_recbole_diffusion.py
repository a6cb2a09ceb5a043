"""Train, compare and tune recommenders from the command line; --help lists the flags."""

import sys

from recbole_diffusion.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
