"""Named beta schedules for any number of diffusion steps T."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import scipy  # which loads its parts on first use: `recommend` needs none
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


def _linear_raw(steps: int) -> Tensor:
    return _linspace(1e-4, 0.02, steps)


def _trunc_lin(steps: int) -> Tensor:
    start, end = (beta + 0.01 for beta in _ends(steps))
    # The authors' way out for a small T keeps every beta below 1, but leaves much of x_0 in x_T.
    return _linspace(start, end if end <= 1 else 1 / steps + 0.01, steps)


def _cosine(steps: int) -> Tensor:
    return _from_abar(lambda u: _cosine_abar(u, 0.008), steps)


def _cosine_clip(steps: int) -> Tensor:
    values = _cosine_abar(torch.arange(steps + 1, dtype=torch.float64) / steps, 0.008)
    return (1 - values[1:] / values[:-1]).clamp(1e-4, 0.9999)


def _exp(steps: int) -> Tensor:
    return 1 - torch.exp(-0.1 / steps - 9.9 * _linspace(1, 2 * steps + 1, steps) / (2 * steps**2))


def _beta(steps: int) -> Tensor:
    quantile = scipy.special.betaincinv(0.3, 10.0, (1 - torch.arange(steps + 1, dtype=torch.float64) / steps).numpy())
    abar = torch.from_numpy(quantile)
    return 1 - abar[1:] / abar[:-1]


def _geometric(steps: int) -> Tensor:
    sigma = 1e-3 * 1e4 ** _linspace(1e-3, 1, steps)
    return -torch.expm1(-sigma.diff(prepend=sigma.new_zeros(1)))


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
    "linear_raw": _linear_raw,
    "cosine_clip": _cosine_clip,
    "exp": _exp,
    "beta": _beta,
    "geometric": _geometric,
}
SCHEDULES = tuple(_RAW)


def is_valid(betas: Tensor) -> bool:
    """Whether 0 < beta < 1 throughout."""
    return bool(((betas > 0) & (betas < 1)).all())


def raw_betas(name: str, steps: int) -> Tensor:
    """Values of a schedule's formula, some of which may lie outside (0, 1).

    `linear` is that of Ho et al. (2020), `cosine` that of Nichol & Dhariwal (2021), `sqrt` that of
    Diffusion-LM (Li et al., 2022); `trunc_lin`, `trunc_cos` and `pw_lin` are those of the code of DiffuRec (Li et al.,
    TOIS 2023); `linear_raw` (from 1e-4 to 0.02 whatever T), `exp` and `cosine_clip` those of DreamRec (Yang et al.,
    NeurIPS 2023); with `beta` abar(i) is the (1 - i/T) quantile of the Beta(0.3, 10) law, as in the code of ADRec (Chen
    et al., KDD 2025), and ends at 0; with `geometric` -log abar goes from 1e-3 to 10 in even steps of its logarithm, as
    in the code of PreferGrow (NeurIPS 2025).

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
    """As `raw_betas`, for schedules that are a valid process at T = `steps`; the last beta of `beta` is 0.999, not 1.

    Raises
    ------
    ValueError
        As `raw_betas`, or 0 < beta < 1 fails somewhere; the message says which T or which schedules would do.
    """
    _check(name, steps)
    problem = _problem(name, steps)
    if problem is None:
        return _capped(name, steps)
    # Ends soon: with T above 20 every schedule is valid.
    valid = next(t for t in itertools.count(steps + 1) if _problem(name, t) is None)
    others = ", ".join(other for other in SCHEDULES if _problem(other, steps) is None)
    raise ValueError(f"{problem}; T = {valid} would do, or at T = {steps} one of {others}")


def betas_of(schedule: str | Sequence[float], steps: int) -> Tensor:
    """The betas of a named schedule, or those of a list.

    Parameters
    ----------
    schedule : str or sequence of float
        One of `SCHEDULES`, or T numbers between 0 and 1.
    steps : int
        T.

    Raises
    ------
    ValueError
        As `named_betas`, or for a list of another length or with numbers outside (0, 1).
    """
    if isinstance(schedule, str):
        return named_betas(schedule, steps)
    betas = torch.tensor([float(beta) for beta in schedule], dtype=torch.float64)
    if len(betas) != steps:
        raise ValueError(f"a list of betas must have one for each of the {steps} diffusion steps, got {len(betas)}")
    if not is_valid(betas):
        raise ValueError("a list of betas must hold numbers between 0 and 1, both excluded")
    return betas


def _check(name: str, steps: int) -> None:
    if name not in _RAW:
        raise ValueError(f"the schedule must be one of {', '.join(SCHEDULES)}, got {name!r}")
    if steps < 1:
        raise ValueError(f"diffusion_steps must be at least 1, got {steps}")


def _problem(name: str, steps: int) -> str | None:
    """Why the schedule is no process at this T, if it is none."""
    try:
        valid = is_valid(_capped(name, steps))
    except ValueError as error:
        return str(error)
    return None if valid else f"schedule {name!r} at T = {steps}: 0 < beta < 1 must hold at every step"


def _capped(name: str, steps: int) -> Tensor:
    betas = raw_betas(name, steps)
    return betas.clamp(max=_LARGEST_BETA) if name == "beta" else betas
