"""A small dataset of atomic files, and how to load one."""

from __future__ import annotations

from typing import Any

from recbole.data import create_dataset

from recbole_diffusion.config import load_config

HEADER = "user_id:token\titem_id:token\ttimestamp:float"
ROWS = "\n".join(f"u{user}\ti{item}\t{item}" for user in range(3) for item in range(1, 6))


def load(data_path: str, model: str = "SASRec", dataset: str = "made", **settings: Any) -> Any:
    return create_dataset(load_config(model, dataset, None, {"data_path": data_path, **settings}))
