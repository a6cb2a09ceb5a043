"""A dataset that was written and mapped is the same dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_data import SMALL_RUN

from recbole_diffusion.errors import UserError
from recbole_diffusion.host import shared_data
from recbole_diffusion.host.dataset import build_dataset
from recbole_diffusion.host.loaders import build_loaders, split
from recbole_diffusion.host.settings import load_config


def read() -> tuple[Any, shared_data.SplitData]:
    config = load_config("DiffuRec", "ml-100k", None, SMALL_RUN)
    dataset = build_dataset(config)
    return config, shared_data.SplitData(dataset, split(config, dataset), {"a": 1})


def test_a_mapped_dataset_gives_the_same_batches(tmp_path: Path) -> None:
    config, data = read()
    expected = [list(loader) for loader in build_loaders(config, data.whole, data.parts)]
    tokens, ids = data.whole.field2id_token["item_id"], data.whole.field2token_id["item_id"]
    shared_data.save(tmp_path / "data", data)
    mapped = shared_data.load(tmp_path / "data", config)
    (tmp_path / "data").unlink()
    assert mapped.facts == {"a": 1} and mapped.whole.config is mapped.parts[0].config is config
    assert mapped.parts[0].inter_feat.sequences is mapped.parts[2].inter_feat.sequences
    for loader, batches in zip(build_loaders(config, mapped.whole, mapped.parts), expected, strict=True):
        for mine, other in zip(loader, batches, strict=True):
            # Batches of evaluation come with where their targets are.
            mine, other = (batch[0] if isinstance(batch, tuple) else batch for batch in (mine, other))
            assert all(torch.equal(mine[name], other[name]) for name in other)
    assert np.array_equal(mapped.whole.field2id_token["item_id"], tokens)
    assert dict(mapped.whole.field2token_id["item_id"]) == ids
    assert mapped.whole.token2id("item_id", tokens[3]) == 3 and "no such item" not in mapped.whole.field2token_id


def test_a_folder_without_room(tmp_path: Path) -> None:
    _, data = read()
    with pytest.raises(UserError, match=r"the data cannot be written \(.*\); TMPDIR names another folder"):
        shared_data.save(tmp_path / "nowhere" / "data", data)
