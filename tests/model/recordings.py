"""Recorded runs of authors' codes: which of them a parity test checks, and how their layout turns into ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden_files import given_files, name_of, read

from recbole_diffusion.diffusion.process import GaussianProcess, Posterior
from recbole_diffusion.diffusion.samplers import chain_coefficients


def parametrize(metafunc: pytest.Metafunc, mark: str, fixture: str = "recording") -> None:
    """Run a test for each recording that holds the key `mark`: those of --golden=PATH, a file or folder, or of ours."""
    if fixture not in metafunc.fixturenames:
        return
    chosen = [path for path in given_files(metafunc.config) if mark in read(path)]
    if not chosen and not metafunc.config.getoption("--golden"):
        raise pytest.UsageError(f"no recording has the key {mark}, and a test would check nothing")
    metafunc.parametrize(fixture, chosen, ids=name_of, indirect=True, scope="module")


def close(actual: Any, recorded: Any, tolerance: float) -> None:
    actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else actual
    np.testing.assert_allclose(actual, recorded, rtol=0, atol=tolerance)


def single_steps(process: GaussianProcess) -> Posterior:
    """c1, c2 and the variance of every step, [T], by the coefficients of the whole reverse chain."""
    a, b, s = chain_coefficients(process, process.chain(process.longest_chain))
    return Posterior(a.flip(0), b.flip(0), s.square().flip(0))


def block_weights(theirs: dict[str, torch.Tensor], block: str, here: str, post_norm: bool = False) -> dict[str, Any]:
    """Weights of a transformer block `block` of theirs, under the names of our block `here`; both end in a dot."""
    ours = {}
    for part in ("weight", "bias"):
        linear = [theirs[f"{block}attention.linear_layers.{i}.{part}"] for i in range(3)]
        ours[f"{here}attention.query.{part}"] = linear[0]
        ours[f"{here}attention.key_value.{part}"] = torch.cat(linear[1:])
        ours[f"{here}attention.output.{part}"] = theirs[f"{block}attention.w_layer.{part}"]
        ours[f"{here}expand.{part}"] = theirs[f"{block}feed_forward.w_1.{part}"]
        ours[f"{here}contract.{part}"] = theirs[f"{block}feed_forward.w_2.{part}"]
        ours[f"{here}attention_norm.{part}"] = theirs[f"{block}input_sublayer.norm.{part}"]
        ours[f"{here}feed_forward_norm.{part}"] = theirs[f"{block}output_sublayer.norm.{part}"]
    return ours


class Numbers:
    """The arrays of a recording by their keys, and its configuration; `option` replaces what that option recorded.

    Parameters
    ----------
    path : Path
    option : str
        Name of a part `option/NAME/`, or '' for the main run.
    """

    def __init__(self, path: Path, option: str = "") -> None:
        self.path = path
        every = read(path)
        self.options = sorted({key.split("/")[1] for key in every if key.startswith("option/")})
        self.data = {key: value for key, value in every.items() if not key.startswith("option/")}
        if option:
            runs = ("forward/", "reverse/", "gradient/", "float64/")
            self.data = {key: value for key, value in self.data.items() if not key.startswith(runs)}
            prefix = f"option/{option}/"
            self.data |= {key.removeprefix(prefix): every[key] for key in every if key.startswith(prefix)}
        self.size = {key.split("/")[1]: value[()] for key, value in self.data.items() if key.startswith("config/")}
        self.theirs = {
            key.removeprefix("weights/"): torch.tensor(value)
            for key, value in self.data.items()
            if key.startswith("weights/")
        }
        left = self.data["input/sequence_left_padded"]
        self.length = np.minimum(self.data["input/sequence_length"], left.shape[1])
        # Row b of `order` lists the recorded positions as they stand in ours: items first, then padding.
        self.order = np.stack([np.roll(np.arange(left.shape[1]), n) for n in self.length])
        self.interaction = {
            "item_id_list": torch.tensor(np.take_along_axis(left, self.order, axis=1)),
            "item_length": torch.tensor(self.length),
        }

    def moved(self, values: np.ndarray) -> np.ndarray:
        """Values [B, L, ...] of the recorded positions, moved to ours."""
        return np.take_along_axis(values, self.order.reshape(*self.order.shape, *[1] * (values.ndim - 2)), axis=1)

    def check(self, key: str, actual: Any, tolerance: float) -> None:
        """Compare with what was recorded under a key, if it was."""
        if key in self.data:
            close(actual, self.data[key], tolerance)


class DoubleFirst:
    """A recording of which a value is looked up among those in double, and else among the others.

    Parameters
    ----------
    path : Path
    """

    def __init__(self, path: Path) -> None:
        self.data: dict[str, np.ndarray] = read(path)
        self.size = {
            key.removeprefix("config/"): value[()] for key, value in self.data.items() if key.startswith("config/")
        }

    def __contains__(self, key: str) -> bool:
        return key in self.data

    def tensor(self, key: str) -> torch.Tensor:
        """What was handed in or drawn, in double where it is not whole."""
        value = torch.tensor(self.data[key])
        return value.double() if value.is_floating_point() else value

    def compare(self, actual: Any, key: str, tolerance: float, single: float | None = None) -> None:
        """Compare with the value in double, or with the one in float32 within `single`; skip what is not recorded."""
        if f"float64/{key}" in self.data:
            close(actual, self.data[f"float64/{key}"], tolerance)
        elif key in self.data:
            close(actual, self.data[key], tolerance if single is None else single)
