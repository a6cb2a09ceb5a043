"""Compiling the network of a model (torch.compile)."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from ..errors import SettingError
from ..host.registry import is_recboles
from ..model.layers import Encoder, HistoryEncoder
from ..model.plain import PlainRecommender

logger = logging.getLogger(__name__)


class Compiled:
    """A function that is compiled at its first call; where that fails it runs as it is, which a warning says once.

    A copy compiles for itself: what is compiled holds the module that the function is bound to.

    Parameters
    ----------
    function : callable
    name : str
        For the warning.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function, self.name = function, name
        self.call: Callable[..., Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.call is None:
            # Batches differ in length, and each length would be compiled by itself.
            self.call = torch.compile(self.function, dynamic=True)
        try:
            return self.call(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            logger.warning("compile: %s is not compiled (%s)", self.name, str(error).splitlines()[0])
            self.call = self.function
            return self.function(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "call": None}


def compile_network(model: nn.Module, device: torch.device) -> None:
    """Compile what a model's steps spend their time in: the encoders of our models, the forward pass of others.

    Parameters
    ----------
    model : nn.Module
        Its parameters, and what a checkpoint holds of it, stay as they are.
    device : torch.device
        Code for a CPU needs a compiler of C++.

    Raises
    ------
    SettingError
        Where there is none.
    """
    compilers = (os.environ.get("CXX"), "g++", "clang++", "cl")
    if device.type == "cpu" and not any(name and shutil.which(name) for name in compilers):
        raise SettingError("compile", True, must="be False where no C++ compiler (g++ or clang++) is installed")
    for owner, method in _parts(model):
        function = getattr(owner, method)
        setattr(owner, method, Compiled(function, f"{type(owner).__name__}.{method}"))


def _parts(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Modules, and the name of the method that is worth compiling."""
    if is_recboles(type(model)):
        yield model, "forward"
    elif isinstance(model, PlainRecommender):
        yield model, "read"
    else:
        yield from ((part, "forward") for part in model.modules() if isinstance(part, Encoder | HistoryEncoder))
