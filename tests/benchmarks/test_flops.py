from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import flops
from benchmarks.flops import Network
from benchmarks.scale import catalogue, made_up_batch
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.training.run import build_model

ROWS, ITEMS = 3, 40
SMALL = {"hidden_size": 8, "inner_size": 24, "n_layers": 3, "n_heads": 2, "log_dir": None, "gpu_id": ""}
NETWORK = Network(8, 24, 3)
D = 8

lengths = st.lists(st.integers(1, 50), min_size=1, max_size=8)


def built(model: str, length: int, **settings: Any) -> tuple[Any, Any, Any]:
    """Settings, model and a batch of full rows."""
    config = load_config(model, "made-up", None, {**SMALL, "MAX_ITEM_LIST_LENGTH": length, **settings})
    batch = made_up_batch(config, ITEMS, np.full(ROWS, length))
    return config, build_model(config, catalogue(config, ITEMS)), batch


def counted(action: Any) -> int:
    with FlopCounterMode(display=False) as counter:
        action()
    return counter.get_total_flops()


@pytest.mark.parametrize("length", [1, 7])
def test_diffurec_trains_as_counted(length: int) -> None:
    config, model, batch = built("DiffuRec", length)
    # Of the step's MLP, which the formula leaves out, the first layer hands no gradient on.
    step = ROWS * 2 * 4 * D**2 * (3 + 2)
    done = counted(lambda: model.train().calculate_loss(batch).backward())
    needed = flops.training_work(config, ITEMS, np.full(ROWS, length))
    assert needed is not None and done == step + needed


@pytest.mark.parametrize("length", [1, 7])
def test_diffrec_trains_as_counted(length: int) -> None:
    config, model, batch = built("DiffRec", length)
    done = counted(lambda: model.train().calculate_loss(batch).backward())
    assert done == flops.training_work(config, ITEMS, np.full(ROWS, length))


@pytest.mark.parametrize(("model", "seeds"), [("DiffuRec", 1), ("DiffRec", 1), ("DiffRec", 2)])
@pytest.mark.parametrize("steps", [1, 3])
def test_evaluation_is_as_counted(model: str, seeds: int, steps: int) -> None:
    changes = {"inference_steps": steps, **({"inference_seeds": seeds} if model == "DiffRec" else {})}
    config, network, batch = built(model, 6, **changes)
    # The counter does not know the fused attention of every device.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        done = counted(lambda: network.eval().full_sort_predict(batch))
    step_mlp = steps * ROWS * 2 * 2 * 4 * D**2 if model == "DiffuRec" else 0
    padding_item = seeds * ROWS * 2 * D
    needed = flops.evaluation_work(config, ITEMS, np.full(ROWS, 6))
    assert needed is not None and done == step_mlp + padding_item + needed


def test_sasrec_does_what_is_counted_and_more_where_positions_are_not_read() -> None:
    for length in (1, 6):
        config, model, batch = built("SASRec", length)
        done = counted(lambda m=model, b=batch: m.train().calculate_loss(b).backward())
        needed = flops.training_work(config, ITEMS + 1, np.full(ROWS, length))
        assert needed is not None
        unread = 3 * flops.block(NETWORK, length, length, length**2) - flops.encoder(NETWORK, length, causal=True)
        assert done == needed + 3 * ROWS * unread
        assert (unread == 0) == (length == 1)


def test_bert4rec_trains_as_counted_where_all_is_masked() -> None:
    length = 5
    _, model, batch = built("BERT4Rec", length, mask_ratio=1.0, transform=None)
    batch["Mask_item_id_list"], batch["Pos_item_id"], batch["Neg_item_id"] = [batch["item_id_list"]] * 3
    batch["MASK_INDEX"] = torch.arange(length).repeat(ROWS, 1)
    for key, name in (
        ("MASK_ITEM_SEQ", "Mask_item_id_list"),
        ("POS_ITEMS", "Pos_item_id"),
        ("NEG_ITEMS", "Neg_item_id"),
    ):
        setattr(model, key, name)
    model.MASK_INDEX = "MASK_INDEX"
    done = counted(lambda: model.train().calculate_loss(batch))
    gathering = ROWS * 2 * length * length * D
    # The mask's row of the embedding is no candidate, that of padding is.
    assert done == gathering + ROWS * flops.bert4rec(NETWORK, length, ITEMS + 1, read=length)


def test_bert4rec_ranks_as_counted() -> None:
    config, model, batch = built("BERT4Rec", 1)
    with torch.no_grad():
        done = counted(lambda: model.eval().full_sort_predict(batch))
    assert done == flops.evaluation_work(config, ITEMS + 1, np.ones(ROWS))


def test_published_settings_need_what_is_known_of_beauty() -> None:
    # Mean and standard deviation of the history lengths of its 131,413 training rows, of which all terms are functions.
    mean, deviation = 8.371691, 10.935701
    published = Network(128, 512, 4)
    rows = np.array([mean - deviation, mean + deviation])
    assert 3 * flops.diffurec(published, rows, 12_101).mean() == pytest.approx(42.4e6, abs=0.05e6)
    whole = 4 * flops.block(published, rows, rows, rows**2) + flops.rounding(published, 12_101)
    assert 3 * whole.mean() == pytest.approx(50.0e6, abs=0.05e6)


@given(lengths)
def test_no_position_attends_to_later_ones(rows: list[int]) -> None:
    pairs = sum(np.tril(np.ones((n, n))).sum() for n in rows)
    both = [flops.encoder(NETWORK, rows, causal=causal).sum() for causal in (True, False)]
    assert both[1] - both[0] == (NETWORK.n_layers - 1) * 4 * D * (sum(n**2 for n in rows) - pairs)


@given(lengths, st.integers(1, 32), st.integers(1, 4))
def test_only_the_rounding_is_not_repeated_by_a_step(rows: list[int], steps: int, seeds: int) -> None:
    rounding = flops.rounding(NETWORK, ITEMS)
    one = flops.diffurec(NETWORK, rows, ITEMS) - rounding
    assert np.array_equal(flops.diffurec(NETWORK, rows, ITEMS, steps) - rounding, steps * one)
    single = flops.diffrec(NETWORK, rows, ITEMS, steps)
    assert np.array_equal(flops.diffrec(NETWORK, rows, ITEMS, steps, seeds), seeds * single)


def test_models_without_a_formula_have_none() -> None:
    config = load_config("GRU4Rec", "made-up", None, {"gpu_id": ""})
    assert flops.training_work(config, ITEMS, [3]) is None and flops.evaluation_work(config, ITEMS, [3]) is None


def test_pairwise_training_scores_two_items() -> None:
    config, _, _ = built("SASRec", 4, loss_type="BPR", train_neg_sample_args={"distribution": "uniform"})
    assert flops.training_work(config, ITEMS, [4]) == 3 * float(flops.sasrec(NETWORK, [4], 2).sum())
