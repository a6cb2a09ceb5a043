from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from small_plans import small_plan

from recbole_diffusion.compare import local, one
from recbole_diffusion.compare.local import Local, gpus_for
from recbole_diffusion.compare.plan import Run


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three GPUs can be seen."""
    monkeypatch.setattr(local.torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


class Process:
    """Is at work until its code is set."""

    code: int | None = None

    def poll(self) -> int | None:
        return self.code


@pytest.fixture
def environments(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What each process is started with."""
    found: list[Any] = []

    def start(run: Run, task: Any, environment: dict[str, str]) -> Process:
        found.append(environment)
        return Process()

    monkeypatch.setattr(local, "start_process", start)
    return found


def runs(seeds: str = "1,2,3,4", **settings: str) -> list[Run]:
    return small_plan(model_list="Pop", seeds=seeds, **settings).runs


def test_gpus_are_shared_out_in_turn(gpus: None, environments: list[Any]) -> None:
    workers = Local(jobs=4)
    processes = [workers.start(run, one.main) for run in runs()]
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in environments] == ["0", "1", "2", "0"]
    # The next takes the GPU that is free.
    processes[1].code = 0  # type: ignore[attr-defined]
    workers.start(runs("5")[0], one.main)
    assert environments[-1]["CUDA_VISIBLE_DEVICES"] == "1"
    # Which is the first that its process sees.
    assert workers.settings(runs()[0]) == {"gpu_id": "0"}


@pytest.mark.parametrize(
    ("visible", "settings", "expected"),
    [
        (None, {}, ["0", "1", "2"]),
        (None, {"use_gpu": "False"}, []),
        ("5,GPU-a,7", {}, ["5", "GPU-a", "7"]),
    ],
)
def test_the_gpus_of_a_row(
    gpus: None, monkeypatch: pytest.MonkeyPatch, visible: str | None, settings: dict[str, str], expected: list[str]
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus_for(runs("1", **settings)[0].variant) == expected


@pytest.mark.parametrize(("gpu_id", "expected"), [("2,0", ["7", "5"]), ("1", ["6"]), ("-1", []), ("", [])])
def test_the_user_chooses_gpus(gpus: None, monkeypatch: pytest.MonkeyPatch, gpu_id: str, expected: list[str]) -> None:
    variant = runs("1", gpu_id=gpu_id)[0].variant
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6,7")
    assert gpus_for(variant) == expected


def test_without_gpus_nothing_is_set(environments: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.torch.cuda, "device_count", lambda: 0)
    workers = Local(jobs=1)
    workers.start(runs("1")[0], one.main)
    assert "CUDA_VISIBLE_DEVICES" not in environments[0] and workers.settings(runs("1")[0]) == {}


def test_processes_that_do_not_end_share_the_time_that_they_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "SECONDS_TO_END", 0.5)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    stubborn = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(3)]
    for process in stubborn:
        with process.stdout as ready:  # type: ignore[union-attr]
            assert ready.readline()
    workers = Local(jobs=3)
    workers._places = dict(enumerate(stubborn))
    begin = time.monotonic()
    workers.close()
    assert 0.5 <= time.monotonic() - begin < 1.5
    assert [process.returncode for process in stubborn] == [-signal.SIGKILL] * 3
