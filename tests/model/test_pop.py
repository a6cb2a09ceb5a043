from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from recbole.trainer import Trainer

from recbole_diffusion.host.dataset import build_dataset
from recbole_diffusion.host.loaders import build_loaders
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.model.pop import Pop


def test_every_training_interaction_counts_once(atomic: Callable[..., str]) -> None:
    rows = "".join(f"u{user}\ti{(user * k) % 4}\t{k}\n" for user in range(1, 5) for k in range(5 + user))
    path = atomic(inter="user_id:token\titem_id:token\ttimestamp:float\n" + rows)
    config = load_config("Pop", "made", None, {"data_path": path})
    dataset = build_dataset(config)
    train, _, _ = build_loaders(config, dataset)
    model = Pop(config, train._dataset)
    expected = torch.zeros(dataset.item_num)
    for user in range(1, 5):
        for k in range(3 + user):  # the last two of each user validate and test
            expected[dataset.token2id("item_id", f"i{(user * k) % 4}")] += 1
    assert torch.equal(model.popularity.ceil().float(), expected)
    order = model.popularity.argsort(descending=True).tolist()
    assert order == sorted(range(dataset.item_num), key=lambda item: (-expected[item], item))


@pytest.mark.parametrize("length_batching", [False, True])
def test_pop_on_ml_100k_has_the_recall_of_true_popularity(length_batching: bool) -> None:
    settings = {"metrics": ["Recall", "NDCG"], "topk": [10], "length_batching": length_batching}
    config = load_config("Pop", "ml-100k", None, settings)
    train, _, test = build_loaders(config, build_dataset(config))
    model = Pop(config, train._dataset)
    assert config["epochs"] == 1 and config["train_neg_sample_args"]["distribution"] == "none"
    before = model.popularity.clone()
    loss = model.calculate_loss(next(iter(train)))
    loss.backward()
    assert loss.item() == 0 and torch.equal(model.popularity, before)
    trainer = Trainer(config, model)
    trainer.eval_collector.data_collect(train)
    result = trainer.evaluate(test, load_best_model=False)
    assert result["recall@10"] == pytest.approx(0.0498, abs=5e-5)
    batch = next(iter(test))[0]
    full = model.full_sort_predict(batch)
    assert full.shape == (len(batch), model.n_items)
    one = full[torch.arange(len(batch)), batch["item_id"]]
    assert torch.equal(model.predict(batch).argsort(stable=True), one.argsort(stable=True))


def test_it_is_ranked_among_sampled_items_too() -> None:
    """Some of the items that stand before the target are not sampled, and most of them are."""
    results = []
    for mode in ("full", "uni1500"):
        settings = {"eval_args": {"mode": mode}, "history_in_ranking": "out", "metrics": ["NDCG"], "topk": [10]}
        config = load_config("Pop", "ml-100k", None, {**settings, "gpu_id": ""})
        train, _, test = build_loaders(config, build_dataset(config))
        trainer = Trainer(config, Pop(config, train._dataset))
        trainer.eval_collector.data_collect(train)
        results.append(trainer.evaluate(test, load_best_model=False)["ndcg@10"])
    assert results[0] < results[1] < 1.2 * results[0]


def test_counts_are_part_of_a_saved_model() -> None:
    models = []
    for split in ("valid_and_test", "test_only"):
        config = load_config("Pop", "ml-100k", None, {"eval_args": {"split": {"LS": split}}})
        models.append(Pop(config, build_loaders(config, build_dataset(config))[0]._dataset))
    first, other = models
    assert not torch.equal(first.popularity, other.popularity)
    other.load_state_dict(first.state_dict())
    assert torch.equal(first.popularity, other.popularity)


def test_counts_do_not_depend_on_the_longest_history() -> None:
    models = []
    for longest in (1, 20):
        config = load_config("Pop", "ml-100k", None, {"MAX_ITEM_LIST_LENGTH": longest})
        models.append(Pop(config, build_loaders(config, build_dataset(config))[0]._dataset))
    assert torch.equal(models[0].popularity, models[1].popularity)
