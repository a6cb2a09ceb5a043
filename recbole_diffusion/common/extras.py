"""Packages that `pip install recbole-diffusion` leaves out, and the extra that installs each."""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import UserError

# Extra -> the modules that it is for, as in setup.cfg.
EXTRAS = {
    "cluster": ("submitit",),
    "compare": ("matplotlib", "plotly", "rich"),
    "explore": ("plotly",),
    "parquet": ("pyarrow",),
    "tune": ("optuna",),
    "wandb": ("wandb",),
}


def require_extra(extra: str, use: str) -> None:
    """Check that an extra is installed, before its modules are imported.

    Parameters
    ----------
    extra : str
        A key of `EXTRAS`.
    use : str
        What needs it, as the subject of a sentence.

    Raises
    ------
    UserError
        With the command that installs the extra.
    """
    missing = [module for module in EXTRAS[extra] if find_spec(module) is None]
    if missing:
        raise UserError(f'{use} needs {", ".join(missing)}: pip install "recbole-diffusion[{extra}]"')
