from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from recbole_diffusion.diffusion.noise import HashedNoise, fresh_noise

NOISE = HashedNoise(seed=2024)
ROWS, WIDTH = 4000, 32


def random_history(rows: int = ROWS, length: int = 6, seed: int = 0) -> Tensor:
    return torch.randint(1, 500, (rows, length), generator=torch.Generator().manual_seed(seed))


def read(history: Tensor, draw: int = 0, kind: str = "x_T", timestep: int = 31, noise: HashedNoise = NOISE) -> Tensor:
    return noise.source(noise.history_keys(history), draw)(kind, timestep, (len(history), WIDTH))


def splitmix_finaliser(x: int) -> int:
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) % 2**64
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) % 2**64
    return x ^ x >> 31


@given(st.lists(st.integers(1, 2**40), max_size=8), st.integers(0, 5))
def test_keys_are_those_of_unbounded_integers(items: list[int], padding: int) -> None:
    hashed = [splitmix_finaliser((item + place * 0x9E3779B97F4A7C15) % 2**64) for place, item in enumerate(items)]
    expected = splitmix_finaliser(sum(hashed) % 2**64)
    key = NOISE.history_keys(torch.tensor([items + [0] * padding], dtype=torch.int64))
    assert key.item() % 2**64 == expected


def test_keys_tell_histories_apart() -> None:
    orders = torch.tensor(list(itertools.permutations(range(1, 8))))
    for history in (
        orders,
        torch.arange(1, 200_001)[:, None],
        torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1]]),
    ):
        assert NOISE.history_keys(history).unique().numel() == len(history)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 99), min_size=1, max_size=30), st.integers(1, 9))
def test_values_depend_on_the_row_alone(rows: list[int], padding: int) -> None:
    history = random_history(100)
    chosen = torch.nn.functional.pad(history[rows], (0, padding))
    for kind in ("x_T", "reverse"):
        assert torch.equal(read(chosen, kind=kind), read(history, kind=kind)[rows])

    per_position = [NOISE.source(NOISE.history_keys(h), 1)("lambda", 5, (*h.shape, WIDTH)) for h in (chosen, history)]
    assert torch.equal(per_position[0][:, : history.shape[1]], per_position[1][rows])


def test_values_come_from_the_seed_and_nothing_else() -> None:
    history = random_history(50)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    first = read(history, noise=HashedNoise(7))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(read(history, noise=HashedNoise(7)), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.isclose(read(history, noise=HashedNoise(8)), first).all(1).any()
    torch.set_rng_state(state)


def test_seeds_differ_by_more_than_their_table() -> None:
    history, first, second = random_history(1000), HashedNoise(1), HashedNoise(2)
    second.table = first.table
    assert not (read(history, noise=first) == read(history, noise=second)).all(1).any()


def test_values_are_standard_normal() -> None:
    values = torch.cat([read(random_history(), timestep=t).flatten() for t in range(4)])
    n = values.numel()
    assert abs(values.mean().item()) < 4 / n**0.5
    assert abs(values.var().item() - 1) < 4 * (2 / n) ** 0.5
    assert stats.kstest(values.numpy(), "norm").pvalue > 0.01
    # Each coordinate and each row too: a mean over them must shrink as that of independent draws.
    grid = values.view(-1, WIDTH)
    assert stats.kstest((grid.mean(1) * WIDTH**0.5).numpy(), "norm").pvalue > 0.01
    assert grid.mean(0).abs().max() < 4.5 / len(grid) ** 0.5


def other_item(history: Tensor) -> Tensor:
    changed = history.clone()
    changed[:, -1] = changed[:, -1] % 499 + 1
    return changed


@pytest.mark.parametrize(
    "other",
    [
        lambda history: read(history, timestep=30),
        lambda history: read(history, draw=1),
        lambda history: read(history, kind="reverse"),
        lambda history: read(other_item(history)),
        lambda history: read(history.flip(1)),
        lambda history: read(history[:, :-1]),
        lambda history: read(history.roll(1, 0)),
        lambda history: read(history).roll(1, 1),
    ],
    ids=["timestep", "draw", "kind", "one item", "order", "one item less", "user", "coordinate"],
)
def test_values_are_uncorrelated(other) -> None:
    # Items drawn from 499: no order of six is its own mirror image in this sample.
    history = random_history()
    assert not (history == history.flip(1)).all(1).any()
    first, second = read(history).flatten(), other(history).flatten()
    correlation = torch.corrcoef(torch.stack([first, second]))[0, 1].item()
    assert abs(correlation) < 4.5 / first.numel() ** 0.5
    # Dependence without correlation would show in the sizes.
    correlation = torch.corrcoef(torch.stack([first.abs(), second.abs()]))[0, 1].item()
    assert abs(correlation) < 4.5 / first.numel() ** 0.5


def test_positions_of_a_row_are_uncorrelated() -> None:
    history = random_history(500)
    values = NOISE.source(NOISE.history_keys(history))("lambda", 3, (500, 20, WIDTH))
    correlation = torch.corrcoef(values.transpose(0, 1).reshape(20, -1)) - torch.eye(20)
    assert correlation.abs().max() < 5 / (500 * WIDTH) ** 0.5


def test_values_follow_the_dtype_of_the_module() -> None:
    history = random_history(10)
    doubled = HashedNoise(2024).double()
    assert torch.equal(read(history, noise=doubled), read(history).double())
    assert not doubled.state_dict()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_device_gives_the_same_values() -> None:
    history = random_history()
    assert torch.equal(read(history.cuda(), noise=HashedNoise(2024).cuda()).cpu(), read(history))


@pytest.mark.parametrize("shape", [(3,), (2, 8), (4, 5, 8)])
def test_refuses_shapes_of_other_rows(shape: tuple[int, ...]) -> None:
    source = NOISE.source(NOISE.history_keys(random_history(3)))
    with pytest.raises(ValueError, match="B = 3"):
        source("x_T", 0, shape)


def test_fresh_noise_is_drawn_from_the_global_generator() -> None:
    source = fresh_noise("cpu", torch.float64)
    torch.manual_seed(5)
    first, second = source("x_t", 0, (2, 3)), source("x_t", 0, (2, 3))
    torch.manual_seed(5)
    assert torch.equal(first, torch.randn(2, 3, dtype=torch.float64)) and not torch.equal(first, second)
