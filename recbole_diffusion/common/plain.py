"""States and settings as plain data, which torch's safe loader and json read."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def plain(value: Any, where: str = "state") -> Any:
    """Turn a state into what torch's safe loader reads: None, bool, int, float, str, tensor, dict, list, tuple.

    NumPy's scalars become Python's and its arrays tensors; enums, devices, dtypes and paths become strings.

    Raises
    ------
    TypeError
        For anything else, naming where in the state it stands.
    """
    # By exact type: an np.float64 is a float too, but not to the safe loader.
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        tensor = value.detach().cpu()
        # A view would be saved with all of the storage that it looks into.
        part = tensor.layout == torch.strided and tensor.untyped_storage().nbytes() > tensor.nbytes
        return tensor.clone() if part else tensor
    if isinstance(value, Enum | torch.device | torch.dtype | Path):
        return str(value)
    if isinstance(value, np.generic):
        return plain(value.item(), where)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(np.array(value))
    if isinstance(value, Mapping):
        return {plain(k, f"key of {where}"): plain(v, f"{where}[{k!r}]") for k, v in value.items()}
    if isinstance(value, list | tuple):
        items = [plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
        return tuple(items) if isinstance(value, tuple) else items
    raise TypeError(f"{where} is a {type(value).__name__}, which no checkpoint can hold")
