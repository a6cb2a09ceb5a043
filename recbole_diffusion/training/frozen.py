"""Parameters that the optimizer leaves alone for the first epochs."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..errors import SettingError


def frozen_parameters(model: nn.Module, names: Sequence[str]) -> list[nn.Parameter]:
    """The trainable parameters of that name, and those of the modules of that name.

    Raises
    ------
    SettingError
        Where a name is of neither, or no parameter is left to train.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    found: dict[str, nn.Parameter] = {}
    for name in names:
        matching = {key: value for key, value in trainable.items() if key == name or key.startswith(f"{name}.")}
        if not matching:
            known = ", ".join(dict.fromkeys(key.split(".")[0] for key in trainable))
            raise SettingError("frozen", name, must=f"name parameters of {type(model).__name__} ({known})")
        found |= matching
    if len(found) == len(trainable):
        raise SettingError("frozen", list(names), must="leave a parameter to train")
    return list(found.values())
