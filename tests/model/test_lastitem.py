from __future__ import annotations

from typing import Any

import pytest
import torch

from recbole_diffusion.host.settings import load_config
from recbole_diffusion.inference.restoring import DatasetSizes
from recbole_diffusion.model.lastitem import LastItem


def make(**changes: Any) -> LastItem:
    config = load_config("LastItem", "ml-100k", None, {"hidden_size": 8, **changes})
    return LastItem(config, DatasetSizes(3, 20, "item_id"))


def scores(model: LastItem, items: list[list[int]], length: list[int]) -> torch.Tensor:
    return model.full_sort_predict({"item_id_list": torch.tensor(items), "item_length": torch.tensor(length)})


@pytest.mark.parametrize("shared", [True, False])
def test_nothing_but_the_last_item_counts(shared: bool) -> None:
    model = make(shared_vectors=shared).eval()
    by_three = scores(model, [[5, 3, 9, 0], [9, 9, 9, 7], [9, 0, 0, 0]], [3, 3, 1])
    assert torch.equal(by_three[0], by_three[1]) and torch.equal(by_three[0], by_three[2])
    assert not torch.equal(by_three[0], scores(model, [[5, 9, 3]], [3])[0])


def test_with_one_table_scores_are_symmetric_and_with_two_they_are_not() -> None:
    everyone = [[item] for item in range(20)], [1] * 20
    one, two = scores(make().eval(), *everyone), scores(make(shared_vectors=False).eval(), *everyone)
    torch.testing.assert_close(one, one.T)
    assert (two - two.T).abs().max() > 1e-4
    assert len(list(make().parameters())) == 1 and len(list(make(shared_vectors=False).parameters())) == 2


def test_the_dropout_is_that_of_the_key() -> None:
    model = make(embedding_dropout_prob=0.5, hidden_size=4000)
    read = model.read(torch.full((1, 1), 4), torch.ones(1, dtype=torch.int64))[0]
    assert 0.45 < (read == 0).float().mean() < 0.55
    kept = read != 0
    torch.testing.assert_close(read[kept], 2 * model.item_embedding.weight[4][kept])
