"""Where normal draws come from: fresh ones for training, repeatable ones for evaluation.

A `NoiseSource` is called as noise(kind, timestep, shape) and gives standard normals of that shape, [B, ...].
`kind` is a free name that keeps draws apart which serve different ends at one timestep; in use are

- 'x_T': start of the reverse chain,
- 'x_t': the forward process,
- 'reverse': the noise of a reverse step,
- 'lambda': the spread of DiffuRec's lambda,
- 'target', 'history': the spread of DiffRec's continuous items, of the next one and of those before,
- 'history_x_t': the forward process of DiffRec's history, where that is noised too.

A draw that belongs to no single timestep has timestep 0.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

NoiseSource = Callable[[str, int, tuple[int, ...]], Tensor]

# Constants of splitmix64 (Steele, Lea & Flood, 2014) as signed integers.
_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64


def fresh_noise(device: torch.device | str, dtype: torch.dtype = torch.float32) -> NoiseSource:
    """Noise from torch's global generator, new at every call."""

    def draw(kind: str, timestep: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, device=device, dtype=dtype)

    return draw


class HashedNoise(nn.Module):
    """Noise that is a function of (seed, history, kind, timestep, draw), and of the position within a row.

    A fixed table of standard normals is read at hashed offsets, which costs less than drawing. The table is
    made on the CPU, so every device gives the same values, and no generator is touched but its own.

    Parameters
    ----------
    seed : int
        Seed of the table and of the hash.
    size : int
        Entries of the table. Two rows of d values coincide with probability 1 / (size - d + 1).
    """

    table: Tensor

    def __init__(self, seed: int, size: int = 2**20) -> None:
        super().__init__()
        self.seed = seed
        generator = torch.Generator(device="cpu").manual_seed(seed)
        table = torch.randn(size, generator=generator, device="cpu", dtype=torch.float32)
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

    def source(self, keys: Tensor, draw: int = 0) -> NoiseSource:
        """Noise for the rows whose history has these keys.

        Parameters
        ----------
        keys : Tensor
            int64 [B], from `history_keys`; on the device of the module.
        draw : int
            Number of the draw, where several are wanted for one history.

        Returns
        -------
        NoiseSource
            For shapes [B, ..., d]. A row of d values depends on its key and its place in the axes between,
            never on B, on the other rows or on the length of those axes. Raises ValueError for any other B
            or fewer axes.
        """

        def read(kind: str, timestep: int, shape: tuple[int, ...]) -> Tensor:
            if len(shape) < 2 or shape[0] != len(keys):
                raise ValueError(f"noise of shape {tuple(shape)}: [B, ..., d] with B = {len(keys)} is needed")
            offsets = _mix(keys + self._salt(kind, timestep, draw))
            for length in shape[1:-1]:
                offsets = _mix(offsets.unsqueeze(-1) + _GAMMA * torch.arange(length, device=keys.device))
            windows = self.table.unfold(0, shape[-1], 1)
            return windows.index_select(0, offsets.flatten() % len(windows)).view(shape)

        return read

    def _salt(self, kind: str, timestep: int, draw: int) -> int:
        """Signed 64-bit hash that, unlike Python's own, is the same in every process."""
        text = f"{self.seed},{draw},{timestep},{kind}"
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def _mix(x: Tensor) -> Tensor:
    """Finaliser of splitmix64 on int64, whose products wrap around."""
    x = (x ^ _shifted(x, 30)) * _MIX_1
    x = (x ^ _shifted(x, 27)) * _MIX_2
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own drags the sign along."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
