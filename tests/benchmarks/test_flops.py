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
from benchmarks.scale import catalogue, made_up_batch
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.training.run import build_model

ROWS, ITEMS = 3, 40
SMALL = {"hidden_size": 8, "inner_size": 24, "n_layers": 3, "n_heads": 2, "log_dir": None, "gpu_id": ""}
D = 8
NO_SETTING = {
    "DreamRec": ("inner_size", "n_layers", "n_heads"),
    "PreferDiff": ("inner_size",),
    "PreferGrow": ("inner_size",),
}

lengths = st.lists(st.integers(1, 50), min_size=1, max_size=8)


def built(model: str, length: int, **settings: Any) -> tuple[Any, Any, Any]:
    """Settings, model and a batch of full rows."""
    sizes = {key: value for key, value in SMALL.items() if key not in NO_SETTING.get(model, ())}
    config = load_config(model, "made-up", None, {**sizes, "MAX_ITEM_LIST_LENGTH": length, **settings})
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
    needed = flops.evaluation_work(config, ITEMS, np.full(ROWS, 6), steps)
    assert needed is not None and done == step_mlp + padding_item + needed


def test_sasrec_does_what_is_counted_and_more_where_positions_are_not_read() -> None:
    for length in (1, 6):
        config, model, batch = built("SASRec", length)
        done = counted(lambda m=model, b=batch: m.train().calculate_loss(b).backward())
        needed = flops.training_work(config, ITEMS + 1, np.full(ROWS, length))
        assert needed is not None
        unread = 3 * flops.block(SMALL, length, length, length**2) - flops.encoder(SMALL, length, causal=True)
        assert done == needed + 3 * ROWS * unread
        assert (unread == 0) == (length == 1)


def test_bert4rec_trains_as_counted_where_all_is_masked() -> None:
    length = 5
    config, model, batch = built("BERT4Rec", length, mask_ratio=1.0)
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
    needed = flops.training_work(config, ITEMS + 1, np.full(ROWS, length), np.full(ROWS, length))
    assert needed is not None and done == gathering + needed / flops.TRAINING


def test_bert4rec_ranks_as_counted() -> None:
    config, model, batch = built("BERT4Rec", 1, mask_ratio=1.0)
    with torch.no_grad():
        done = counted(lambda: model.eval().full_sort_predict(batch))
    assert done == flops.evaluation_work(config, ITEMS + 1, np.ones(ROWS))


def extra(model: str, length: int, **settings: Any) -> tuple[float, float]:
    """What training and ranking do beyond the count, in d² a row."""
    config, network, batch = built(model, length, **settings)
    lengths = np.full(ROWS, length)
    targets = lengths if network.trains_on == "sequences" else np.ones(ROWS)
    training = counted(lambda: network.train().calculate_loss(batch).backward())
    # The counter does not know the fused attention of every device.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        ranking = counted(lambda: network.eval().full_sort_predict(batch))
    needed = (
        flops.training_work(config, ITEMS, lengths, targets),
        flops.evaluation_work(config, ITEMS, lengths, len(network.timesteps)),
    )
    assert None not in needed
    return (training - needed[0]) / (ROWS * D**2), (ranking - needed[1]) / (ROWS * D**2)  # type: ignore[operator]


# In d² a row: the score of the padding item, and a pair of places that do not see each other.
PADDING, PAIR = 2 / D, 4 / D
# An MLP of the step, d to 4d to d, in training, where its first layer hands no gradient on; and in ranking.
STEP_MLP, STEP_MLP_RANKING = 8 * 2 + 8 * 3, 16


def test_dreamrec_does_as_counted_but_for_steps_and_the_vector_without_history() -> None:
    # The step's MLP is d to 2d to d; one layer reads its output; the vector without a history is read once a batch.
    trained, ranked = extra("DreamRec", 6, inference_steps=5)
    assert trained == pytest.approx(4 * 2 + 4 * 3 + 2 * 3 + 2 * 3 / ROWS)
    assert ranked == pytest.approx((2 * 5 * (8 + 2) + 2) / ROWS + PADDING)
    trained, ranked = extra("DreamRec", 6, inference_steps=5, denoiser="mlp2", ce_weight=1.0)
    assert trained == pytest.approx(4 * 2 + 4 * 3 + 4 * 3 + 4 * 3 / ROWS)
    assert ranked == pytest.approx((2 * 5 * (8 + 4) + 4) / ROWS + PADDING)
    trained, ranked = extra("DreamRec", 6, diffusion=False, guidance_scale=0.0)
    assert trained == pytest.approx(2 * 3 / ROWS) and ranked == pytest.approx(PADDING)


@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 0.0), ("ddim", 0.5), ("ddpm", 0.0)])
def test_a_folded_chain_does_as_counted_but_for_folding(sampler: str, eta: float) -> None:
    settings = {"inference_steps": 5, "fold_chain": True, "reverse_sampler": sampler, "ddim_eta": eta}
    folding = 5 * (2 * D + 8 + 2)
    assert extra("DreamRec", 6, **settings)[1] == pytest.approx((folding + 2) / ROWS + PADDING)


def test_preferdiff_restores_two_states_and_more_where_it_is_so_set() -> None:
    step = 4 * 2 + 4 * 3 + 2 * 3
    nothing = 2 * 3 / ROWS
    one_block = {"n_layers": 1, "inference_steps": 5}
    assert extra("PreferDiff", 6, **one_block)[0] == pytest.approx(2 * step + nothing)
    assert extra("PreferDiff", 6, **one_block, objective="negh")[0] == pytest.approx(3 * step + nothing)
    apart = extra("PreferDiff", 6, **one_block, objective="sdpo", train_batch_size=ROWS, distance="l2")[0]
    assert apart == pytest.approx(ROWS * step + nothing)
    # Blocks before the last one compute the pairs of each head twice, and those that do not see each other.
    more = 2 * (2 * PAIR * 6**2 - PAIR * 6 * 7 / 2)
    trained, ranked = extra("PreferDiff", 6, inference_steps=5)
    assert trained == pytest.approx(2 * step + nothing + 3 * more)
    assert ranked == pytest.approx(more + (2 * 5 * (8 + 2) + 2) / ROWS + PADDING)


def test_preferdiff_ranks_with_the_steps_of_its_own_chain() -> None:
    network = built("PreferDiff", 6, ddim_stride=500, diffusion_steps=1000)[1]
    assert len(network.timesteps) == 3
    ranked = extra("PreferDiff", 6, n_layers=1, ddim_stride=500, diffusion_steps=1000)[1]
    assert ranked == pytest.approx((2 * 3 * (8 + 2) + 2) / ROWS + PADDING)


@pytest.mark.parametrize("model", ["ADRec", "BBDRec"])
@pytest.mark.parametrize("length", [1, 6])
def test_adrec_trains_every_place_as_counted(model: str, length: int) -> None:
    steps = built(model, length)[0]["diffusion_steps"]
    unseen = PAIR * (length**2 - length * (length + 1) / 2)
    trained, _ = extra(model, length, decoder_layers=2)
    assert trained == pytest.approx(steps * STEP_MLP / ROWS + 3 * (3 + 2) * unseen)
    trained, _ = extra(model, length, decoder="mlp")
    assert trained == pytest.approx(steps * STEP_MLP / ROWS + 3 * 3 * unseen)
    trained, _ = extra(model, length, decoder_layers=2, causal=False)
    assert trained == pytest.approx(steps * STEP_MLP / ROWS)


@pytest.mark.parametrize("inference_steps", [1, 3])
def test_adrec_ranks_as_counted_but_for_the_newest_place(inference_steps: int) -> None:
    length, settings = 6, {"decoder_layers": 2, "inference_steps": inference_steps}
    # The table of all 32 steps, at each step and for the earlier places.
    table = (1 + inference_steps) * 32 * STEP_MLP_RANKING / ROWS
    unseen = 3 * PAIR * (length**2 - length * (length + 1) / 2)
    one_more = (flops.block(SMALL, 6, 6, 36) - flops.block(SMALL, 5, 5, 15)) / D**2
    # Keys and values of the block before the last are computed twice, those of the last for the newest place too.
    assert extra("ADRec", length, **settings)[1] == pytest.approx(table + unseen + one_more + 4 * 6 + 4 + PADDING)
    assert extra("ADRec", length, **settings, causal=False)[1] == pytest.approx(table + PADDING)


def test_fmrec_does_as_counted_but_computes_the_whole_table_of_a_small_catalogue() -> None:
    trained, ranked = extra("FMRec", 6, decoder_sizes=[5, 7], decoder_depth=1, inference_steps=3)
    table = 2 * 7 * (ITEMS + 1 - 2 * 6) / D**2
    assert trained == pytest.approx(STEP_MLP + 3 * table)
    assert ranked == pytest.approx(3 * STEP_MLP_RANKING + PADDING)
    assert extra("FMRec", 6, decoder_weight=0.0, decoder_depth=1)[0] == pytest.approx(STEP_MLP)


@pytest.mark.parametrize("length", [1, 6])
def test_rfmrec_does_as_counted_but_for_times_and_places_that_are_not_read(length: int) -> None:
    unseen = PAIR * (length**2 - length * (length + 1) / 2)
    unread = (flops.all_places(SMALL, np.array(length), 3, False) - flops.encoder(SMALL, length, causal=True)) / D**2
    trained, ranked = extra("RFMRec", length, inference_steps=2)
    assert trained == pytest.approx(length * (STEP_MLP + 8 * 3) + 3 * 3 * unseen)
    assert ranked == pytest.approx(2 * (STEP_MLP_RANKING + 8) + unread + PADDING)
    trained, ranked = extra("RFMRec", length, diffusion=False)
    assert trained == pytest.approx(3 * 3 * unseen) and ranked == pytest.approx(unread + PADDING)


def test_prefergrow_does_as_counted_but_for_sigma_and_the_history_read_again() -> None:
    trained, ranked = extra("PreferGrow", 6, n_layers=1, inference_steps=4)
    # The encoding of σ has 256 numbers.
    sigma = 512 / D
    # The mean embedding by the prior, once a batch.
    mean = 2 * 2 * (ITEMS + 1) / (ROWS * D)
    assert trained == pytest.approx(2 * sigma + 2 * 3 + 2 * 3 + mean)
    assert ranked == pytest.approx(8 * (sigma + 2 + 2) + 7 * 2 + 4 * PADDING)
    trained, ranked = extra("PreferGrow", 6, n_layers=1, diffusion=False, guidance_scale=0.0)
    assert trained == pytest.approx(4 * 3) and ranked == pytest.approx(4 + PADDING)


def test_a_step_without_gradient_and_gradients_of_two_losses_are_counted() -> None:
    plain, both = (extra("DreamRec", 6, consistency_weight=weight)[0] for weight in (0.0, 1.0))
    # The step before has its MLP too.
    assert both - plain == pytest.approx(8 + 2)
    plain, both = (extra("ADRec", 6, decoder_layers=2, pcgrad=switch)[0] for switch in (False, True))
    # Backward once more: the table of the 32 steps' MLP, and the pairs that do not see each other.
    assert both - plain == pytest.approx(32 * (8 + 16) / ROWS + 2 * (3 + 2) * PAIR * 15)


@pytest.mark.parametrize("steps", [1, 4])
def test_only_ranking_is_not_repeated_by_a_step(steps: int) -> None:
    config = built("DiffRec", 6, inference_seeds=3)[0]
    single = built("DiffRec", 6)[0]
    one, many = (flops.evaluation_work(each, ITEMS, [2, 5], steps) for each in (single, config))
    assert one is not None and many == 3 * one
    first = flops.evaluation_work(single, ITEMS, [2, 5], 1)
    assert first is not None
    ranking = 2 * flops.rounding(SMALL, ITEMS)
    assert one - ranking == steps * (first - ranking)


def test_published_settings_need_what_is_known_of_beauty() -> None:
    # Mean and standard deviation of the history lengths of its 131,413 training rows, of which all terms are functions.
    mean, deviation = 8.371691, 10.935701
    published = load_config("DiffuRec", "made-up", None, {"gpu_id": ""})
    rows = np.array([mean - deviation, mean + deviation])
    needed = flops.training_work(published, 12_101, rows)
    assert needed is not None and needed / 2 == pytest.approx(42.4e6, abs=0.05e6)
    whole = flops.all_places(published, rows, 4, causal=False) + flops.rounding(published, 12_101)
    assert 3 * whole.mean() == pytest.approx(50.0e6, abs=0.05e6)


@given(lengths)
def test_no_position_attends_to_later_ones(rows: list[int]) -> None:
    pairs = sum(np.tril(np.ones((n, n))).sum() for n in rows)
    both = [flops.encoder(SMALL, rows, causal=causal).sum() for causal in (True, False)]
    assert both[1] - both[0] == (SMALL["n_layers"] - 1) * 4 * D * (sum(n**2 for n in rows) - pairs)


def test_models_without_a_formula_have_none() -> None:
    config = load_config("GRU4Rec", "made-up", None, {"gpu_id": ""})
    assert flops.training_work(config, ITEMS, [3]) is None and flops.evaluation_work(config, ITEMS, [3]) is None


def test_pairwise_training_scores_two_items() -> None:
    config, _, _ = built("SASRec", 4, loss_type="BPR", train_neg_sample_args={"distribution": "uniform"})
    encoded = flops.encoder(SMALL, [4], causal=True).sum()
    assert flops.training_work(config, ITEMS, [4]) == 3 * (encoded + flops.rounding(SMALL, 2))
