"""An exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class AveragedWeights:
    """The average `decay * average + (1 - decay) * weight` of every parameter, taken after each step.

    It starts from the weights as they are. Buffers are not averaged.

    Parameters
    ----------
    model : nn.Module
    decay : float
        From 0 (the weights themselves) to below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._parameters = list(model.parameters())
        self._values = [parameter.detach().clone() for parameter in self._parameters]
        by_parameter = dict(zip(map(id, self._parameters), self._values, strict=True))
        # A tensor that two layers share stands under both names, as in a state dict.
        named = model.named_parameters(remove_duplicate=False)
        self.state: dict[str, Tensor] = {name: by_parameter[id(parameter)] for name, parameter in named}
        self._average = get_ema_multi_avg_fn(decay)

    def update(self) -> None:
        """Take the present weights in. It never waits for a GPU, so that it can be part of a recorded step."""
        self._average(self._values, self._parameters, None)

    @torch.no_grad()
    def restart(self, values: Mapping[str, Tensor] | None = None) -> None:
        """Go on from `values`, which are a `state`, or else from the present weights."""
        if values is None:
            copy_all(self._parameters, self._values)
        else:
            for name, value in values.items():
                self.state[name].copy_(value)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the model hold the averaged weights, and afterwards its own again, to the bit."""
        own = [parameter.detach().clone() for parameter in self._parameters]
        copy_all(self._values, self._parameters)
        try:
            yield
        finally:
            copy_all(own, self._parameters)


@torch.no_grad()
def copy_all(source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
    """Copy tensors into others: recorded steps and fused layers know the weights by their place in memory."""
    for new, old in zip(source, target, strict=True):
        old.copy_(new)
