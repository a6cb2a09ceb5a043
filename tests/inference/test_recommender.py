from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from saved_models import Saved

from recbole_diffusion.errors import SettingError, UserError
from recbole_diffusion.inference import Recommender
from recbole_diffusion.inference.recommender import Options
from recbole_diffusion.inference.results import joined

HISTORIES = [["50", "258", "286"], ["1"], ["288", "294", "313", "300", "302"]]


@pytest.mark.parametrize("model", ["DiffuRec", "DiffRec", "SASRec", "Pop"])
def test_the_lists_score_as_the_test_of_the_training(
    saved: Callable[..., Saved], loaded: Callable[[str], Recommender], model: str
) -> None:
    recommender, users = loaded(model), loaded(model).users
    rows = [row for row in range(len(users)) if len(users.row(row)) > 2]
    histories = [recommender.vocabulary.tokens[users.row(row)[:-1]] for row in rows]
    targets = recommender.vocabulary.tokens[[users.row(row)[-1] for row in rows]]
    given = recommender.recommend(histories, topk=20, exclude_seen=False)
    rank = np.argmax(given.items == targets[:, None], axis=1)
    found = (given.items == targets[:, None]).any(axis=1)
    for k in (5, 10, 20):
        hit = found & (rank < k)
        result = saved(model).test_result
        assert round(hit.mean(), 4) == result[f"hit@{k}"]
        assert round((hit / np.log2(rank + 2)).mean(), 4) == pytest.approx(result[f"ndcg@{k}"], abs=1e-4)


@pytest.mark.parametrize("model", ["DiffuRec", "DiffRec", "SASRec"])
def test_scores_do_not_depend_on_the_batch(loaded: Callable[[str], Recommender], model: str) -> None:
    recommender = loaded(model)
    histories = [recommender.vocabulary.tokens[recommender.users.row(row)] for row in range(40)]
    drawn = {} if model == "SASRec" else {"inference_seeds": 3, "inference_steps": 4, "temperature": 2.0, "seed": 5}
    whole = recommender.recommend(histories, **drawn)
    for other in (
        recommender.recommend(histories, batch_size=1, **drawn),
        recommender.recommend(histories, batch_size=7, **drawn),
        joined([recommender.recommend(history, **drawn) for history in histories]),
    ):
        np.testing.assert_allclose(other.scores, whole.scores, rtol=1e-5, atol=1e-5)
        assert (other.items == whole.items).mean() > 0.99
    assert whole.users == list(range(40))


def test_models_without_draws_score_a_bounded_block(
    loaded: Callable[[str], Recommender], monkeypatch: pytest.MonkeyPatch
) -> None:
    recommender = loaded("SASRec")
    expected = recommender.recommend(HISTORIES)
    predict, rows = recommender.model.full_sort_predict, []

    def spy(batch: Any) -> torch.Tensor:
        scores = predict(batch)
        rows.append(len(batch[recommender.model.ITEM_SEQ]))
        return scores

    monkeypatch.setattr(recommender.model, "full_sort_predict", spy)
    monkeypatch.setattr("recbole_diffusion.inference.recommender.LARGEST_BLOCK", 2 * recommender.model.n_items)
    np.testing.assert_allclose(recommender.recommend(HISTORIES).scores, expected.scores, atol=1e-5)
    assert rows == [2, 1]


@pytest.mark.parametrize("model", ["DiffuRec", "DiffRec"])
def test_draws_are_averaged_as_the_model_averages_them(loaded: Callable[[str], Recommender], model: str) -> None:
    recommender = loaded(model)
    network = recommender.model
    ids = [recommender.vocabulary.ids(history) for history in HISTORIES]
    longest = max(map(len, ids))
    batch = {
        "item_id_list": torch.tensor([[*row, *[0] * (longest - len(row))] for row in ids]),
        "item_length": torch.tensor([len(row) for row in ids]),
    }
    seeds = network.inference_seeds
    try:
        network.inference_seeds = 4
        with torch.no_grad():
            scores = network.full_sort_predict(batch)
    finally:
        network.inference_seeds = seeds
    given = recommender.recommend(HISTORIES, topk=5, inference_seeds=4, exclude_seen=False)
    best = scores[:, 1:].topk(5)
    np.testing.assert_allclose(given.scores, best.values, atol=1e-5)
    assert given.items.tolist() == recommender.vocabulary.tokens[best.indices + 1].tolist()


@pytest.mark.usefixtures("untouched")
def test_seed_and_steps_change_the_draws_and_are_forgotten(diffurec: Recommender) -> None:
    first = diffurec.recommend(HISTORIES)
    timesteps = list(diffurec.model.timesteps)
    assert (diffurec.recommend(HISTORIES, seed=1).scores != first.scores).any()
    assert (diffurec.recommend(HISTORIES, inference_steps=8).scores != first.scores).any()
    assert (diffurec.recommend(HISTORIES, temperature=3.0).scores != first.scores).any()
    again = diffurec.recommend(HISTORIES)
    np.testing.assert_array_equal(again.scores, first.scores)
    assert diffurec.model.timesteps == timesteps


@pytest.mark.parametrize(("model", "seeds"), [("DiffuRec", 1), ("DiffuRec", 3), ("SASRec", None)])
def test_a_target_stands_where_the_whole_list_has_it(
    loaded: Callable[[str], Recommender], model: str, seeds: int | None
) -> None:
    recommender = loaded(model)
    vocabulary = recommender.vocabulary
    ids = [vocabulary.ids(history) for history in HISTORIES]
    targets = vocabulary.ids(["300", "181", "288"]).tolist()
    options = Options(5, inference_seeds=seeds)
    ranks = recommender.recommend_ids([0, 1, 2], ids, options, targets).target_ranks
    whole = recommender.recommend(HISTORIES, topk=len(vocabulary), inference_seeds=seeds).items.tolist()
    assert ranks is not None
    # The last is in the history, whose items are left out.
    assert ranks.tolist() == [whole[0].index("300") + 1, whole[1].index("181") + 1, 0]
    assert recommender.recommend_ids([0, 1, 2], ids, options).target_ranks is None


def test_histories_of_every_form(diffurec: Recommender) -> None:
    expected = diffurec.recommend([["50", "258"], ["1", "286"]]).items.tolist()
    frame = pd.DataFrame(
        {"user_id": ["a", "b", "a", "b"], "item_id": [258, 286, 50, 1], "timestamp": [2.0, 4.0, 1.0, 3.0]}
    )
    forms: list[Any] = [
        [[50, 258], [1, 286]],
        np.array([[50, 258], [1, 286]]),
        np.array([["50", "258"], ["1", "286"]]),
        [np.array([50, 258]), ("1", 286)],
        {"a": ["50", "258"], "b": ["1", "286"]},
        frame,
    ]
    for form in forms:
        assert diffurec.recommend(form).items.tolist() == expected
    assert diffurec.recommend(frame).users == ["a", "b"]
    assert diffurec.recommend(["50", "258"]).items.tolist() == expected[:1]
    assert len(diffurec.recommend([])) == 0


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ("50,258", "histories must be a list of item tokens or a list of such lists, got '50,258'"),
        (["50", ["258"]], "histories must be a list of item tokens or a list of such lists, not a mix"),
        ([["50"], []], "a history must hold at least one item; it is empty"),
        ({"a": ["50"], "b": "172"}, "the history of 'b' must be a list of item tokens, got '172'"),
        ({"a": 50}, "the history of 'a' must be a list of item tokens, got 50"),
        (["50", "no such item"], "item 'no such item': not among the "),
        (pd.DataFrame({"user": [1], "item_id": [50]}), "the DataFrame has no column user_id"),
    ],
)
def test_histories_that_cannot_be_read(diffurec: Recommender, histories: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        diffurec.recommend(histories)


def test_unknown_items_may_be_skipped(diffurec: Recommender) -> None:
    with pytest.raises(UserError, match="skip_unknown"):
        diffurec.recommend(["50", "x"])
    skipped = diffurec.recommend(["x", "50", "y"], skip_unknown=True)
    assert skipped.items.tolist() == diffurec.recommend(["50"]).items.tolist()
    with pytest.raises(UserError, match="no item of it is known"):
        diffurec.recommend(["x"], skip_unknown=True)


def test_only_the_newest_items_count_and_that_is_said_once(
    saved: Callable[..., Saved], caplog: pytest.LogCaptureFixture
) -> None:
    recommender = Recommender.load(saved("DiffuRec").path, device="cpu")
    longest = recommender.model.max_seq_length
    long = list(recommender.vocabulary.tokens[1 : longest + 6])
    with caplog.at_level(logging.WARNING):
        cut = recommender.recommend(long, exclude_seen=False)
        recommender.recommend([long, long])
    assert [record.getMessage() for record in caplog.records] == [
        f"histories are cut to their newest {longest} items, the model's maximum"
    ]
    np.testing.assert_array_equal(cut.scores, recommender.recommend(long[-longest:], exclude_seen=False).scores)


@pytest.mark.parametrize(("model", "settings"), [("RFMRec", {}), ("DiffuRec", {"diffusion": False})])
def test_samples_that_are_all_alike_are_warned_of_once(
    saved: Callable[..., Saved], caplog: pytest.LogCaptureFixture, model: str, settings: dict[str, Any]
) -> None:
    recommender = Recommender.load(saved(model, **settings).path, device="cpu")
    with caplog.at_level(logging.WARNING):
        # What the training said.
        caplog.clear()
        recommender.recommend(["50"])
        assert not caplog.records
        alike = recommender.recommend(["50"], inference_seeds=3)
        recommender.recommend(["258"], inference_seeds=3)
    assert [record.getMessage() for record in caplog.records] == [
        f"{model} draws no noise, so that its 3 samples are alike and say nothing of certainty"
    ]
    assert alike.certainty is not None and not alike.certainty.spread.any()
    with pytest.raises(SettingError, match=f"temperature=2.0: {model} draws no normal numbers, so leave it out"):
        recommender.recommend(["50"], temperature=2.0)


def test_a_temperature_is_for_normal_numbers(loaded: Callable[[str], Recommender]) -> None:
    with pytest.raises(SettingError, match=r"temperature=0\.5: PreferGrow draws no normal numbers, so leave it out"):
        loaded("PreferGrow").recommend(["50"], temperature=0.5)


def test_items_of_the_history_are_left_out_beyond_what_the_model_reads(diffurec: Recommender) -> None:
    everything = list(diffurec.vocabulary.tokens[1:])
    given = diffurec.recommend([everything[3:], ["50"]], topk=5, inference_seeds=2)
    assert set(given.items[0, :3]) == set(everything[:3]) and given.items[0, 3:].tolist() == [None, None]
    assert np.isnan(given.scores[0, 3:]).all() and np.isfinite(given.scores[0, :3]).all()
    assert len(given.to_frame()) == 8
    assert [len(record["items"]) for record in given.records()] == [3, 5]
    seen = diffurec.recommend(["50"], topk=len(diffurec.vocabulary), exclude_seen=False)
    assert "50" in seen.items[0] and "50" not in diffurec.recommend(["50"], topk=len(diffurec.vocabulary)).items[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topk": 0}, "topk must be from 1 to "),
        ({"topk": 100_000}, "topk must be from 1 to "),
        ({"inference_steps": 33}, "inference_steps must be from 1 to 32, the model's longest chain, got 33"),
        ({"inference_seeds": 0}, "inference_seeds must be from 1 to 10000, got 0"),
        ({"seed": -1}, "seed must be from 0 to below 2**63, got -1"),
        ({"temperature": -1.0}, "temperature must be at least 0, got -1.0"),
        ({"batch_size": 0}, "batch_size must be positive, got 0"),
        ({"diversify": True}, "diversify=True: needs inference_seeds of at least 2"),
        ({"topk": None}, "topk must be a whole number, got None"),
        ({"inference_steps": 1.5}, "inference_steps must be a whole number or ~, got 1.5"),
        ({"seed": "a"}, "seed must be a whole number or ~, got 'a'"),
        ({"temperature": "warm"}, "temperature must be a number, got 'warm'"),
        ({"batch_size": 1.5}, "batch_size must be a whole number, got 1.5"),
    ],
)
def test_options_that_cannot_be_used(diffurec: Recommender, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        diffurec.recommend(["50"], **options)


def test_options_may_be_numpys_or_texts(diffurec: Recommender) -> None:
    plain = diffurec.recommend(["50"], topk=3, seed=4, inference_seeds=2, exclude_seen=False)
    same = diffurec.recommend(["50"], topk="3", seed=np.int64(4), inference_seeds=np.int8(2), exclude_seen="no")
    assert same.items.tolist() == plain.items.tolist() and np.array_equal(same.scores, plain.scores)


def test_users_of_the_dataset(diffurec: Recommender) -> None:
    users = diffurec.users
    token = users.tokens[7]
    by_user = diffurec.recommend_users([token])
    by_history = diffurec.recommend(diffurec.vocabulary.tokens[users.row(7)])
    assert by_user.users == [token] and by_user.items.tolist() == by_history.items.tolist()
    with pytest.raises(UserError, match=f"user 'nobody': not among the {len(users)} users"):
        diffurec.recommend_users([token, "nobody"])


def test_all_users_come_in_lots(diffurec: Recommender) -> None:
    lots = list(diffurec.recommend_all(topk=3, chunk_size=50))
    assert [len(lot) for lot in lots[:-1]] == [50] * (len(lots) - 1)
    whole = joined(lots)
    assert whole.users == diffurec.users.tokens
    np.testing.assert_allclose(whole.scores, diffurec.recommend_users(whole.users, topk=3).scores, atol=1e-5)
    for size in (0, -1):
        with pytest.raises(SettingError, match=f"chunk_size must be positive, got {size}"):
            list(diffurec.recommend_all(chunk_size=size))


def test_a_dataset_of_other_items_is_refused(saved: Callable[..., Saved], atomic: Callable[..., str]) -> None:
    rows = "".join(f"u{user}\ti{item}\t1\t{item}\n" for user in range(5) for item in range(6))
    path = atomic("ml-100k", inter="user_id:token\titem_id:token\trating:float\ttimestamp:float\n" + rows)
    other = Recommender.load(saved("DiffuRec").path, device="cpu", data_path=path)
    with pytest.raises(UserError, match="the checkpoint is of another catalogue"):
        other.recommend_users(["u1"])


def test_titles_come_with_the_checkpoint(diffurec: Recommender) -> None:
    given = diffurec.recommend(["50"], topk=len(diffurec.vocabulary), exclude_seen=False)
    titles = dict(zip(given.items[0], given.titles[0], strict=True)) if given.titles is not None else {}
    assert titles["50"] == "Star Wars" and "title" in given.to_frame()
