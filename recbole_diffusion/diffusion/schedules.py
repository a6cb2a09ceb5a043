"""Named beta schedules for any number of diffusion steps T."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

_LARGEST_BETA = 0.999
_WARMUP = 10


def _linspace(start: float, end: float, steps: int) -> Tensor:
    return torch.linspace(start, end, steps, dtype=torch.float64)


def _ends(steps: int) -> tuple[float, float]:
    """First and last beta of Ho et al. (2020), rescaled from their 1000 steps."""
    scale = 1000 / steps
    return scale * 1e-4, scale * 0.02


def _from_abar(abar: Callable[[Tensor], Tensor], steps: int) -> Tensor:
    """Capped 1 - abar((i + 1) / T) / abar(i / T)."""
    values = abar(torch.arange(steps + 1, dtype=torch.float64) / steps)
    return (1 - values[1:] / values[:-1]).clamp(max=_LARGEST_BETA)


def _cosine_abar(u: Tensor, offset: float) -> Tensor:
    return torch.cos((u + offset) / (1 + offset) * (math.pi / 2)).square()


def _linear(steps: int) -> Tensor:
    return _linspace(*_ends(steps), steps)


def _trunc_lin(steps: int) -> Tensor:
    start, end = (beta + 0.01 for beta in _ends(steps))
    # The authors' way out for a small T keeps every beta below 1, but leaves much of x_0 in x_T.
    return _linspace(start, end if end <= 1 else 1 / steps + 0.01, steps)


def _cosine(steps: int) -> Tensor:
    return _from_abar(lambda u: _cosine_abar(u, 0.008), steps)


def _sqrt(steps: int) -> Tensor:
    return _from_abar(lambda u: 1 - torch.sqrt(u + 1e-4), steps)


def _trunc_cos(steps: int) -> Tensor:
    first = 1 - _cosine_abar(torch.zeros(1, dtype=torch.float64), 0.1)
    return torch.cat([first, _from_abar(lambda u: _cosine_abar(u, 0.1), steps)[:-1]])


def _pw_lin(steps: int) -> Tensor:
    if steps <= _WARMUP:
        raise ValueError(f"schedule 'pw_lin' at T = {steps}: more than {_WARMUP} steps are needed")
    start, end = _ends(steps)
    return torch.cat([_linspace(start + 0.01, start, _WARMUP), _linspace(start, end, steps - _WARMUP)])


_RAW: dict[str, Callable[[int], Tensor]] = {
    "linear": _linear,
    "trunc_lin": _trunc_lin,
    "cosine": _cosine,
    "sqrt": _sqrt,
    "trunc_cos": _trunc_cos,
    "pw_lin": _pw_lin,
}
SCHEDULES = tuple(_RAW)


def is_valid(betas: Tensor) -> bool:
    """Whether 0 < beta < 1 throughout."""
    return bool(((betas > 0) & (betas < 1)).all())


def raw_betas(name: str, steps: int) -> Tensor:
    """Values of a schedule's formula, some of which may lie outside (0, 1).

    `linear` is that of Ho et al. (2020), `cosine` that of Nichol & Dhariwal (2021), `sqrt` that of
    Diffusion-LM (Li et al., 2022); the others are those of the code of DiffuRec (Li et al., TOIS 2023).

    Parameters
    ----------
    name : str
        One of `SCHEDULES`.
    steps : int
        Number of diffusion steps T.

    Returns
    -------
    Tensor
        Betas, float64 [T].

    Raises
    ------
    ValueError
        Unknown name, T below 1, or `pw_lin` with T of 10 or less.
    """
    _check(name, steps)
    return _RAW[name](steps)


def named_betas(name: str, steps: int) -> Tensor:
    """As `raw_betas`, for schedules that are a valid process at T = `steps`.

    Raises
    ------
    ValueError
        As `raw_betas`, or 0 < beta < 1 fails somewhere; the message says which T or which schedules would do.
    """
    _check(name, steps)
    problem = _problem(name, steps)
    if problem is None:
        return raw_betas(name, steps)
    # Ends soon: with T above 20 every schedule is valid.
    wanted = next(t for t in itertools.count(steps + 1) if _problem(name, t) is None)
    others = ", ".join(other for other in SCHEDULES if _problem(other, steps) is None)
    raise ValueError(f"{problem}; T = {wanted} would do, or at T = {steps} one of {others}")


def _check(name: str, steps: int) -> None:
    if name not in _RAW:
        raise ValueError(f"unknown schedule {name!r}: one of {', '.join(SCHEDULES)} is needed")
    if steps < 1:
        raise ValueError(f"T = {steps} diffusion steps: at least 1 is needed")


def _problem(name: str, steps: int) -> str | None:
    """Why the schedule is no process at this T, if it is none."""
    try:
        valid = is_valid(raw_betas(name, steps))
    except ValueError as error:
        return str(error)
    return None if valid else f"schedule {name!r} at T = {steps}: 0 < beta < 1 must hold at every step"
