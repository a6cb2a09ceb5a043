from __future__ import annotations

import re

import pytest
import torch

from recbole_diffusion.diffusion.schedules import SCHEDULES, is_valid, named_betas, raw_betas

REFUSED = [("linear", 2), ("linear", 16), ("linear", 20), ("pw_lin", 1), ("pw_lin", 10), ("pw_lin", 16)]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [11, 21, 33])
def test_one_float64_beta_a_step(name: str, steps: int) -> None:
    betas = raw_betas(name, steps)
    assert betas.shape == (steps,) and betas.dtype == torch.float64


@pytest.mark.parametrize("name", SCHEDULES)
def test_named_betas_are_the_raw_ones_and_all_valid_above_20_steps(name: str) -> None:
    for steps in [*range(21, 60), 100, 999, 1000, 2000]:
        betas = named_betas(name, steps)
        assert is_valid(betas) and torch.equal(betas, raw_betas(name, steps))


@pytest.mark.parametrize(("name", "steps"), REFUSED)
def test_refusal_names_only_what_would_do(name: str, steps: int) -> None:
    with pytest.raises(ValueError, match=rf"'{name}' at T = {steps}:") as refusal:
        named_betas(name, steps)
    message = str(refusal.value)
    assert "\n" not in message

    smallest = int(re.search(r"; T = (\d+) would do", message)[1])
    assert named_betas(name, smallest).shape == (smallest,)
    for fewer in range(steps, smallest):
        with pytest.raises(ValueError):
            named_betas(name, fewer)

    offered = message.split("one of ")[1].split(", ")
    assert offered
    for other in SCHEDULES:
        if other in offered:
            assert is_valid(named_betas(other, steps))
        else:
            with pytest.raises(ValueError):
                named_betas(other, steps)


@pytest.mark.parametrize("function", [raw_betas, named_betas])
def test_unknown_schedule_lists_the_known(function) -> None:
    with pytest.raises(ValueError, match=r"'lineal'.*linear, trunc_lin, cosine, sqrt, trunc_cos, pw_lin"):
        function("lineal", 32)


@pytest.mark.parametrize("function", [raw_betas, named_betas])
@pytest.mark.parametrize("steps", [0, -3])
def test_at_least_one_step(function, steps: int) -> None:
    with pytest.raises(ValueError, match=f"T = {steps} .*at least 1"):
        function("cosine", steps)
