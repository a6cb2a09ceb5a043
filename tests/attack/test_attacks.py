"""The attackers, with few tries each; `python -m tests.attack` has as many as it is told to make."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from attack.attacks import ATTACKS, Attacks, changed_bytes, command, one_line
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from saved_models import Saved

from recbole_diffusion.errors import UserError

# How often each is tried: together about half a minute.
TRIES = {
    "settings": 30,
    "trainings": 25,
    "command_lines": 60,
    "atomic_files": 30,
    "checkpoint_bytes": 100,
    "checkpoint_parts": 40,
    "histories": 20,
}


@pytest.fixture(scope="module")
def attacks(saved: Callable[..., Saved], tmp_path_factory: pytest.TempPathFactory) -> Attacks:
    return Attacks(saved("DiffuRec").path, tmp_path_factory.mktemp("attacked"))


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_answered_rightly_or_in_one_line(attacks: Attacks, name: str) -> None:
    # A failure names its seed; to shrink a seed makes nothing simpler.
    @settings(max_examples=TRIES[name], derandomize=True, deadline=None, database=None, phases=[Phase.generate])
    @given(seed=st.integers(0, 2**32 - 1))
    def attack(seed: int) -> None:
        getattr(attacks, name)(random.Random(seed))

    attack()


def test_attackers_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise KeyError("x")

    def silent() -> None:
        raise UserError(" ")

    for action, kind in ((broken, KeyError), (silent, AssertionError)):
        with pytest.raises(kind):
            one_line(action)
    monkeypatch.setattr("attack.attacks.main", lambda argv: 1)
    with pytest.raises(AssertionError):
        command("train")
    content = bytes(1000)
    assert sum(changed_bytes(random.Random(seed), content) != content for seed in range(50)) >= 40
