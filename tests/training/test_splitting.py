"""Where items can be split over processes, and where one line says why not; test_processes.py splits them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from made_data import SMALL_RUN

from recbole_diffusion.errors import SettingError, UserError
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.inference.restoring import DatasetSizes
from recbole_diffusion.model.diffurec import DiffuRec
from recbole_diffusion.training.distributed import Group, as_present
from recbole_diffusion.training.run import build_model
from recbole_diffusion.training.splitting import _in_file, split_items

ITEMS = 30


class Own(DiffuRec):
    """A model of a user's, who may score the items in a way of their own."""


def split(model: Any, items: int = ITEMS, number: int = 3, **settings: Any) -> Any:
    config = load_config(model, "made", None, {**SMALL_RUN, "split_items": True, **settings})
    built = build_model(config, DatasetSizes(1, items + 1, config["ITEM_ID_FIELD"]))
    # The last of them, without a word to the others.
    with as_present(Group(number - 1, number, None)):  # type: ignore[arg-type]
        split_items(config, built)
    return built


def test_the_last_of_three_processes_keeps_the_last_items() -> None:
    model = split("DiffuRec")
    assert model.own_items.rows == slice(20, 31) and len(model.item_embedding.weight) == 11
    assert model.item_embedding.num_embeddings == 31 and model.item_embedding.elsewhere == 20 * 16
    assert split("DiffuRec", split_items=False).own_items is None


@pytest.mark.parametrize(
    ("model", "settings", "why"),
    (
        ("SASRec", {}, "for SASRec, which does not say that its items can be split"),
        ("FMRec", {"n_layers": 3}, "for FMRec, which does not say that its items can be split"),
        (Own, {}, "for Own, which does not say that its items can be split"),
        ("DiffRec", {"rounding": "linear"}, "with rounding=linear"),
        ("ADRec", {"pcgrad": True}, "with pcgrad=True"),
        ("DiffuRec", {"clip_grad_norm": {"max_norm": 1.0}}, r"with clip_grad_norm={'max_norm': 1.0}"),
        ("DiffuRec", {"eval_args": {"mode": "uni20"}}, "where eval_args.mode is not full"),
        (
            "DiffuRec",
            {"metrics": ["GAUC", "NDCG"], "eval_args": {"mode": {"valid": "full", "test": "full"}}},
            "with a metric that reads the scores of all items",
        ),
    ),
)
def test_what_needs_all_items_in_one_process(model: Any, settings: dict[str, Any], why: str) -> None:
    with pytest.raises(SettingError) as caught:
        split(model, **settings)
    assert str(caught.value) == f"split_items must be False {why}, got True"


def test_a_folder_without_room(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no checkpoint can be written there \(No such file or directory\)"):
        _in_file(tmp_path / "nowhere", (2, 3), torch.float32)
    rows = _in_file(tmp_path, (2, 3), torch.float32)
    rows[:] = torch.arange(3.0)
    assert rows.sum() == 6 and not list(tmp_path.iterdir())


def test_a_catalogue_that_is_too_small() -> None:
    with pytest.raises(SettingError, match="must be False with fewer than 6 items for 3 processes"):
        split("DiffuRec", items=4)
