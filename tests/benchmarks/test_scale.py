from __future__ import annotations

import os
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks import scale, speed
from recbole_diffusion.cli.exit_codes import run_command
from recbole_diffusion.host.settings import load_config

SMALL = ["--hidden_size=16", "--inner_size=32", "--n_layers=1", "--n_heads=2", "--gpu_id="]


def here(section: scale.Section, settings: dict[str, Any], size: int) -> dict[str, float]:
    return section.measure(settings, size)


def test_a_quick_look_gives_tables_and_a_plot(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A process of its own costs seconds.
    monkeypatch.setattr(scale, "_alone", here)
    fewer = [section._replace(quick=section.quick[:1]) for section in scale.SECTIONS]
    monkeypatch.setattr(scale, "SECTIONS", fewer)
    folder = tmp_path / "plots"
    assert run_command(lambda: speed.run(["--scale", "--quick", "--model=DiffuRec", *SMALL, f"--output={folder}"])) == 0
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    for section in fewer:
        head = next(number for number, row in enumerate(cells) if row[:1] == [section.name])
        rows = [[float(cell.replace(",", "")) for cell in row] for row in cells[head + 2 :][: len(section.quick)]]
        assert [row[0] for row in rows] == list(section.quick)
        assert all(len(row) == len(cells[head]) and np.isfinite(row).all() for row in rows)
    assert [path.name for path in folder.iterdir()] == ["scale.png"]
    assert (folder / "scale.png").read_bytes().startswith(b"\x89PNG")


def leaves(settings: dict[str, Any], size: int) -> dict[str, float]:
    os._exit(9)


def test_a_point_that_is_killed_does_not_take_the_others_along() -> None:
    section = scale.Section("interactions", (1,), (1,), leaves)
    assert isnan(scale._alone(section, {}, 1)["killed"])


def test_exponents_are_those_of_a_power_law() -> None:
    rows = [{"items": size, "step (s)": 1e-3 * size**1.5, "peak (MB)": 7.0 * size} for size in (10, 100, 400)]
    assert scale.exponents(rows) == "exponent of growth from 100 to 400: step 1.50, peak 1.00"
    assert scale.exponents([*rows[:2], {"items": 400, "killed": float("nan")}]).endswith("too few points")
    assert scale.exponents(rows[:1]).endswith("too few points")


def test_a_model_without_a_reverse_chain_has_no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("SASRec", "made-up", None, {"gpu_id": ""})
    monkeypatch.setattr(scale, "_alone", here)
    counting = [section._replace(measure=lambda settings, size: {"size": size}) for section in scale.SECTIONS[:3]]
    monkeypatch.setattr(scale, "SECTIONS", (*counting, scale.SECTIONS[3]))
    tables = scale._measure_all(config, {}, quick=False)
    assert list(tables) == ["interactions", "history length", "catalogue"]
    assert [row["size"] for row in tables["interactions"]] == [10**5, 10**6, 10**7, 5 * 10**7]


@pytest.mark.parametrize(("model", "longest"), [("DiffuRec", 32), ("PreferGrow", 16), ("RFMRec", 32)])
def test_a_chain_is_as_long_as_the_process_allows(model: str, longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(model, "made-up", None, {"gpu_id": ""})
    monkeypatch.setattr(scale, "_alone", lambda section, settings, size: {"size": size})
    tables = scale._measure_all(config, {}, quick=False)
    assert [row["size"] for row in tables["inference steps"]][-1] == longest


def test_made_up_interactions_have_a_long_tail(tmp_path: Path) -> None:
    scale.write_long_tailed(tmp_path, 30_000)
    table = pd.read_csv(tmp_path / scale.DATASET / f"{scale.DATASET}.inter", sep="\t")
    assert len(table) == 30_000
    lengths = table.groupby("user_id:token").size()
    assert lengths.max() > 20 * lengths.median()


def test_made_up_histories_are_padded_on_the_right() -> None:
    config = load_config("SASRec", "made-up", None, {"gpu_id": ""})
    batch = scale.made_up_batch(config, 9, np.array([1, 4, 2]))
    real = batch["item_id_list"] > 0
    assert torch.equal(real.sum(dim=1), batch["item_length"])
    assert torch.equal(real, torch.arange(4) < batch["item_length"][:, None])
    assert int(batch["item_id_list"].max()) <= 9 and int(batch["item_id"].min()) >= 1
