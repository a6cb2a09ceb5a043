from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from made_data import HEADER, ROWS, SMALL_RUN, load
from recbole.data import create_dataset
from recbole.data.interaction import Interaction
from recbole.evaluator import Collector

from recbole_diffusion.errors import UserError
from recbole_diffusion.host import compat
from recbole_diffusion.host.loaders import build_loaders
from recbole_diffusion.host.settings import load_config


def test_applying_twice_changes_nothing_more() -> None:
    from recbole.data.dataset import Dataset

    before = dict(vars(Dataset))
    compat.apply()
    assert dict(vars(Dataset)) == before


def test_recbole_starts_without_ray_and_without_a_warning() -> None:
    code = (
        "import sys, warnings; warnings.simplefilter('error'); sys.modules['ray'] = None\n"
        "from recbole_diffusion.host import compat; compat.apply()\n"
        "import numpy as np\n"
        "assert np.float is np.float64 and np.long(3) == 3 and np.bool is np.bool_ and np.str is np.str_\n"
        # What takes a second is imported when it is called.
        "import recbole_diffusion.training.trainer; from recbole.evaluator import metrics\n"
        "assert not {'sklearn', 'tensorboard'} & sys.modules.keys(), sys.modules\n"
        "assert metrics.mean_absolute_error([1, 2], [1, 4]) == 1 and metrics.sk_auc([0, 1], [0, 1]) == 0.5\n"
        "import sklearn.metrics; assert sklearn.metrics.auc is not metrics.sk_auc\n"
    )
    root = Path(compat.__file__).parents[2]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)


def test_rewriting_refuses_another_recbole() -> None:
    class Other:
        def method(self) -> int:
            return 1

    with pytest.raises(RuntimeError, match=r"Other\.method is not that of RecBole 1\.2\.1"):
        compat._rewrite(Other, "method", r"return 2", "return 3")


def test_interactions_sort_stably_both_ways() -> None:
    inter = Interaction({"a": torch.tensor([2, 1, 2, 1]), "b": torch.tensor([0.0, 1.0, 2.0, 3.0])})
    inter.sort(by=["a", "b"], ascending=[True, False])
    assert inter["a"].tolist() == [1, 1, 2, 2]
    assert inter["b"].tolist() == [3, 1, 2, 0]
    inter.sort(by="a", ascending=False)
    assert inter["a"].tolist() == [2, 2, 1, 1]
    with pytest.raises(ValueError, match="not exist"):
        inter.sort(by="c")


@pytest.mark.filterwarnings("error")
def test_interactions_take_read_only_arrays() -> None:
    array = np.arange(3)
    array.flags.writeable = False
    assert Interaction({"a": array})["a"].tolist() == [0, 1, 2]
    assert Interaction(pd.DataFrame({"a": [1, 2]}))["a"].tolist() == [1, 2]


@pytest.mark.filterwarnings("error")
def test_holes_are_filled_and_row_0_is_the_padding(atomic: Callable[..., str]) -> None:
    path = atomic(
        inter=f"{HEADER}\tweight:float\n"
        + "\n".join(f"{row}\t{i % 3 or ''}" for i, row in enumerate(ROWS.split("\n"))),
        item="item_id:token\tbrand:token\tprice:float\ttags:token_seq\tvector:float_seq\n"
        "i1\tacme\t2\tred big\t1 2\ni2\t\t4\t\t\ni3\tacme\t\tred\t3 5\n",
        user="user_id:token\tage:token\nu0\t7\nu1\t\n",
    )
    dataset = load(path, load_col=None, filter_inter_by_user_or_item=False)
    age, items = dataset.user_feat["age"], dataset.item_feat
    assert age.dtype.kind == "i" and age.tolist() == [0, 1, 0, 0]
    assert items["brand"].dtype.kind == "i" and items["brand"].tolist() == [0, 1, 0, 1, 0, 0]
    assert items["price"].tolist() == [3, 2, 4, 3, 3, 3]
    tags = dataset.field2id_token["tags"]
    assert [tags[list(row)].tolist() for row in items["tags"]] == [[], ["red", "big"], [], ["red"], [], []]
    assert [list(row) for row in items["vector"]] == [[], [1, 2], [], [3, 5], [], []]
    assert sorted(dataset.inter_feat["weight"]) == [1] * 5 + [1.5] * 5 + [2] * 5


@pytest.mark.filterwarnings("error")
def test_sequence_columns_are_normalised_and_bucketed(atomic: Callable[..., str]) -> None:
    path = atomic(
        inter=f"{HEADER}\tv:float_seq\n" + "\n".join(f"{row}\t{i} {i + 1}" for i, row in enumerate(ROWS.split("\n")))
    )
    dataset = load(path, load_col=None, normalize_all=True, numerical_features=["v"])
    ones, values = dataset.inter_feat["v"][0]
    assert ones.tolist() != values.tolist() and len(ones) == len(values) == 2


def test_a_general_model_needs_no_time(atomic: Callable[..., str]) -> None:
    path = atomic(inter="user_id:token\titem_id:token\n" + "".join(f"u{u}\ti{i}\n" for u in range(3) for i in range(5)))
    settings = {"eval_args": {"order": "RO", "split": {"RS": [0.8, 0.1, 0.1]}}}
    assert len(load(path, model="BPR", **settings).inter_feat) == 15
    with pytest.raises(UserError, match="no column timestamp"):
        load(path, model="BPR")


@pytest.mark.parametrize("normalize_all", [True, False])
def test_events_closer_than_float32_tells_apart_keep_their_order(
    atomic: Callable[..., str], normalize_all: bool
) -> None:
    # At 1.6e9 float32 has steps of 128 s; the file is in reverse order.
    times = [1_600_000_000 + 3 * step for step in range(40)]
    rows = "".join(f"u{step % 2}\ti{step}\t{times[step]}\n" for step in reversed(range(40)))
    dataset = load(atomic(inter=f"{HEADER}\n{rows}"), normalize_all=normalize_all, MAX_ITEM_LIST_LENGTH=20)
    train, valid, test = dataset.build()
    names = dataset.field2id_token["item_id"]
    for user in ("u0", "u1"):
        last = test.inter_feat[test.inter_feat["user_id"] == dataset.token2id("user_id", user)]
        items = [*last["item_id_list"][0][: int(last["item_length"][0])], int(last["item_id"][0])]
        assert names[items].tolist() == [f"i{step}" for step in range(40) if f"u{step % 2}" == user]
    assert len(train) + len(valid) + len(test) == 38


def test_the_later_of_two_equal_times_stays_the_later(atomic: Callable[..., str]) -> None:
    rows = "".join(f"u\ti{i % 50}\t{i // 100}\t{i}\n" for i in range(400))
    dataset = load(
        atomic(inter=f"{HEADER}\tnumber:float\n{rows}"),
        load_col=None,
        rm_dup_inter="last",
        normalize_all=False,
    )
    assert sorted(dataset.inter_feat["number"]) == list(range(350, 400))


@pytest.mark.filterwarnings("error")
def test_filters_keep_working(atomic: Callable[..., str], caplog: pytest.LogCaptureFixture) -> None:
    path = atomic(
        inter=f"{HEADER}\n{ROWS}\nu3\ti1\t1\nu3\ti9\t2\n",
        item="item_id:token\tprice:float\n" + "".join(f"i{i}\t{i}\n" for i in range(1, 6)),
    )
    assert len(load(path, load_col=None).inter_feat) == 16
    dropped = "drops 1 of 17 interactions, whose user or item is not in made.user or made.item"
    assert [message for message in caplog.messages if "drops" in message] == [
        f"filter_inter_by_user_or_item=True {dropped}"
    ]
    dataset = load(path, load_col=None, user_inter_num_interval="[2,inf)", val_interval={"timestamp": "[2,inf)"})
    assert (dataset.user_num, dataset.item_num) == (4, 6)
    assert sorted(dataset.inter_feat["timestamp"]) == [2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]
    dataset = load(path, load_col=None, val_interval={"item_id": ["i1", "i2"], "price": "[2,inf)"})
    assert set(dataset.inter_feat["item_id"]) == set(dataset.item_feat["item_id"]) - {0}
    labelled = load(path, load_col=None, threshold={"timestamp": 3}, model="BPR", eval_args={"order": "RO"})
    assert "timestamp" not in labelled.inter_feat and sum(labelled.inter_feat["label"]) == 9


def test_a_threshold_leaves_the_columns_that_are_needed(atomic: Callable[..., str]) -> None:
    path = atomic(inter=f"{HEADER}\n{ROWS}\n")
    for model, field, kind in (("DiffuRec", "timestamp", "times"), ("BPR", "item_id", "items")):
        with pytest.raises(UserError, match=f"threshold must name another column: {field} has the {kind}, got"):
            load(path, threshold={field: 3}, model=model)


@pytest.mark.parametrize(("value", "kind"), [(0, "above"), (9, "below")])
def test_a_threshold_divides(atomic: Callable[..., str], value: int, kind: str) -> None:
    path = atomic(inter=f"{HEADER}\n{ROWS}\n")
    with pytest.raises(UserError, match=f"threshold must divide the interactions; all of them are {kind} it, got"):
        load(path, threshold={"timestamp": value}, model="BPR", eval_args={"order": "RO"})


def test_metrics_that_count_training_data_can_be_collected() -> None:
    metrics = ["NDCG", "ItemCoverage", "GiniIndex", "AveragePopularity", "TailPercentage"]
    config = load_config("Pop", "ml-100k", None, {"metrics": metrics})
    collector = Collector(config)
    collector.data_struct.set("data.num_items", 7)
    collector.data_struct.set("data.count_items", {3: 1})
    collector.data_struct.set("rec.items", torch.ones(2))
    held = collector.get_data_struct()
    assert held.get("data.num_items") == 7 and held.get("data.count_items") == {3: 1}
    assert "rec.items" not in collector.data_struct


@pytest.mark.filterwarnings("ignore:.*torch.sparse")
def test_recboles_graphs_can_be_built() -> None:
    config = load_config("LightGCN", "ml-100k", None, {})
    from recbole.model.general_recommender import LightGCN

    train = create_dataset(config).build()[0]
    graph = LightGCN(config, train).norm_adj_matrix
    assert graph._nnz() == 2 * len(train)


def bert4rec(**settings: Any) -> tuple[Any, Interaction]:
    """The model without dropout, and a batch of training."""
    still = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}
    config = load_config("BERT4Rec", "ml-100k", None, {**SMALL_RUN, **still, "mask_ratio": 0.4, **settings})
    train = build_loaders(config, create_dataset(config))[0]
    return config.model_class(config, train._dataset), next(iter(train))


@pytest.mark.parametrize("loss_type", ["CE", "BPR"])
@pytest.mark.parametrize("length_batching", [True, False])
def test_bert4recs_loss_and_gradients_are_recboles(loss_type: str, length_batching: bool) -> None:
    negatives = {"train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}} if loss_type == "BPR" else {}
    model, batch = bert4rec(loss_type=loss_type, length_batching=length_batching, **negatives)
    results = []
    for mend in (lambda model: None, compat.mend_loss):
        mend(model)
        model.zero_grad()
        loss = model.calculate_loss(batch)
        loss.backward()
        results.append([loss.detach(), *(weight.grad for weight in model.parameters())])
    assert "calculate_loss" in vars(model)
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-7)


def test_bert4rec_learns_nothing_where_nothing_is_masked() -> None:
    model, batch = bert4rec()
    batch["MASK_INDEX"] = torch.zeros_like(batch["MASK_INDEX"])
    assert model.calculate_loss(batch).isnan()
    compat.mend_loss(model)
    loss = model.calculate_loss(batch)
    loss.backward()
    assert loss == 0 and not any(weight.grad.any() for weight in model.parameters())


def test_only_recboles_own_loss_is_mended() -> None:
    model, _ = bert4rec()
    own = type("Own", (type(model),), {"calculate_loss": lambda self, interaction: 7})
    model.__class__ = own
    compat.mend_loss(model)
    assert model.calculate_loss(None) == 7


def test_a_trainer_writes_no_tensorboard_files() -> None:
    from recbole.trainer.trainer import get_tensorboard

    writer = get_tensorboard(None)
    writer.add_scalar("Loss/Train", 1.0, 0)
    writer.add_hparams({}, {})
    writer.close()
    assert not list(Path().iterdir())


def test_no_code_of_a_file_runs_while_a_model_is_built(tmp_path: Path) -> None:
    np.save(tmp_path / "code.npy", np.array([Path], dtype=object), allow_pickle=True)
    np.save(tmp_path / "data.npy", np.ones(3))
    before, environment = np.load, dict(os.environ)
    with compat.files_as_data():
        with pytest.raises(ValueError, match="allow_pickle"):
            np.load(tmp_path / "code.npy", allow_pickle=True)
        assert np.load(tmp_path / "data.npy", allow_pickle=True).sum() == 3
    assert np.load is before and dict(os.environ) == environment
