"""Compiling the network of a model (torch.compile)."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from ..errors import SettingError
from ..host.registry import is_recboles
from ..model.layers import Encoder, HistoryEncoder
from ..model.plain import PlainRecommender

logger = logging.getLogger(__name__)


class Compiled:
    """A function that is compiled at its first call; where that fails it runs as it is, and so do the others with it.

    A copy compiles for itself: what is compiled holds the module that the function is bound to.

    Parameters
    ----------
    function : callable
        A method of a module.
    name : str
        For the warning, which is given once for all.
    network : list of Compiled
        Those of the same network, to which it is added.
    """

    def __init__(self, function: Callable[..., Any], name: str, network: list[Compiled]) -> None:
        self.function, self.name, self.network = function, name, network
        self.compiled: Callable[..., Any] | None = None
        self.tried_gradients = self.gave_up = False
        network.append(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.gave_up:
            return self.function(*args, **kwargs)
        if self.compiled is None:
            # Batches differ in length, and each length would be compiled by itself.
            self.compiled = torch.compile(self.function, dynamic=True)
        if not self.tried_gradients and torch.is_grad_enabled():
            self.tried_gradients = True
            failure = self._failure(args, kwargs)
            if failure is not None:
                self._give_up(failure)
                return self.function(*args, **kwargs)
        try:
            return self.compiled(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            self._give_up(error)
            return self.function(*args, **kwargs)

    def _failure(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Exception | None:
        """What fails where value and gradients are computed once, for nothing; an error of another kind comes again.

        torch compiles a backward pass when it is first taken: a failure would end the training there.
        """

        def apart(value: Any) -> Any:
            return value.detach().requires_grad_(value.requires_grad) if isinstance(value, Tensor) else value

        weights = list(self.function.__self__.parameters())  # type: ignore[attr-defined]
        args, kwargs = tree_map(apart, (args, kwargs))
        before = logging.root.manager.disable
        # torch warns of a failure before it raises it.
        logging.disable(logging.WARNING)
        try:
            with torch.random.fork_rng(devices={weight.device for weight in weights if weight.is_cuda}):
                values = self.compiled(*args, **kwargs)  # type: ignore[misc]
            totals = [value.sum() for value in _tensors(values) if value.requires_grad]
            leaves = [leaf for leaf in (*_tensors((args, kwargs)), *weights) if leaf.requires_grad]
            if totals:
                torch.autograd.grad(totals, leaves, allow_unused=True)
            return None
        except Exception as error:
            return error
        finally:
            logging.disable(before)

    def _give_up(self, error: Exception) -> None:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        logger.warning("compile: the network is trained as it is, as %s cannot be compiled (%s)", self.name, reason)
        for part in self.network:
            part.gave_up = True

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "compiled": None, "tried_gradients": False, "gave_up": False}


def _tensors(tree: Any) -> list[Tensor]:
    return [value for value in tree_flatten(tree)[0] if isinstance(value, Tensor)]


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
    if (setting := getattr(model, "two_gradients_by", None)) is not None:
        # What is compiled can go backward once.
        logger.warning("compile: the network is trained as it is, as %s takes two gradients of one pass", setting)
        return
    network: list[Compiled] = []
    for owner, method in _parts(model):
        function = getattr(owner, method)
        setattr(owner, method, Compiled(function, f"{type(owner).__name__}.{method}", network))


def _parts(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """Modules, and the name of the method that is worth compiling."""
    encoders = [part for part in model.modules() if isinstance(part, Encoder | HistoryEncoder)]
    if is_recboles(type(model)):
        yield model, "forward"
    elif isinstance(model, PlainRecommender) and not encoders:
        yield model, "read"
    else:
        yield from ((encoder, "forward") for encoder in encoders)
