from __future__ import annotations

import re

import pytest
import torch

from recbole_diffusion.diffusion.schedules import SCHEDULES, betas_of, is_valid, named_betas, raw_betas

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
        assert is_valid(betas)
        # The last step of `beta` would leave nothing of x_0.
        assert torch.equal(betas, raw_betas(name, steps).clamp(max=0.999 if name == "beta" else 1))


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
    with pytest.raises(ValueError, match=r"linear, trunc_lin, cosine, sqrt, trunc_cos, pw_lin,.*got 'lineal'"):
        function("lineal", 32)


@pytest.mark.parametrize("function", [raw_betas, named_betas])
@pytest.mark.parametrize("steps", [0, -3])
def test_at_least_one_step(function, steps: int) -> None:
    with pytest.raises(ValueError, match=f"diffusion_steps must be at least 1, got {steps}"):
        function("cosine", steps)


def test_dreamrecs_schedules_end_where_its_code_ends() -> None:
    # linear_raw is not rescaled, so that few steps leave most of x_0; exp ends at exp(-10) whatever T.
    assert torch.cumprod(1 - raw_betas("linear_raw", 100), 0)[-1].item() == pytest.approx(0.3636, abs=1e-4)
    for steps in (500, 2000):
        last = torch.cumprod(1 - raw_betas("exp", steps), 0)[-1].item()
        assert last == pytest.approx(torch.exp(torch.tensor(-0.1 - 9.9 * (steps + 1) / (2 * steps))).item(), rel=1e-2)
    clipped = raw_betas("cosine_clip", 2000)
    assert clipped.min() == 1e-4 and clipped.max() == 0.9999


def test_a_list_of_betas_is_taken_as_it_is() -> None:
    assert betas_of([0.1, 0.5, 0.9], 3).tolist() == [0.1, 0.5, 0.9]
    assert torch.equal(betas_of("cosine", 9), named_betas("cosine", 9))
    with pytest.raises(ValueError, match="one for each of the 4 diffusion steps, got 3"):
        betas_of([0.1, 0.5, 0.9], 4)
    with pytest.raises(ValueError, match="between 0 and 1, both excluded"):
        betas_of([0.1, 1.0], 2)
