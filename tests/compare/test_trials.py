from __future__ import annotations

from pathlib import Path

import pytest
from small_plans import small_plan

from recbole_diffusion.compare.archive import write_archive
from recbole_diffusion.compare.plan import Plan
from recbole_diffusion.compare.trials import budget_lines, tuning_of
from recbole_diffusion.errors import UserError

TABLE = """\
number,value,datetime_start,params_learning_rate,params_loss_type,user_attrs_seconds,user_attrs_epochs,user_attrs_error,state
0,0.0651,2026-11-23 20:36:08,0.001,CE,207.7,30.0,,COMPLETE
1,0.0503,2026-11-23 20:39:36,0.01,BPR,11.5,10.0,,PRUNED
2,,2026-11-23 20:41:27,1.0,CE,,,the loss is no number,FAIL
"""
TRIALS = [
    {
        **{"number": 0, "state": "complete", "value": 0.0651, "seconds": 207.7, "epochs": 30},
        "settings": {"learning_rate": 0.001},
    },
    {
        **{"number": 1, "state": "pruned", "value": 0.0503, "seconds": 11.5, "epochs": 10},
        "settings": {"learning_rate": 0.01},
    },
    {
        **{"number": 2, "state": "fail", "value": None, "seconds": None, "epochs": None},
        "settings": {"learning_rate": 1.0},
    },
]
for trial, loss in zip(TRIALS, ("CE", "BPR", "CE"), strict=True):
    trial["settings"] |= {"loss_type": loss}  # type: ignore[operator]


@pytest.fixture
def plan() -> Plan:
    return small_plan(model_list="Pop,wide=Pop(epochs=3)", seeds="1")


def test_trials_come_from_the_folder_of_the_tuning(plan: Plan, tmp_path: Path) -> None:
    assert tuning_of(plan) == {}
    # A row may be tuned under its own name.
    for name in ("Pop", "wide", "other"):
        (tmp_path / "tune" / name).mkdir(parents=True)
        (tmp_path / "tune" / name / "trials.csv").write_text(TABLE)
    assert tuning_of(plan._replace(tuned=tmp_path / "tune")) == {"Pop": TRIALS, "wide": TRIALS}


def test_trials_come_from_the_archive(plan: Plan, tmp_path: Path) -> None:
    archive = tmp_path / "runs.tar.xz"
    write_archive(archive, {"tuned/Pop/trials.csv": TABLE.encode(), "tuned/Pop/best.yaml": b""})
    assert tuning_of(plan._replace(archive=archive)) == {"Pop": TRIALS}
    # The folder that the command names is the stronger.
    assert tuning_of(plan._replace(archive=archive, tuned=tmp_path)) == {}


@pytest.mark.parametrize("table", ["", "value\n1\n", "number,state\nx,COMPLETE\n"])
def test_what_is_no_table_of_trials_is_named(plan: Plan, tmp_path: Path, table: str) -> None:
    archive = tmp_path / "runs.tar.xz"
    write_archive(archive, {"tuned/Pop/trials.csv": table.encode()})
    with pytest.raises(UserError, match="tuned: the trials of Pop must be a table as tune writes it"):
        tuning_of(plan._replace(archive=archive))


def test_the_budget_of_each_tuning_is_a_line() -> None:
    old = [{key: value for key, value in trial.items() if key != "epochs"} for trial in TRIALS]
    lines = budget_lines({"SASRec": TRIALS, "Pop": old})
    assert lines == ["- SASRec: 3 trials, 1 of them pruned, 40 epochs", "- Pop: 3 trials, 1 of them pruned"]
