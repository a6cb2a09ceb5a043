from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recbole_diffusion.diffusion.guidance import choose_rows, guided
from recbole_diffusion.diffusion.noise import FreshNoise, Noise


def add(amount: float):
    def network(x_t: Tensor, timestep: Tensor, noise: Noise) -> Tensor:
        return x_t + amount * timestep[:, None]

    return network


def test_guidance_is_the_formula() -> None:
    x_t, timestep, noise = torch.randn(3, 2), torch.tensor([0, 1, 2]), FreshNoise("cpu")
    conditional, unconditional = add(1.0), add(-2.0)
    c, u = (network(x_t, timestep, noise) for network in (conditional, unconditional))
    torch.testing.assert_close(guided(conditional, unconditional, 1.5)(x_t, timestep, noise), 2.5 * c - 1.5 * u)


def test_without_weight_the_network_is_left_alone() -> None:
    network = add(1.0)
    assert guided(network, add(2.0), 0) is network


class Pair(NamedTuple):
    vectors: Tensor
    mask: Tensor | None


def test_rows_are_chosen_in_every_part() -> None:
    kept = torch.tensor([True, False])
    condition, other = Pair(torch.ones(2, 3, 4), None), Pair(torch.zeros(4), None)
    chosen = choose_rows(kept, condition, other)
    assert isinstance(chosen, Pair) and chosen.mask is None
    assert chosen.vectors[0].all() and not chosen.vectors[1].any()
