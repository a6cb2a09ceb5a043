"""Settings and a dataset that are just enough to build a model, without reading data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml

PROPERTIES = Path(__file__).parents[2] / "properties"
FIELDS = {
    "USER_ID_FIELD": "user_id",
    "ITEM_ID_FIELD": "item_id",
    "LIST_SUFFIX": "_list",
    "ITEM_LIST_LENGTH_FIELD": "item_length",
    "NEG_PREFIX": "neg_",
    "MAX_ITEM_LIST_LENGTH": 50,
    "device": torch.device("cpu"),
    "seed": 2020,
}


class Catalogue:
    """A dataset of which only the number of items is asked."""

    def __init__(self, n_items: int) -> None:
        self.n_items = n_items

    def num(self, field: str) -> int:
        return self.n_items


def settings(
    model: str, kind: str = "GaussianRecommender", parents: tuple[str, ...] = (), **changes: Any
) -> dict[str, Any]:
    """The settings of a model's yaml, of those of its parents and of the yaml of its kind, small, with changes."""
    values: dict[str, Any] = {}
    for name in ("DiffusionRecommender", kind, *parents, model):
        text = (PROPERTIES / "model" / f"{name}.yaml").read_text()
        values |= yaml.safe_load(text.replace("1e-12", "1.0e-12"))
    small = {"hidden_size": 16, "inner_size": 64, "n_layers": 2, "diffusion_steps": 16, "noise_schedule": "cosine"}
    return {**FIELDS, **values, **small, **changes}


def batch(histories: list[list[int]], targets: list[int], width: int | None = None) -> dict[str, torch.Tensor]:
    """An interaction with right-padded histories."""
    width = width or max(map(len, histories))
    return {
        "item_id_list": torch.tensor([history + [0] * (width - len(history)) for history in histories]),
        "item_length": torch.tensor([len(history) for history in histories]),
        "item_id": torch.tensor(targets),
    }
