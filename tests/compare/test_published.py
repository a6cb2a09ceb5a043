"""The published runs: what the archives in results/ hold is what the pages say."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_diffusion.compare.archive import read_archive, unpack
from recbole_diffusion.compare.plan import make_plan, read_request
from recbole_diffusion.compare.states import state_of
from recbole_diffusion.evaluation.ranks import hit, ndcg

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"
DATASETS = ("amazon-beauty", "amazon-toys", "ml-100k", "ml-1m")
# Archives of comparisons beside those of the datasets' pages, with both rankings.
BOTH = (
    *("amazon-beauty-authors", "amazon-beauty-prefergrow", "amazon-beauty-rankings", "amazon-toys-rankings"),
    *("ml-100k-chain", "ml-100k-dropout", "ml-100k-family", "ml-100k-temporal", "ml-1m-sequences"),
)
# Archives in which a user has several targets.
SUCCESSIVE = ("ml-100k-temporal",)
YAMLS = sorted([*RESULTS.glob("*.yaml"), *RESULTS.glob("notes/*.yaml")])
# An archive of runs may grow; a file that was not meant to be there is larger than what is left.
LARGEST_TREE = 6_000_000


@cache
def members(dataset: str) -> dict[str, bytes]:
    return read_archive(RESULTS / f"{dataset}.tar.xz")


def records(dataset: str) -> dict[str, dict[str, Any]]:
    """The record of each run: its place in the archive -> record."""
    suffix = "/record.json"
    return {n.removesuffix(suffix): json.loads(c) for n, c in members(dataset).items() if n.endswith(suffix)}


@pytest.mark.parametrize("archive", [*DATASETS, *BOTH])
def test_metrics_of_the_archived_ranks_are_those_recorded(archive: str) -> None:
    assert records(archive)
    for folder, record in records(archive).items():
        with np.load(io.BytesIO(members(archive)[f"{folder}/ranks.npz"])) as columns:
            assert (len(np.unique(columns["user"])) == len(columns["rank"])) == (archive not in SUCCESSIVE)
            ranks = {"": columns["rank"]}
            assert "rank_out" in columns or archive not in BOTH
            if "rank_out" in columns:
                ranks["_history_out"] = columns["rank_out"]
        # Records have four places.
        for suffix, rank in ranks.items():
            for k in (5, 10, 20):
                assert abs(hit(rank, k).mean() - record["test_result"][f"hit@{k}{suffix}"]) < 0.000051, folder
                assert abs(ndcg(rank, k).mean() - record["test_result"][f"ndcg@{k}{suffix}"]) < 0.000051, folder


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_leaderboard_shows_the_archived_means(dataset: str) -> None:
    text = (RESULTS / f"{dataset}.md").read_text(encoding="utf-8")
    header = re.search(r"^\|(.*\| NDCG@10 \|.*)\|\n", text, re.MULTILINE)
    assert header is not None
    columns = [cell.strip() for cell in header[1].split("|")]
    runs = records(dataset)
    shown = {}
    for line in text[header.end() :].splitlines()[1:]:
        if not line.startswith("|"):
            break
        cells = dict(zip(columns, (cell.strip(" *") for cell in line.strip("|").split("|")), strict=True))
        name = cells[columns[0]]
        values = [record["test_result"] for folder, record in runs.items() if folder.split("/")[1] == name]
        if not values:
            assert "paper" in name
            continue
        for metric in ("Hit@10", "NDCG@10"):
            mean = float(cells[metric].split(" ")[0])
            assert abs(mean - np.mean([value[metric.lower()] for value in values])) < 0.000051, (name, metric)
            shown[name] = len(values)
    assert len(shown) >= 4


def test_the_table_of_the_readme_shows_archived_figures() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = re.search(r"^\| model .*history out.*\|\n\|[-|]+\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table is not None
    archived = {
        tuple(f"{record['test_result'][name]:.4f}" for name in ("ndcg@10", "ndcg@10_history_out"))
        for archive in ("amazon-beauty-rankings", "amazon-beauty-authors")
        for record in records(archive).values()
    }
    shown = {tuple(cell.strip() for cell in line.split("|")[2:4]) for line in table[1].splitlines()}
    assert len(shown) >= 7 and shown <= archived


@pytest.mark.parametrize("file", YAMLS, ids=lambda file: file.stem)
def test_the_command_of_a_page_trains_nothing(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    plan = make_plan(read_request({"output": str(tmp_path)}, [str(file)], ""))
    own = file.stem if file.stem in BOTH else plan.dataset
    assert plan.archive == Path("results", f"{own}.tar.xz")
    unpack(plan)
    assert [run.title for run in plan.runs if state_of(run)["state"] != "done"] == []


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_the_tree_is_small_and_its_names_are_ascii() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout.decode()
    names = [name for name in listed.split("\0") if name and (ROOT / name).exists()]
    assert [name for name in names if not name.isascii()] == []
    assert [name for dataset in DATASETS for name in members(dataset) if not name.isascii()] == []
    assert sum((ROOT / name).stat().st_size for name in names) < LARGEST_TREE
