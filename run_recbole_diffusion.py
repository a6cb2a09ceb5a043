"""Train and test a recommender from the command line; --help says how."""

import sys

from recbole_diffusion.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
