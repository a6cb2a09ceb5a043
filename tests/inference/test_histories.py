from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from recbole.data import dataset as recbole_dataset

from recbole_diffusion.errors import UserError
from recbole_diffusion.inference import Recommender
from recbole_diffusion.inference.histories import UserHistories, labelled, read_users
from recbole_diffusion.training import checkpoint

ML_100K = Path(recbole_dataset.__file__).parents[2] / "dataset_example" / "ml-100k" / "ml-100k.inter"


def test_users_have_all_their_interactions_in_order_of_time(diffurec: Recommender) -> None:
    table = pd.read_csv(ML_100K, sep="\t", dtype={"user_id:token": str, "item_id:token": str})
    table = table.sort_values("timestamp:float", kind="stable")
    by_user = {user: items.tolist() for user, items in table.groupby("user_id:token")["item_id:token"]}
    few = {user: items for user, items in by_user.items() if len(items) <= 30}
    users = diffurec.users
    assert {token: diffurec.vocabulary.tokens[users.of(token)].tolist() for token in users.tokens} == few
    assert len(users) == len(few) and users.row(0).tolist() == users.of(users.tokens[0]).tolist()


def test_files_of_a_benchmark_have_no_users(diffurec: Recommender) -> None:
    state = checkpoint.load(diffurec.path)
    state["config"]["benchmark_filename"] = ["a", "b", "c"]
    with pytest.raises(UserError, match="give histories instead"):
        read_users(diffurec.path, state, diffurec.model, diffurec.vocabulary)


def _read(model: Recommender, data_path: str) -> UserHistories:
    return read_users(model.path, checkpoint.load(model.path), model.model, model.vocabulary, data_path)


def test_a_model_may_come_from_another_machine(diffurec: Recommender) -> None:
    state = checkpoint.load(diffurec.path)
    state["config"] |= {"device": "cuda:7", "gpu_id": "7", "resume": "absent.pth"}
    users = read_users(diffurec.path, state, diffurec.model, diffurec.vocabulary)
    assert users.tokens == diffurec.users.tokens


def test_the_dataset_may_have_moved(diffurec: Recommender, atomic: Callable[..., str]) -> None:
    path = atomic("ml-100k", inter=ML_100K.read_text())
    moved = _read(diffurec, path)
    assert moved.tokens == diffurec.users.tokens and (moved.items == diffurec.users.items).all()


def test_ids_decide_not_the_order_of_the_rows(diffurec: Recommender, atomic: Callable[..., str]) -> None:
    header, *rows = ML_100K.read_text().splitlines(keepends=True)
    turned = _read(diffurec, atomic("ml-100k", inter=header + "".join(reversed(rows))))
    assert set(turned.tokens) == set(diffurec.users.tokens) and turned.names.tolist() != diffurec.users.names.tolist()
    for user in diffurec.users.tokens:
        assert sorted(turned.of(user)) == sorted(diffurec.users.of(user))


def test_an_item_that_came_later_may_be_skipped(diffurec: Recommender, atomic: Callable[..., str]) -> None:
    user = diffurec.users.tokens[0]
    path = atomic("ml-100k", inter=f"{ML_100K.read_text().rstrip()}\n{user}\tnew\t5\t999999999\n")
    later = _read(diffurec, path)
    with pytest.raises(UserError, match="item 'new': not among the "):
        later.of(user)
    assert later.of(user, skip_unknown=True).tolist() == diffurec.users.of(user).tolist()
    other = diffurec.users.tokens[1]
    assert later.of(other).tolist() == diffurec.users.of(other).tolist()


@pytest.mark.parametrize("column", ["user_id", "timestamp"])
def test_rows_of_a_table_without_a_user_or_a_time_are_refused(column: str) -> None:
    table = pd.DataFrame({"user_id": ["7", "7", "8"], "item_id": ["50", "172", "1"], "timestamp": [1.0, 2.0, 3.0]})
    columns = {"user": "user_id", "item": "item_id", "time": "timestamp"}
    assert labelled(table, columns).users == ["7", "8"]
    table.loc[1, column] = None
    with pytest.raises(UserError, match=f"^the DataFrame has rows without {column}$"):
        labelled(table, columns)
