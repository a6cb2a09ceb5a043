"""Settings of tiny models on ml-100k, and a checkpoint that an older version wrote."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

SMALL = {
    "user_inter_num_interval": "[0,30]",
    "epochs": 1,
    "hidden_size": 16,
    "inner_size": 32,
    "n_layers": 1,
    "n_heads": 2,
    # Far above the published value, so that the noise shows.
    "lambda_uncertainty": 0.3,
    "show_progress": False,
    "log_dir": None,
    "tensorboard_dir": None,
}
# Written by version 0.1.0 on ml-100k, users of at most 22 interactions, items of at least 3.
OLD = Path(__file__).with_name("DiffuRec-0.1.pth")


class Saved(NamedTuple):
    """A checkpoint, and what its test gave."""

    path: Path
    test_result: dict[str, float]
