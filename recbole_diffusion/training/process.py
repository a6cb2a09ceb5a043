"""What a run changes for its whole process, and how it is given back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..host.compat import anomaly_detection_as_found
from .checkpoint import random_state, set_random_state
from .threads import use_threads


def compute_as_set(config: Any) -> None:
    """Compute with the threads and the precision that the settings say, from here on."""
    use_threads(config["threads"])
    torch.set_float32_matmul_precision(config["float32_matmul_precision"])


@contextmanager
def process_as_found() -> Iterator[None]:
    """Leave random states, threads, precision, cuDNN's choices and anomaly detection as found, after an error too.

    RecBole's `init_seed` sets the seeds of Python, NumPy and torch and makes cuDNN deterministic; importing its
    sequential models turns torch's anomaly detection on.
    """
    cudnn = torch.backends.cudnn
    random, chosen = random_state(), (cudnn.deterministic, cudnn.benchmark)
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        with anomaly_detection_as_found():
            yield
    finally:
        set_random_state(random)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)
        cudnn.deterministic, cudnn.benchmark = chosen
