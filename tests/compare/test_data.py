from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_plans import small_plan

from recbole_diffusion.compare import data
from recbole_diffusion.compare.data import check_data
from recbole_diffusion.compare.plan import make_plan, read_request
from recbole_diffusion.compare.runner import run_all
from recbole_diffusion.errors import UserError


def test_rows_on_other_data_are_refused_before_they_train(atomic: Callable[..., str]) -> None:
    rows = "".join(f"u{user}\ti{item}\t{item}\n" for user in range(9) for item in range(9))
    items = "item_id:token\n" + "".join(f"i{item}\n" for item in range(8))
    path = atomic("toy", inter="user_id:token\titem_id:token\ttimestamp:float\n" + rows, item=items)
    settings = {"model_list": "Pop,other=Pop", "data_path": path, "topk": "5", "valid_metric": "NDCG@5"}
    alike = make_plan(read_request({**settings, "other.load_col": "{user: [user_id]}"}, [], "toy"))
    check_data(alike)
    # Interactions with items that the file of the items lacks are left out.
    plan = make_plan(read_request({**settings, "other.load_col": "{item: [item_id]}"}, [], "toy"))
    with pytest.raises(UserError) as caught:
        check_data(plan)
    assert "other works on other data than Pop: 9 users, 8 items and 72 rows, not 9 users, 9 items and 81 rows; " in (
        str(caught.value)
    )


def test_data_is_read_again_only_where_settings_of_it_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(data, "_what_is_there", lambda plan, variant: (read.append(variant.name), ([], [], 0))[1])
    check_data(small_plan(model_list="Pop,SASRec,short=SASRec(MAX_ITEM_LIST_LENGTH=5)", seeds="1,2"))
    assert read == ["Pop"]


def test_data_that_is_not_there_starts_no_run(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    settings = {"model_list": "Pop,SASRec", "data_path": str(tmp_path), "output": str(tmp_path / "out")}
    plan = make_plan(read_request(settings, [], "toy"))
    with pytest.raises(UserError, match="toy"):
        run_all(plan, ["compare"])
    assert not list(tmp_path.glob("out/runs/*/*"))
