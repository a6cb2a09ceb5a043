"""Training steps on a GPU as CUDA graphs, so that the host starts a step with one call."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from ..errors import SettingError
from ..host.registry import is_recboles

# Of RecBole's models, those whose loss is known to depend on the batch's tensors and torch's random numbers alone. One
# that draws with NumPy, say, would repeat the first draw for ever.
RECBOLES = ("SASRec", "GRU4Rec", "LightSANs")


class Recorded(NamedTuple):
    """A step that can be taken again.

    inputs : Interaction
        The tensors that the step reads, to be written into.
    replay : callable
        Takes the step.
    losses : Tensor
        Where it leaves the batch's losses.
    """

    inputs: Interaction
    replay: Callable[[], Any]
    losses: Tensor


def obstacle(config: Any, model: nn.Module, optimizer: Optimizer, scaled: bool) -> str | None:
    """Why the steps of a training cannot be recorded; None where they can."""
    # What a class inherits says nothing of what it adds.
    known = vars(type(model)).get("records_steps", is_recboles(type(model)) and type(model).__name__ in RECBOLES)
    if config["device"].type != "cuda":
        return "there is no GPU in use"
    if not known:
        return f"{type(model).__name__} is not known to allow it"
    if not isinstance(optimizer, Adam | AdamW):
        return f"learner={config['learner']} does not allow it"
    return "enable_scaler looks at each step's gradients" if scaled else None


class RecordedSteps:
    """Takes training steps, and records each shape of batch when it comes up for the second time.

    A small network's step is several hundred short kernels, which the host takes longer to start than the GPU to run. A
    recorded one runs the same kernels on the same random numbers.

    Parameters
    ----------
    step : callable
        Takes a training step on an Interaction, without ever waiting for the GPU; gives its losses.
        All numbers that it reads elsewhere than in tensors, as the learning rate, have to stay as they are.
    """

    def __init__(self, step: Callable[[Interaction], Tensor]) -> None:
        self.step = step
        # None where the shape has come up once.
        self._steps: dict[Hashable, Recorded | None] = {}
        self._stream: Any = None
        self._pool: Any = None

    def __call__(self, interaction: Interaction) -> Tensor:
        """Take a step; gives its losses.

        Raises
        ------
        SettingError
            Where the step cannot be recorded.
        """
        columns = interaction.interaction
        shape = tuple((name, column.shape, column.dtype) for name, column in columns.items())
        # To draw one number, torch may look at the probabilities, which a recording does not allow.
        if len(interaction) == 1:
            return self.aside(interaction)
        if shape not in self._steps:
            self._steps[shape] = None
            return self.aside(interaction)
        recorded = self._steps[shape]
        if recorded is None:
            self._steps[shape] = recorded = self.record(
                Interaction({name: column.clone() for name, column in columns.items()})
            )
        else:
            for name, column in columns.items():
                recorded.inputs[name].copy_(column)
        recorded.replay()
        # The next step, of whatever shape, writes over it.
        return recorded.losses.clone()

    def aside(self, interaction: Interaction) -> Tensor:
        """Take a step unrecorded, on the stream of the recordings: what torch sets up at first use has to be there."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()
            self._pool = torch.cuda.graph_pool_handle()
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            losses = self.step(interaction)
        torch.cuda.current_stream().wait_stream(self._stream)
        return losses

    def record(self, inputs: Interaction) -> Recorded:
        """Record a step without taking it. All recordings share their memory, as only one runs at a time."""
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: a thread of tensorboard's, say, may go about its business.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                losses = self.step(inputs)
        except RuntimeError as error:
            cause = error.__context__ or error
            must = f"be False, as a step cannot be recorded ({str(cause).splitlines()[0]})"
            raise SettingError("cuda_graphs", True, must=must) from error
        return Recorded(inputs, graph.replay, losses)
