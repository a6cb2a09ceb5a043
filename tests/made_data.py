"""A small dataset of atomic files, and how to load one."""

from __future__ import annotations

from typing import Any

from recbole.data import create_dataset

from recbole_diffusion.host.settings import load_config

HEADER = "user_id:token\titem_id:token\ttimestamp:float"
ROWS = "\n".join(f"u{user}\ti{item}\t{item}" for user in range(3) for item in range(1, 6))


def load(data_path: str, model: str = "SASRec", dataset: str = "made", **settings: Any) -> Any:
    return create_dataset(load_config(model, dataset, None, {"data_path": data_path, **settings}))


# A run on ml-100k that takes a second: few users, short histories, a small network, nothing written but checkpoints.
SMALL_RUN = {
    "user_inter_num_interval": "[27,30]",
    "MAX_ITEM_LIST_LENGTH": 10,
    "train_batch_size": 200,
    "eval_batch_size": 50,
    "metric_decimal_place": 8,
    "hidden_size": 16,
    "inner_size": 32,
    "n_layers": 1,
    "n_heads": 2,
    "log_dir": None,
    "tensorboard_dir": None,
    "gpu_id": "",
}
