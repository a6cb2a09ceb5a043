from __future__ import annotations

from typing import Any

import pytest

from benchmarks import processes
from recbole_diffusion.errors import SettingError
from recbole_diffusion.host.settings import load_config

SMALL = {
    "hidden_size": 16,
    "inner_size": 32,
    "n_layers": 1,
    "n_heads": 2,
    "MAX_ITEM_LIST_LENGTH": 6,
    "train_batch_size": 64,
    "gpu_id": "",
}


def test_two_processes_hold_made_up_data() -> None:
    found = processes.measure([], {**SMALL, "model": "DiffuRec", "interactions": "3000", "processes": "2"})
    assert found["interactions"] == 3000 and list(found["processes"]) == [2]
    held = found["processes"][2]
    assert len(held["pss_mb"]) == 2 and held["sum_of_pss_mb"] > max(held["pss_mb"]) > 0
    assert held["seconds"] > 0


@pytest.fixture
def arranged(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Processes and threads of each run, which is one of this process."""
    found = []

    def here(config_files: Any, settings: Any, number: int, threads: int, action: Any) -> Any:
        found.append((number, threads))
        return action(load_config(None, None, config_files, {**settings, "threads": threads}), False)

    monkeypatch.setattr(processes, "_run", here)
    return found


def test_steps_over_a_made_up_catalogue(arranged: list[tuple[int, int]]) -> None:
    found = processes.measure([], {**SMALL, "model": "DiffuRec", "items": "50", "processes": "1,2"})
    assert found["items"] == 50 and arranged == [(1, 1), (2, 1)]
    assert found["processes"][1]["peak_rss_mb"][0] >= found["processes"][1]["pss_mb"][0] > 0


def test_steps_are_timed_in_turn(arranged: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "ROUNDS", 1)
    settings = {**SMALL, "model": "DiffuRec", "dataset": "ml-100k", "user_inter_num_interval": "[0,24]"}
    found = processes.measure([], settings)
    assert arranged == list(processes.ARRANGEMENTS)
    assert found["against_first"]["1 x 2"] == 1.0 and len(found["samples_per_s"]["2 x 1"]) == 1
    assert found["settings"]["hidden_size"] == 16


def test_numbers_of_processes() -> None:
    with pytest.raises(SettingError, match="processes must be positive whole numbers, such as 1,2,4, got '2,x'"):
        processes.measure([], {**SMALL, "model": "DiffuRec", "processes": "2,x"})
