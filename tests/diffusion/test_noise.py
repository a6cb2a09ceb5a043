from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from marks import needs_gpu
from scipy import stats
from torch import Tensor

from recbole_diffusion.diffusion.noise import FreshNoise, GivenNoise, HashedNoise, Noise, pick

NOISE = HashedNoise(seed=2024)
ROWS, WIDTH = 4000, 32


def random_history(rows: int = ROWS, length: int = 6, seed: int = 0) -> Tensor:
    return torch.randint(1, 500, (rows, length), generator=torch.Generator().manual_seed(seed))


def read(history: Tensor, draw: int = 0, kind: str = "x_T", timestep: int = 31, noise: HashedNoise = NOISE) -> Tensor:
    return noise.source(noise.history_keys(history), draw).at(timestep).normal(kind, (len(history), WIDTH))


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

    sources = [(NOISE.source(NOISE.history_keys(h), 1).at(5), h.shape) for h in (chosen, history)]
    per_position = [source.normal("lambda", (*shape, WIDTH)) for source, shape in sources]
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
    values = NOISE.source(NOISE.history_keys(history)).at(3).normal("lambda", (500, 20, WIDTH))
    correlation = torch.corrcoef(values.transpose(0, 1).reshape(20, -1)) - torch.eye(20)
    assert correlation.abs().max() < 5 / (500 * WIDTH) ** 0.5


def test_values_follow_the_dtype_of_the_module() -> None:
    history = random_history(10)
    doubled = HashedNoise(2024).double()
    assert torch.equal(read(history, noise=doubled), read(history).double())
    assert not doubled.state_dict()


@needs_gpu
def test_every_device_gives_the_same_values() -> None:
    history = random_history()
    assert torch.equal(read(history.cuda(), noise=HashedNoise(2024).cuda()).cpu(), read(history))


@pytest.mark.parametrize("shape", [(3,), (2, 8), (4, 5, 8)])
def test_refuses_shapes_of_other_rows(shape: tuple[int, ...]) -> None:
    source = NOISE.source(NOISE.history_keys(random_history(3)))
    with pytest.raises(ValueError, match="B = 3"):
        source.normal("x_T", shape)


def test_fresh_noise_is_drawn_from_the_global_generator() -> None:
    source = FreshNoise("cpu", torch.float64)
    torch.manual_seed(5)
    first, second = source.normal("x_t", (2, 3)), source.at(4).normal("x_t", (2, 3))
    torch.manual_seed(5)
    assert torch.equal(first, torch.randn(2, 3, dtype=torch.float64)) and not torch.equal(first, second)


@pytest.mark.parametrize("source", [FreshNoise("cpu"), NOISE.source(NOISE.history_keys(random_history()))])
def test_uniform_numbers_are_uniform_and_never_0_or_1(source: Noise) -> None:
    torch.manual_seed(0)
    values = source.uniform("x_t", (ROWS, WIDTH))
    assert values.min() > 0 and values.max() < 1
    assert stats.kstest(values.flatten().numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("source", [FreshNoise("cpu"), NOISE.source(NOISE.history_keys(random_history()))])
def test_choices_follow_their_probabilities(source: Noise) -> None:
    torch.manual_seed(0)
    p = torch.tensor([0.0, 0.5, 0.2, 0.0, 0.3])
    for probabilities in (p, p.repeat(ROWS, 1), 7 * p):
        counts = torch.bincount(source.choice("timestep", probabilities, (ROWS,)), minlength=5)
        assert counts[0] == counts[3] == 0
        assert stats.chisquare(counts[[1, 2, 4]].numpy(), ROWS * p[[1, 2, 4]].numpy()).pvalue > 1e-3
    assert source.choice("timestep", p, (ROWS, 3)).shape == (ROWS, 3)


def test_pick_is_the_inverse_of_the_running_sum() -> None:
    p = torch.tensor([0.25, 0.0, 0.5, 0.25])
    uniform = torch.tensor([1e-9, 0.2499, 0.2501, 0.7499, 0.7501, 1 - 1e-7])
    assert pick(p, uniform).tolist() == [0, 0, 2, 2, 3, 3]
    assert pick(p.repeat(6, 1), uniform).tolist() == [0, 0, 2, 2, 3, 3]


@pytest.mark.parametrize("states", [100, 128, 1000])
def test_pick_by_row_is_the_inverse_of_the_running_sum_of_many_states(states: int) -> None:
    torch.manual_seed(0)
    p = torch.rand(ROWS, states) ** 8
    p[:, -5:] = 0
    uniform = torch.rand(ROWS)
    uniform[:2] = torch.tensor([1e-12, 1 - 2.0**-24])
    passed = p.double().cumsum(dim=1)
    level = uniform.double() * passed[:, -1]
    found = pick(p, uniform)
    assert (p.gather(1, found[:, None]) > 0).all()
    before = passed.gather(1, found[:, None])[:, 0]
    # Within rounding of float32 sums.
    slack = 1e-6 * passed[:, -1]
    assert (before > level - slack).all() and (before - p.gather(1, found[:, None])[:, 0] <= level + slack).all()


def test_rows_without_a_sum_still_give_a_state() -> None:
    p = torch.full((3, 300), torch.nan)
    p[1], p[2] = torch.inf, 0.0
    found = pick(p, torch.tensor([0.2, 0.5, 0.9]))
    assert ((found >= 0) & (found < 300)).all()


def test_given_numbers_are_used_by_name_and_step() -> None:
    normal, late = torch.randn(2, 3), torch.randn(2, 3)
    noise = GivenNoise({"reverse": normal, ("reverse", 7): late, "timestep": torch.tensor([4, 5])})
    assert torch.equal(noise.normal("reverse", (2, 3)), normal)
    assert torch.equal(noise.at(7).normal("reverse", (2, 3)), late)
    assert noise.choice("timestep", torch.ones(9), (2,)).tolist() == [4, 5]
    with pytest.raises(ValueError, match=r"'reverse' must have the shape \(3, 3\), got \(2, 3\)"):
        noise.uniform("reverse", (3, 3))
    with pytest.raises(KeyError, match="'x_T' at step 2"):
        noise.at(2).normal("x_T", (2, 3))


def test_what_is_not_given_comes_from_the_other_source() -> None:
    other = NOISE.source(NOISE.history_keys(random_history(2)))
    noise = GivenNoise({"x_t": torch.zeros(2, 3)}, other)
    assert torch.equal(noise.at(5).normal("x_T", (2, 3)), other.at(5).normal("x_T", (2, 3)))
    assert torch.equal(noise.at(5).uniform("u", (2, 3)), other.at(5).uniform("u", (2, 3)))
    p = torch.ones(50)
    assert torch.equal(noise.choice("t", p, (2,)), other.choice("t", p, (2,)))
    assert not noise.normal("x_t", (2, 3)).any()
