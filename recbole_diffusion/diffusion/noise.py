"""Where random numbers come from: fresh ones for training, repeatable ones for evaluation, given ones for tests.

Every random number of a model has a name, which keeps apart what serves different ends at one step. In use are

- 'timestep': the steps that training draws,
- 'x_T': start of the reverse process,
- 'x_t': the forward process,
- 'reverse': the noise of a reverse step,
- 'guidance_drop': which rows lose their condition in training,
- 'x_t_negative': the forward process of PreferDiff's negatives,
- 'negatives': which other rows of the batch those are,
- 'other_history': whose history PreferDiff's objective `negh` sets against a row's own,
- 'lambda': the spread of DiffuRec's lambda,
- 'history_zeros': the items that FMRec's history decoder learns not to be in the history,
- 'target', 'history': the spread of DiffRec's continuous items, of the next one and of those before,
- 'history_x_t': the forward process of DiffRec's history, where that is noised too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# Constants of splitmix64 (Steele, Lea & Flood, 2014) as signed integers.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64

# Numbers in the table of `HashedNoise`.
_TABLE_SIZE = 2**20
# States whose probabilities are summed together before one of them is picked.
_BLOCK = 128

Shape = tuple[int, ...]


class Noise:
    """A source of random numbers at one step of the process.

    A source gives `normal`; uniform numbers and choices follow from it unless it has better ones.
    """

    def at(self, step: int) -> Noise:
        """The same source at another step."""
        return self

    def normal(self, name: str, shape: Shape) -> Tensor:
        """Standard normal numbers, [B, ...]."""
        raise NotImplementedError(f"{type(self).__name__} needs a method 'normal(name, shape)'")

    def uniform(self, name: str, shape: Shape) -> Tensor:
        """Uniform numbers from 0 to below 1, [B, ...]."""
        below_1 = 1 - 2.0**-24
        return torch.special.ndtr(self.normal(name, shape)).clamp(torch.finfo(torch.float32).tiny, below_1)

    def choice(self, name: str, probabilities: Tensor, shape: Shape) -> Tensor:
        """Indices int64 of `shape`, drawn with replacement.

        Parameters
        ----------
        name : str
        probabilities : Tensor
            [K] for all, or [B, K] for each of the rows [B]; of any positive sum.
        shape : tuple of int
        """
        return pick(probabilities, self.uniform(name, (*shape, 1))[..., 0])


def pick(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """The index at which the running sum of `probabilities`, [K] or [B, K], passes `uniform`, [...] or [B]."""
    if probabilities.dim() > 1:
        return _pick_by_row(probabilities, uniform)
    # float32 would lose the digits of a small probability behind a long sum.
    passed = probabilities.double().cumsum(dim=-1)
    level = uniform.double() * passed[-1]
    return torch.searchsorted(passed, level.contiguous(), right=True).clamp(max=len(passed) - 1)


def _pick_by_row(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """`pick` for [B, K]: first a block of states by the sums of blocks, then a state of it."""
    number = probabilities.shape[1]
    whole = number - number % _BLOCK
    sums = probabilities[:, :whole].unflatten(1, (-1, _BLOCK)).sum(dim=-1)
    sums = torch.cat([sums, probabilities[:, whole:].sum(dim=-1, keepdim=True)], dim=1).double()
    passed = sums.cumsum(dim=-1)
    level = uniform.double()[:, None] * passed[:, -1:]
    block = torch.searchsorted(passed, level, right=True).clamp(max=passed.shape[1] - 1)
    states = block * _BLOCK + torch.arange(_BLOCK, device=block.device)
    inside = probabilities.gather(1, states.clamp(max=number - 1)).double().masked_fill_(states >= number, 0.0)
    # Rounding must not pick a state that cannot be, nor sums that are NaN one beyond the last.
    level = (level - (passed.gather(1, block) - sums.gather(1, block))).clamp(min=0)
    passed = inside.cumsum(dim=-1)
    level = level.minimum(passed[:, -1:] * (1 - 2.0**-50))
    found = block * _BLOCK + torch.searchsorted(passed, level, right=True)
    return found[:, 0].clamp(max=number - 1)


class FreshNoise(Noise):
    """Numbers from a generator, by default torch's global one, new at every call."""

    def __init__(
        self,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        generator: torch.Generator | None = None,
    ) -> None:
        self.device, self.dtype, self.generator = device, dtype, generator

    def normal(self, name: str, shape: Shape) -> Tensor:
        return torch.randn(shape, device=self.device, dtype=self.dtype, generator=self.generator)

    def uniform(self, name: str, shape: Shape) -> Tensor:
        return torch.rand(shape, device=self.device, dtype=self.dtype, generator=self.generator)

    def choice(self, name: str, probabilities: Tensor, shape: Shape) -> Tensor:
        if probabilities.dim() > 1:
            return torch.multinomial(probabilities, 1, generator=self.generator)[:, 0]
        number = int(torch.Size(shape).numel())
        return torch.multinomial(probabilities, number, replacement=True, generator=self.generator).view(shape)


class RowsOfNoise(Noise):
    """The numbers of some rows of a batch: those that a source gives for the whole batch, at these rows.

    Parameters
    ----------
    noise : Noise
        Of the whole batch.
    size : int
        Its rows, B.
    rows : slice
        The rows [b] that numbers [b, ...] are asked for.
    """

    def __init__(self, noise: Noise, size: int, rows: slice) -> None:
        self.noise, self.size, self.rows = noise, size, rows

    def at(self, step: int) -> Noise:
        return RowsOfNoise(self.noise.at(step), self.size, self.rows)

    def _whole(self, shape: Shape) -> Shape:
        if not shape or shape[0] != self.rows.stop - self.rows.start:
            raise ValueError(
                f"numbers of rows must have the shape [{self.rows.stop - self.rows.start}, ...], got {shape}"
            )
        return (self.size, *shape[1:])

    def normal(self, name: str, shape: Shape) -> Tensor:
        return self.noise.normal(name, self._whole(shape))[self.rows]

    def uniform(self, name: str, shape: Shape) -> Tensor:
        return self.noise.uniform(name, self._whole(shape))[self.rows]

    def choice(self, name: str, probabilities: Tensor, shape: Shape) -> Tensor:
        if probabilities.dim() > 1:
            # The probabilities of the other rows are not known here.
            return super().choice(name, probabilities, shape)
        return self.noise.choice(name, probabilities, self._whole(shape))[self.rows]


class GivenNoise(Noise):
    """Numbers that are handed in: recorded ones, or those of a test.

    Parameters
    ----------
    values : mapping
        Name -> what is given for it; or (name, step) -> what is given at that step alone.
    otherwise : Noise, optional
        Gives what is not handed in; without it a missing name is a KeyError.
    step : int
    """

    def __init__(self, values: Mapping[Any, Tensor], otherwise: Noise | None = None, step: int = 0) -> None:
        self.values, self.otherwise, self.step = values, otherwise, step

    def at(self, step: int) -> Noise:
        return GivenNoise(self.values, self.otherwise and self.otherwise.at(step), step)

    def _given(self, name: str, shape: Shape) -> Tensor | None:
        value = self.values.get((name, self.step), self.values.get(name))
        if value is None:
            if self.otherwise is None:
                raise KeyError(f"no numbers are given for {name!r} at step {self.step}")
            return None
        if tuple(value.shape) != tuple(shape):
            raise ValueError(f"numbers for {name!r} must have the shape {tuple(shape)}, got {tuple(value.shape)}")
        return value

    def normal(self, name: str, shape: Shape) -> Tensor:
        given = self._given(name, shape)
        return self.otherwise.normal(name, shape) if given is None and self.otherwise else given  # type: ignore[return-value]

    def uniform(self, name: str, shape: Shape) -> Tensor:
        given = self._given(name, shape)
        return self.otherwise.uniform(name, shape) if given is None and self.otherwise else given  # type: ignore[return-value]

    def choice(self, name: str, probabilities: Tensor, shape: Shape) -> Tensor:
        given = self._given(name, shape)
        if given is None and self.otherwise:
            return self.otherwise.choice(name, probabilities, shape)
        return given  # type: ignore[return-value]


class HashedNoise(nn.Module):
    """Noise that is a function of (seed, history, name, step, draw), and of the position within a row.

    A fixed table of N standard normals is read at hashed offsets, which costs less than drawing. Two rows of d values
    coincide with probability 1 / (N - d + 1). The table is made on the CPU, so every device gives the same values, and
    no generator is touched but its own.

    Parameters
    ----------
    seed : int
        Seed of the table and of the hash.
    """

    table: Tensor

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        generator = torch.Generator(device="cpu").manual_seed(seed)
        table = torch.randn(_TABLE_SIZE, generator=generator, device="cpu", dtype=torch.float32)
        self.register_buffer("table", table, persistent=False)

    @staticmethod
    def history_keys(history: Tensor) -> Tensor:
        """Hash of each history; the order of items counts, padding does not.

        Parameters
        ----------
        history : Tensor
            int64 [B, L], padded with 0 on the right.

        Returns
        -------
        Tensor
            int64 [B].
        """
        positions = torch.arange(history.shape[1], device=history.device)
        hashed = _mix(history + _GAMMA * positions)
        return _mix(hashed.masked_fill(history == 0, 0).sum(1))

    def source(self, keys: Tensor, draw: int = 0) -> Noise:
        """Noise for the rows whose history has these keys.

        Parameters
        ----------
        keys : Tensor
            int64 [B], from `history_keys`; on the device of the module.
        draw : int
            Number of the draw, where several are made for one history.

        Returns
        -------
        Noise
            For shapes [B, ..., d]. A row of d values depends on its key and its place in the axes between,
            never on B, on the other rows or on the length of those axes. Raises ValueError for any other B
            or fewer axes.
        """
        return _HashedSource(self, keys, draw)


class _HashedSource(Noise):
    def __init__(self, noise: HashedNoise, keys: Tensor, draw: int, step: int = 0) -> None:
        self.noise, self.keys, self.draw, self.step = noise, keys, draw, step

    def at(self, step: int) -> Noise:
        return _HashedSource(self.noise, self.keys, self.draw, step)

    def normal(self, name: str, shape: Shape) -> Tensor:
        keys = self.keys
        if len(shape) < 2 or shape[0] != len(keys):
            raise ValueError(f"noise must have a shape [B, ..., d] with B = {len(keys)}, got {tuple(shape)}")
        offsets = _mix(keys + self._salt(name))
        for length in shape[1:-1]:
            offsets = _mix(offsets.unsqueeze(-1) + _GAMMA * torch.arange(length, device=keys.device))
        windows = self.noise.table.unfold(0, shape[-1], 1)
        return windows.index_select(0, offsets.flatten() % len(windows)).view(shape)

    def _salt(self, name: str) -> int:
        """Signed 64-bit hash that, unlike Python's own, is the same in every process."""
        text = f"{self.noise.seed},{self.draw},{self.step},{name}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def _mix(x: Tensor) -> Tensor:
    """Finaliser of splitmix64 on int64, whose products wrap around."""
    x = (x ^ _shifted(x, 30)) * _MIX_1
    x = (x ^ _shifted(x, 27)) * _MIX_2
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own drags the sign along."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
