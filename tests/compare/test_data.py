from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from small_plans import InThisProcess, small_plan

from recbole_diffusion.compare import data, local
from recbole_diffusion.compare.data import check_data
from recbole_diffusion.compare.plan import Plan, make_plan, read_request
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


@pytest.mark.parametrize("model", ["Pop", "BPR", "SASRecPlus"])
def test_data_that_have_changed_since_a_run_start_no_other(
    atomic: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    def write(last: int) -> str:
        """Users with six of twelve items each, in order; the last item of the first user is given."""
        rows = [(user, (2 * user + place) % 12) for user in range(9) for place in range(6)]
        rows[5] = (0, last)
        text = "".join(f"u{user}\ti{item}\t{number}\n" for number, (user, item) in enumerate(rows))
        return atomic("toy", inter="user_id:token\titem_id:token\ttimestamp:float\n" + text)

    def plan(seeds: str) -> Plan:
        own = {"output": str(tmp_path / "out"), "topk": "5", "valid_metric": "NDCG@5", "epochs": "1"}
        settings = {**own, "model_list": model, "seeds": seeds, "data_path": write(5)}
        settings |= {"show_progress": "False", "off_switch": "False"}
        return make_plan(read_request(settings, [], "toy"))

    monkeypatch.setattr(local, "start_process", InThisProcess)
    run_all(plan("1"), ["compare"])
    # With the data as they were, and as many.
    check_data(plan("1,2"))
    more = plan("1,2")
    write(9)
    with pytest.raises(
        UserError, match=f"output={tmp_path}/out: the data have changed since {model}, seed 1 was run; "
    ):
        run_all(more, ["compare"])
    assert not (more.runs[1].folder / "record.json").exists()


def test_data_is_read_again_only_where_settings_of_it_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(data, "_read", lambda plan, variant: read.append(variant.name))
    monkeypatch.setattr(data, "_what_is_there", lambda dataset: ([], [], 0))
    monkeypatch.setattr(data, "_check_done", lambda plan, dataset: None)
    check_data(small_plan(model_list="Pop,SASRec,short=SASRec(MAX_ITEM_LIST_LENGTH=5)", seeds="1,2"))
    assert read == ["Pop"]


def test_data_that_is_not_there_starts_no_run(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    settings = {"model_list": "Pop,SASRec", "data_path": str(tmp_path), "output": str(tmp_path / "out")}
    plan = make_plan(read_request(settings, [], "toy"))
    with pytest.raises(UserError, match="toy"):
        run_all(plan, ["compare"])
    assert not list(tmp_path.glob("out/runs/*/*"))


@pytest.mark.parametrize("models", ["BPR,SASRecPlus", "SASRecPlus,BPR"])
def test_a_general_model_beside_a_sequential_one_is_refused_where_it_has_other_targets(
    atomic: Callable[..., str], models: str
) -> None:
    rows = [(user, (2 * user + place) % 12) for user in range(9) for place in range(6)] + [(9, 3), (9, 5)]
    text = "".join(f"u{user}\ti{item}\t{number}\n" for number, (user, item) in enumerate(rows))
    path = atomic("toy", inter="user_id:token\titem_id:token\ttimestamp:float\n" + text)
    settings = {"model_list": models, "data_path": path, "topk": "5", "valid_metric": "NDCG@5", "off_switch": "False"}
    with pytest.raises(UserError, match=r"is tested on .* user_inter_num_interval=\[3,inf\) leaves them out"):
        check_data(make_plan(read_request(settings, [], "toy")))
    check_data(make_plan(read_request({**settings, "user_inter_num_interval": "[3,inf)"}, [], "toy")))


def test_a_comparison_of_both_kinds_goes_on(
    atomic: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(user, (2 * user + place) % 12) for user in range(9) for place in range(6)]
    text = "".join(f"u{user}\ti{item}\t{number}\n" for number, (user, item) in enumerate(rows))
    path = atomic("toy", inter="user_id:token\titem_id:token\ttimestamp:float\n" + text)
    own = {"output": str(tmp_path / "out"), "topk": "5", "valid_metric": "NDCG@5", "epochs": "1", "data_path": path}
    settings = {**own, "model_list": "BPR,SASRecPlus", "show_progress": "False", "off_switch": "False"}
    monkeypatch.setattr(local, "start_process", InThisProcess)
    run_all(make_plan(read_request({**settings, "seeds": "1"}, [], "toy")), ["compare"])
    more = make_plan(read_request({**settings, "seeds": "1,2"}, [], "toy"))
    run_all(more, ["compare"])
    assert all((run.folder / "record.json").exists() for run in more.runs)
