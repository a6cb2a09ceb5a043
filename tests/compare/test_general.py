"""RecBole's general models beside sequential ones."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from small_plans import small_plan, write_wanted

from recbole_diffusion.cli.main import main
from recbole_diffusion.common.files import read_json
from recbole_diffusion.compare import one
from recbole_diffusion.compare.reevaluate import reevaluate
from recbole_diffusion.compare.report import to_markdown
from recbole_diffusion.compare.results import collect
from recbole_diffusion.evaluation.protocols import SUFFIX
from recbole_diffusion.evaluation.ranks import hit, load_ranks

# The users of ml-100k with few interactions.
FEW = ["--dataset=ml-100k", "--user_inter_num_interval=[0,24]", "--epochs=1", "--show_progress=False"]
SMALL = [*FEW, "--DiffRec.hidden_size=16", "--DiffRec.inner_size=32", "--DiffRec.n_layers=1", "--DiffRec.n_heads=2"]
MODELS = ("DiffRec", "RecBole-DiffRec", "LDiffRec")


@pytest.mark.parametrize("model", MODELS[1:])
def test_general_diffusion_models_run_by_a_name_of_their_own(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--model={model}", *FEW]) == 0
    printed = capsys.readouterr().out
    assert f"{model} on ml-100k, seed" in printed and "ndcg@10" in printed
    saved = [path.name for path in Path("saved").iterdir()]
    assert saved and all(name.startswith(f"{model}-ml-100k-") for name in saved)


def test_a_run_is_resumed_by_that_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model=RecBole-DiffRec", *FEW]) == 0
    last = next(Path("saved").glob("*last*"))
    capsys.readouterr()
    longer = [word.replace("epochs=1", "epochs=2") for word in FEW]
    assert main(["--model=RecBole-DiffRec", *longer, f"--resume={last}"]) == 0
    assert main(["--model=DiffRec", *SMALL, f"--resume={last}"]) == 2
    assert "model must be RecBole-DiffRec, as in" in capsys.readouterr().err


@pytest.mark.parametrize("ranking", ["in", "both"])
def test_all_of_them_stand_in_one_comparison(ranking: str) -> None:
    plan = small_plan(model_list=",".join(MODELS), seeds="1", epochs="1", history_in_ranking=ranking)
    for run in plan.runs:
        write_wanted(run)
        assert one.main(run.folder) == 0
    results = collect(plan)
    report = to_markdown(results, {})
    assert [row.name for row in plan.variants] == ["DiffRec", "DiffRec-off", "RecBole-DiffRec", "LDiffRec"]
    assert all(re.search(rf"^\| {row.name} +\|", report, re.MULTILINE) for row in plan.variants)
    ranks = {run.variant.name: load_ranks(run.folder / "ranks.npz") for run in plan.runs}
    order = {name: np.argsort(stored.user) for name, stored in ranks.items()}
    # All are tested on the same interactions, and the same is known of these.
    for column in ("user", "item", "length"):
        first, *others = (getattr(stored, column)[order[name]] for name, stored in ranks.items())
        assert all(np.array_equal(first, other) for other in others), column
    assert all(np.array_equal(stored.popularity, ranks["DiffRec"].popularity) for stored in ranks.values())
    # What was tested is what the ranks say.
    for run in plan.runs:
        recorded, stored = read_json(run.folder / "record.json")["test_result"], ranks[run.variant.name]
        assert hit(stored.rank).mean() == pytest.approx(recorded["hit@10"], abs=5e-5)
        if ranking == "both":
            assert stored.rank_out is not None and (stored.rank_out <= stored.rank).all()
            assert hit(stored.rank_out).mean() == pytest.approx(recorded["hit@10" + SUFFIX], abs=5e-5)
    # All of them are tested again, without training.
    for again in reevaluate(plan.folder, None, {"topk": "3,10"}).runs:
        stored, before = load_ranks(again.folder / "ranks.npz"), ranks[again.variant.name]
        assert all(np.array_equal(*pair) for pair in zip(stored, before, strict=True)), again.title


def test_a_general_model_is_said_to_know_less() -> None:
    by_name = {row.name: row.warnings for row in small_plan(model_list="LDiffRec,SASRec", seeds="1").variants}
    assert "knows a user's training items alone" in by_name["LDiffRec"][-1] and not by_name["SASRec"]
