from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_plans import small_plan, write_wanted

from recbole_diffusion.common.files import read_json, write_json
from recbole_diffusion.compare.plan import Plan
from recbole_diffusion.compare.results import best_by, collect, mean_and_std, noise_pairs
from recbole_diffusion.errors import UserError
from recbole_diffusion.evaluation import statistics
from recbole_diffusion.evaluation.ranking import UserRanks
from recbole_diffusion.evaluation.ranks import hit, load_ranks, ndcg, save_ranks

USERS = 200


def leave(plan: Plan, better: str) -> list[np.ndarray]:
    """Records and ranks of every run of a plan; those of the row `better` are ranked at 3, the others up to 40."""
    generator = np.random.default_rng(1)
    left = []
    for run in plan.runs:
        rank = np.full(USERS, 3) if run.variant.name == better else generator.integers(1, 40, USERS)
        left.append(rank)
        scores = {"hit@10": float((rank <= 10).mean()), "ndcg@10": float(ndcg(rank).mean())}
        record = {
            **{"seed": run.seed, "parameters": 7, "epochs": [], "best_epoch": 0, "seconds_per_epoch": float(run.seed)},
            **{"seconds_per_evaluation": 1.0, "peak_memory": 10, "peak_gpu_memory": None, "seconds": 2.0},
            **{"valid_result": scores, "test_result": scores},
            "by_steps": [{"steps": 1, "seconds": 1.0, "metrics": scores}] if run.variant.name == better else [],
        }
        write_json(write_wanted(run) / "record.json", record)
        user = np.arange(1, USERS + 1)
        ranks = UserRanks(user=user, item=user % 10 + 1, length=user % 7 + 1, rank=rank)
        save_ranks(run.folder / "ranks.npz", ranks, np.arange(11, dtype=np.int32))
    return left


@pytest.fixture
def plan() -> Plan:
    return small_plan(model_list="Pop,b=Pop(epochs=3),c=Pop(epochs=4)", seeds="1,2")


def test_mean_and_std() -> None:
    assert mean_and_std([1, 3]) == {"mean": 2, "std": pytest.approx(2**0.5), "values": [1, 3]}
    assert mean_and_std([1]) == {"mean": 1, "std": None, "values": [1]}


@pytest.mark.parametrize("key", ["epochs", "test_result"])
def test_a_damaged_record_is_named(plan: Plan, key: str) -> None:
    leave(plan, better="b")
    file = plan.runs[0].folder / "record.json"
    write_json(file, {**read_json(file), key: 3})
    with pytest.raises(UserError, match=f"{file}: is damaged, as its {key} is missing or of another form"):
        collect(plan)


def test_rows_and_tests(plan: Plan) -> None:
    ranks = leave(plan, better="b")
    results = collect(plan)
    first, better, _ = results["rows"]
    expected = [float(ndcg(rank).mean()) for rank in ranks[:2]]
    assert first["test"]["ndcg@10"] == mean_and_std(expected)
    assert first["seconds_per_epoch"] == mean_and_std([1.0, 2.0]) and first["peak_gpu_memory"] is None
    assert better["seeds"] == [1, 2] and better["failed"] == {}
    assert results["users"] == USERS
    estimate = results["estimates"]["ndcg@10"]["Pop"]
    assert (
        estimate["mean"] == pytest.approx(np.mean(expected)) and estimate["low"] < estimate["mean"] < estimate["high"]
    )
    assert [(pair["first"], pair["second"]) for pair in results["pairs"]] == [("Pop", "b"), ("Pop", "c"), ("b", "c")]
    assert results["bold"] == {"ndcg@10": "b", "hit@10": "b"}
    assert results["by_steps"] == [
        {"name": "b", "steps": 1, "seconds": mean_and_std([1.0, 1.0]), "metrics": better["test"]}
    ]


def test_a_row_is_tested_against_its_off_row() -> None:
    plan = small_plan(model_list="DiffuRec,c=Pop(epochs=4)", seeds="1,2")
    ranks = leave(plan, better="DiffuRec")
    (worth,) = collect(plan)["noise"]
    assert (worth["first"], worth["second"]) == ("DiffuRec", "DiffuRec-off")
    assert worth["mean"] == pytest.approx(float(ndcg(ranks[0]).mean()))
    assert worth["difference"] == pytest.approx(worth["mean"] - worth["off_mean"])
    assert worth["ndcg_significant"] and worth["wilcoxon_holm"] == worth["wilcoxon"]


MORE = "more=DiffuRec(diffusion=False,hidden_dropout_prob=0.5)"
WIDE = "wide=DiffuRec(hidden_size=32)"
OWN, OF_WIDE = ("DiffuRec", "DiffuRec-off"), ("wide", "wide-off")


@pytest.mark.parametrize(
    ("model_list", "pairs"),
    [
        (f"DiffuRec,{MORE},SASRec", [OWN, ("DiffuRec", "more")]),
        # Another row's own row without noise is no control, a row that the user adds is one for each row of its model.
        (f"DiffuRec,{WIDE}", [OWN, OF_WIDE]),
        (f"DiffuRec,{WIDE},{MORE}", [OWN, ("DiffuRec", "more"), OF_WIDE, ("wide", "more")]),
        (f"{WIDE},x=DiffuRec(hidden_size=32,diffusion=False),DiffuRec", [("wide", "x"), ("DiffuRec", "x"), OWN]),
        # Another model is none.
        (f"DiffRec,{MORE}", [("DiffRec", "DiffRec-off")]),
        # Settings tell, names do not.
        ("Pop,Pop-off=Pop(epochs=3)", []),
        ("sure=DiffuRec(diffusion=False),sure-off=DiffuRec", [("sure-off", "sure")]),
        (MORE, []),
    ],
)
def test_a_row_is_tested_against_controls_of_its_model(model_list: str, pairs: list[tuple[str, str]]) -> None:
    assert noise_pairs(small_plan(model_list=model_list).variants) == pairs


def test_a_row_that_differs_in_inference_alone_shares_the_row_without_noise() -> None:
    rows = (
        "DiffuRec,DiffuRec-off=DiffuRec(diffusion=False),two=DiffuRec(inference_steps=2),wide=DiffuRec(hidden_size=32)"
    )
    plan = small_plan(model_list=rows, off_switch="False")
    assert noise_pairs(plan.variants) == [OWN, ("two", "DiffuRec-off")]
    # Each has its own where they are made for all.
    made = small_plan(model_list="DiffuRec,two=DiffuRec(inference_steps=2)").variants
    assert noise_pairs(made) == [OWN, ("two", "two-off")]


def test_holm_counts_the_pairs_with_controls() -> None:
    plan = small_plan(model_list=f"DiffuRec,{MORE},SASRec", seeds="1,2")
    leave(plan, better="DiffuRec-off")
    noise = collect(plan)["noise"]
    assert [(pair["first"], pair["second"]) for pair in noise] == [OWN, ("DiffuRec", "more")]
    for test in ("wilcoxon", "mcnemar"):
        assert [pair[f"{test}_holm"] for pair in noise] == statistics.holm([pair[test] for pair in noise])
    assert noise[0]["wilcoxon_holm"] == 2 * noise[0]["wilcoxon"] > 0


def test_the_off_row_of_a_row_that_failed_is_no_control() -> None:
    plan = small_plan(model_list=f"DiffuRec,{WIDE}", seeds="1")
    leave(plan, better="DiffuRec")
    (failed,) = [run for run in plan.runs if run.variant.name == "wide"]
    (failed.folder / "record.json").unlink()
    assert [(pair["first"], pair["second"]) for pair in collect(plan)["noise"]] == [OWN]


def test_groups_hold_every_user_once(plan: Plan) -> None:
    leave(plan, better="b")
    results = collect(plan)
    for groups in (results["by_length"], results["by_popularity"]):
        assert sum(group["users"] for group in groups) == USERS
        # The mean over groups, by their users, is the mean.
        total = sum(group["users"] * group["models"]["Pop"]["mean"] for group in groups)
        assert total / USERS == pytest.approx(results["estimates"]["ndcg@10"]["Pop"]["mean"])
    # Items 9 and 10 of ten are the most popular fifth, with which a tenth of the users each is tested.
    assert [group["users"] for group in results["by_popularity"]] == [USERS // 5, USERS * 4 // 5]


def leave_both(made: Plan) -> None:
    """Runs of two rows: the first is ahead with the history in the ranking, the second without it."""
    user = np.arange(1, USERS + 1)
    leave(made, better=made.runs[0].variant.name)
    for run in made.runs:
        record = read_json(run.folder / "record.json")
        ranks = load_ranks(run.folder / "ranks.npz")
        rank_out = np.full(USERS, 2) if run.variant is made.runs[-1].variant else user % 40 + 1
        without = {
            "hit@10_history_out": float(hit(rank_out).mean()),
            "ndcg@10_history_out": float(ndcg(rank_out).mean()),
        }
        record |= {part: record[part] | without for part in ("valid_result", "test_result")}
        write_json(run.folder / "record.json", record | {"by_steps": []})
        whose = {name: getattr(ranks, name) for name in ("user", "item", "length", "rank")}
        save_ranks(run.folder / "ranks.npz", UserRanks(**whose, rank_out=rank_out), ranks.popularity)


def test_two_rankings_are_apart(tmp_path: Path) -> None:
    settings = {"model_list": "a=Pop,b=Pop(epochs=3)", "seeds": "1,2", "output": str(tmp_path / "out")}
    made = small_plan(**settings, history_in_ranking="both")
    leave_both(made)
    results = collect(made)
    other = results["history_out"]
    for part in (results, other):
        assert all(set(row["test"]) == set(row["valid"]) == {"hit@10", "ndcg@10"} for row in part["rows"])
        for row in part["rows"]:
            assert part["estimates"]["ndcg@10"][row["name"]]["mean"] == pytest.approx(row["test"]["ndcg@10"]["mean"])
    assert (results["bold"]["ndcg@10"], other["bold"]["ndcg@10"]) == ("a", "b")
    assert results["pairs"][0]["difference"] > 0 > other["pairs"][0]["difference"]
    # The runs serve a comparison of the one ranking as well, which is the same then.
    alone = collect(small_plan(**settings))
    assert "history_out" not in alone
    assert all(alone[part] == results[part] for part in ("pairs", "estimates", "by_length", "bold"))
    assert [row["test"] for row in alone["rows"]] == [row["test"] for row in results["rows"]]


def test_a_seed_that_is_missing(plan: Plan) -> None:
    leave(plan, better="b")
    gone = plan.runs[3]
    (gone.folder / "record.json").unlink()
    write_json(gone.folder / "failed.json", {"error": "out of memory"})
    results = collect(plan)
    row = results["rows"][1]
    assert row["seeds"] == [1] and row["failed"] == {2: "out of memory"} and row["test"]["hit@10"]["std"] is None
    assert results["estimates"]["hit@10"]["b"]["mean"] == 1


def test_nothing_is_done(plan: Plan) -> None:
    results = collect(plan)
    assert results["users"] == 0 and results["pairs"] == []
    assert [row["seeds"] for row in results["rows"]] == [[], [], []]


def test_the_best_is_bold_only_where_it_beats_every_other() -> None:
    def results(**holds: bool) -> dict[str, Any]:
        estimates = {name: {"mean": mean} for name, mean in (("a", 0.1), ("b", 0.3), ("c", 0.2))}
        pairs = [{"first": pair[0], "second": pair[1], "ndcg_significant": held} for pair, held in holds.items()]
        return {"estimates": {"ndcg@10": estimates}, "pairs": pairs}

    assert best_by(results(ab=True, ac=False, bc=True), "ndcg@10", "ndcg_significant") == "b"
    assert best_by(results(ab=True, ac=True, bc=False), "ndcg@10", "ndcg_significant") is None
    # Tested against one of the others alone.
    assert best_by(results(ab=True, ac=True), "ndcg@10", "ndcg_significant") is None
    assert best_by(results(ab=True, bc=True), "ndcg@10", "ndcg_significant") == "b"
    alone = {"estimates": {"ndcg@10": {"a": {"mean": 1}}}, "pairs": []}
    assert best_by(alone, "ndcg@10", "ndcg_significant") is None
