from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from recbole.data.interaction import Interaction
from recbole.model.sequential_recommender import SASRec
from recboles_layer import give_weights

from recbole_diffusion.host.settings import load_config
from recbole_diffusion.inference.restoring import DatasetSizes
from recbole_diffusion.model.sasrecplus import SASRecPlus
from recbole_diffusion.training.run import prepare

SMALL = {"hidden_size": 8, "inner_size": 16, "n_heads": 2, "MAX_ITEM_LIST_LENGTH": 7}
SIZES = DatasetSizes(3, 20, "item_id")
# Histories, padded on the right, and the items that follow.
ITEMS = torch.tensor([[3, 4, 5, 6, 7, 8, 9], [5, 0, 0, 0, 0, 0, 0], [6, 7, 8, 0, 0, 0, 0]])
LENGTH, LAST = torch.tensor([7, 1, 3]), torch.tensor([10, 11, 12])


def make(**changes: Any) -> SASRecPlus:
    torch.manual_seed(0)
    config = load_config("SASRecPlus", "ml-100k", None, {**SMALL, **changes})
    # Weights as small as they start would hide a difference.
    model = SASRecPlus(config, SIZES).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model


def batch(items: torch.Tensor, length: torch.Tensor, last: torch.Tensor) -> Interaction:
    return Interaction({"item_id_list": items, "item_length": length, "item_id": last})


def recboles(model: SASRecPlus) -> SASRec:
    """RecBole's SASRec with the weights of a model."""
    config = load_config("SASRec", "ml-100k", None, {**SMALL, "train_neg_sample_args": None})
    plain = SASRec(config, SIZES).double().eval()
    plain.item_embedding, plain.position_embedding = model.item_embedding, model.place_embedding
    plain.LayerNorm = model.input_norm
    for layer, block in zip(plain.trm_encoder.layer, model.encoder.blocks, strict=True):
        give_weights(layer, block)
    return plain


@torch.no_grad()
def test_in_evaluation_it_is_recboles_sasrec() -> None:
    model = make()
    interaction = batch(ITEMS, LENGTH, LAST)
    plain = recboles(model)
    torch.testing.assert_close(model.full_sort_predict(interaction), plain.full_sort_predict(interaction))


def test_the_loss_is_the_mean_over_the_losses_of_all_prefixes() -> None:
    model = make()
    prefixes, targets = [], []
    for items, length, last in zip(ITEMS.tolist(), LENGTH.tolist(), LAST.tolist(), strict=True):
        for end in range(1, length + 1):
            prefixes.append(items[:end] + [0] * (7 - end))
            targets.append(items[end] if end < length else last)
    rows = batch(torch.tensor(prefixes), (torch.tensor(prefixes) > 0).sum(dim=1), torch.tensor(targets))
    scores = model.full_sort_predict(rows)[:, 1:]
    expected = F.cross_entropy(scores, rows["item_id"] - 1)
    torch.testing.assert_close(model.calculate_loss(batch(ITEMS, LENGTH, LAST)), expected)


def test_no_place_sees_a_later_one() -> None:
    model = make()
    before = model.encode(ITEMS)
    changed = ITEMS.clone()
    changed[0, 4:] = 15
    after = model.encode(changed)
    torch.testing.assert_close(after[0, :4], before[0, :4])
    assert not torch.allclose(after[0, 4:], before[0, 4:])


def test_an_epoch_has_each_interaction_but_a_users_first_as_a_target_once() -> None:
    settings = {"MAX_ITEM_LIST_LENGTH": 15, "log_dir": None, "tensorboard_dir": None, "show_progress": False}
    made = prepare(load_config("SASRecPlus", "ml-100k", None, settings))
    targets = sum(int(rows["item_length"].sum()) for rows in made.train_data)
    # Without the last two of each of 943 users, and the first.
    assert targets == 100_000 - 3 * 943


@pytest.mark.parametrize("length", [5, 7])
def test_rows_as_long_as_the_batch_need_are_enough(length: int) -> None:
    model = make()
    rows = batch(ITEMS[1:, :length], LENGTH[1:], LAST[1:])
    torch.testing.assert_close(model.calculate_loss(rows), model.calculate_loss(batch(ITEMS[1:], LENGTH[1:], LAST[1:])))
