"""Several processes that train one model together: what they share out, and what they agree on.

The processes of a machine map the same data. Each has the whole model, and makes the same batches in the same order. Of
a training batch it computes some rows; losses and gradients are added up, so that all take the same step. Of an
evaluation it takes every n-th batch. What is decided once, and whatever is written, is the first process's.
"""

from __future__ import annotations

import copy
import os
import socket
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from recbole.evaluator.collector import DataStruct
from torch import Tensor, nn

from ..common.files import write_text
from ..diffusion.noise import Noise
from ..errors import ReportedElsewhere, SettingError, UserError
from ..host import shared_data
from ..host.registry import is_ours, is_recboles
from ..host.shared_data import SplitData
from ..model.base import DiffusionRecommender
from ..model.plain import PlainRecommender
from ..model.sharing import Batch, History, PartOfBatch, rows_of
from ..model.splitting import split_weights
from . import checkpoint

# Numbers of a gradient from which it is added up where it stands; smaller ones travel together.
LARGE = 2**20
# Seconds that a process waits for what others have to say of an error.
SECONDS_TO_HEAR = 3.0
# What a loss over some rows may differ by from its part of the whole, where it is added up as such.
TOLERANCE = 1e-4
# Of RecBole's models, those whose loss is known to be a mean: over the rows, or over what the function counts in a row.
KNOWN: dict[str, Callable[[Any], Tensor] | None] = {
    "SASRec": None,
    "BERT4Rec": lambda interaction: (interaction["MASK_INDEX"] > 0).sum(dim=1),
}


class LostProcess(UserError):
    """Another process of the run does not answer any more."""


class Alone:
    """A process that trains by itself; and what a process of several has to say, for those that do not care.

    Attributes
    ----------
    rank, number : int
        Which process this is, from 0, and how many there are.
    pointer : Path or None
        A file that holds where the last checkpoint is.
    obstacle : str or None
        Why no training step can be recorded.
    """

    rank = 0
    number = 1
    pointer: Path | None = None
    obstacle: str | None = None

    def begin(self, model: nn.Module) -> None:
        """Get ready to train, from the random state at hand."""

    def loss(self, model: Any) -> Callable[[Any], Any]:
        """What gives this process's part of the loss of a batch."""
        return model.calculate_loss

    def add_up(self, model: nn.Module, losses: Tensor) -> Tensor:
        """Add up the gradients of all processes, in place; gives the sum of their losses."""
        return losses

    def agree(self, model: nn.Module) -> None:
        """Give the model the weights that it has in the first process: different processors may round differently."""

    def first(self, action: Callable[[], Any]) -> Any:
        """Do something in the first process alone; every process gets what it gives, or raises what it raises."""
        return action()

    def read(self, config: Any, read: Callable[[], SplitData]) -> SplitData:
        """What `read` gives; where several processes are on a machine, one of them reads, and all map its data."""
        return read()

    def require_alike(self, facts: Mapping[str, Any]) -> None:
        """Refuse to go on where the processes have different settings or data.

        Raises
        ------
        UserError
        """

    def refuse(self, model: str, reason: str) -> None:
        """Refuse to train in several processes.

        Raises
        ------
        SettingError
            Where there are several.
        """

    def random_state(self) -> dict[str, Any]:
        """The random state that a checkpoint holds; whatever number of processes goes on from it."""
        return checkpoint.random_state()

    def saved(self, path: str | Path) -> None:
        """Take note, in the first process, of a checkpoint that is whole."""
        if self.pointer is not None:
            write_text(self.pointer, str(Path(path).absolute()))

    def own_batches(self, loader: Any) -> Any:
        """The batches of an evaluation that this process computes."""
        return loader

    def shares(self, collector: Any) -> None:
        """Let a collector take note of what each batch adds to it."""

    def evaluator(self, evaluator: Any) -> Any:
        """What gives the metrics of all batches, of what each process has collected of its own."""
        return evaluator


_present = Alone()


def present() -> Alone:
    """The processes that this one belongs to."""
    return _present


@contextmanager
def as_present(processes: Alone) -> Iterator[Alone]:
    """Belong to these processes for as long as the context lasts."""
    global _present
    before, _present = _present, processes
    try:
        yield processes
    finally:
        _present = before


class Group(Alone):
    """One of several processes, by torch.distributed.

    Parameters
    ----------
    rank, number : int
    store : torch Store
        Which all of them see, the ending ones too.
    group : torch ProcessGroup, optional
        By default torch's own of all processes.
    """

    obstacle = "several processes compute each batch together"

    def __init__(self, rank: int, number: int, store: dist.Store, group: Any = None) -> None:
        self.rank, self.number, self.store, self.group = rank, number, store, group
        self._generator: torch.Generator | None = None
        # The model whose loss is known to be the sum of its parts.
        self._splits: nn.Module | None = None

    # Talking.

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except torch.cuda.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise LostProcess(f"another process does not answer ({str(error).splitlines()[0]})") from error

    def _first_rank(self) -> int:
        return 0 if self.group is None else dist.get_global_rank(self.group, 0)

    def _broadcast(self, value: Any) -> Any:
        """The value of the first process, as plain Python."""
        box = [value]
        with self._together():
            dist.broadcast_object_list(box, src=self._first_rank(), group=self.group)
        return box[0]

    def _all(self, value: Any) -> list[Any]:
        """The value of each process, as plain Python."""
        values = [None] * self.number
        with self._together():
            dist.all_gather_object(values, value, group=self.group)
        return values

    def sum_of(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the processes."""
        total = value.detach().clone(memory_format=torch.contiguous_format)
        with self._together():
            dist.all_reduce(total, group=self.group)
        return total

    def add(self, value: Tensor) -> Tensor:
        """The sum of a tensor over the processes, through which gradients flow."""
        return _Sum.apply(value, self)

    def each(self, value: Tensor) -> Tensor:
        """The tensor of each process, [n, ...]; no gradient flows."""
        values = [torch.empty_like(value, memory_format=torch.contiguous_format) for _ in range(self.number)]
        with self._together():
            dist.all_gather(values, value.detach().contiguous(), group=self.group)
        return torch.stack(values)

    def exchange(self, rows: Tensor, sizes: list[int], theirs: list[int]) -> Tensor:
        """Give `sizes` [n] rows to each process, in order, for `theirs` [n] rows of each; gradients flow back."""
        return _Exchange.apply(rows, sizes, theirs, self)

    def exchanged(self, rows: Tensor, sizes: list[int], theirs: list[int]) -> Tensor:
        """As `exchange`, without gradients."""
        got = rows.new_empty((sum(theirs), *rows.shape[1:]))
        with self._together():
            dist.all_to_all_single(got, rows.detach().contiguous(), theirs, sizes, group=self.group)
        return got

    def send_to_first(self, value: Tensor) -> None:
        """Give the first process a tensor, which it takes by `receive`."""
        with self._together():
            dist.send(value.detach().cpu().contiguous(), dst=self._first_rank(), group=self.group)

    def receive(self, place: Tensor, rank: int) -> None:
        """Fill a tensor of the CPU with what another process sends."""
        source = rank if self.group is None else dist.get_global_rank(self.group, rank)
        with self._together():
            dist.recv(place, src=source, group=self.group)

    def first(self, action: Callable[[], Any]) -> Any:
        result, error = None, None
        if self.rank == 0:
            try:
                result = action()
            except Exception as raised:
                error = raised
        result, error = self._broadcast((result, error))
        if error is not None:
            raise error
        return result

    def read(self, config: Any, read: Callable[[], SplitData]) -> SplitData:
        machines = self._all(_machine())
        first, alone = machines.index(machines[self.rank]), machines.count(machines[self.rank]) == 1
        data, path, error = None, None, None
        with ExitStack() as stack:
            if self.rank == first:
                try:
                    data = read()
                    if not alone:
                        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="recbole-diffusion-"))
                        path = str(Path(folder, "data"))
                        shared_data.save(path, data)
                except Exception as raised:
                    error = raised
            said = self._all((path, error))
            for _, error in said:
                if error is not None:
                    raise error
            if not alone:
                data = shared_data.load(said[first][0], config)
                # Until all have mapped the file.
                self._all(None)
        assert data is not None
        return data

    # Training.

    def begin(self, model: nn.Module) -> None:
        device = next(model.parameters()).device
        on_gpu = device.type == "cuda"
        state = self._broadcast(torch.cuda.get_rng_state(device) if on_gpu else torch.get_rng_state())
        self._generator = torch.Generator(device=device)
        self._generator.set_state(state)
        # Dropout takes other numbers in each process: its rows are others.
        torch.manual_seed(zlib.crc32(state.numpy().data) + self.rank)
        if isinstance(model, DiffusionRecommender):
            model.share_batches(self.batch_of, self._generator)

    def random_state(self) -> dict[str, Any]:
        state = super().random_state()
        if self._generator is not None and self._generator.device.type == "cuda":
            state["cuda"][self._generator.device.index or 0] = self._generator.get_state()
        elif self._generator is not None:
            state["torch"] = self._generator.get_state()
        return state

    def batch_of(self, history: History, noise: Noise) -> Batch:
        """The rows of a batch that this process computes."""
        return PartOfBatch(history, noise, self.rank, self.number, self.add)

    def loss(self, model: Any) -> Callable[[Any], Any]:
        part = model.calculate_loss if isinstance(model, DiffusionRecommender) else self._loss_of_rows(model)

        def checked(interaction: Any) -> Any:
            if self._splits is not model:
                self._require_split(model, part, interaction)
            return part(interaction)

        return checked

    def _loss_of_rows(self, model: Any) -> Callable[[Any], Any]:
        """The loss of this process's rows, by their share of all that the model's mean is over."""
        counts = model.counted if isinstance(model, PlainRecommender) else KNOWN.get(type(model).__name__)

        def loss(interaction: Any) -> Any:
            rows, counted = rows_of(len(interaction), self.rank, self.number)
            own, share = interaction[rows], counted / len(interaction)
            if counts is not None and counted:
                share = float(counts(own).sum() / counts(interaction).sum())
            # A mean over nothing is no number: compute what is one, and let it not count.
            parts = model.calculate_loss(own if share else interaction)
            return tuple(share * value for value in parts) if isinstance(parts, tuple) else share * parts

        return loss

    def _require_split(self, model: Any, part: Callable[[Any], Any], interaction: Any) -> None:
        """Refuse a loss that is not the sum of its parts, by the first batch; of the models known here it is."""
        self._splits = model
        if is_ours(type(model)) or (is_recboles(type(model)) and type(model).__name__ in KNOWN):
            return
        training, buffers = model.training, {name: value.clone() for name, value in model.named_buffers()}
        states = torch.get_rng_state(), None if self._generator is None else self._generator.get_state()
        diffuses = isinstance(model, DiffusionRecommender)
        model.eval()
        values = []
        with torch.no_grad():
            for whole in (True, False):
                if diffuses:
                    model.batch_of = Batch if whole else self.batch_of
                loss = (model.calculate_loss if whole else part)(interaction)
                values.append(torch.stack(loss).sum() if isinstance(loss, tuple) else loss)
                torch.set_rng_state(states[0])
                if self._generator is not None and states[1] is not None:
                    self._generator.set_state(states[1])
            for name, value in model.named_buffers():
                value.copy_(buffers[name])
        model.train(training)
        whole_loss, parts = float(values[0]), float(self.sum_of(values[1]))
        if abs(whole_loss - parts) > TOLERANCE * max(1.0, abs(whole_loss)):
            self.refuse(
                type(model).__name__, f"its loss over a batch is {whole_loss:.6g}, that of its rows {parts:.6g}"
            )

    def add_up(self, model: nn.Module, losses: Tensor) -> Tensor:
        losses = losses.clone()
        # The gradients of a split table are complete already, and of other rows in each process.
        split = split_weights(model)
        trained = [p for name, p in model.named_parameters() if p.requires_grad and name not in split]
        tensors = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        small: dict[torch.dtype, list[Tensor]] = {}
        with self._together():
            for tensor in (*tensors, losses):
                if tensor.numel() >= LARGE and tensor.is_contiguous():
                    dist.all_reduce(tensor, group=self.group)
                else:
                    small.setdefault(tensor.dtype, []).append(tensor)
            for alike in small.values():
                flat = torch.cat([tensor.flatten() for tensor in alike])
                dist.all_reduce(flat, group=self.group)
                for tensor, total in zip(alike, flat.split([tensor.numel() for tensor in alike]), strict=True):
                    tensor.copy_(total.view_as(tensor))
        return losses

    def agree(self, model: nn.Module) -> None:
        with self._together():
            split = split_weights(model)
            for name, value in model.state_dict().items():
                if name not in split:
                    dist.broadcast(value.detach(), src=self._first_rank(), group=self.group)

    def refuse(self, model: str, reason: str) -> None:
        raise SettingError("nproc", self.number, must=f"be 1 for {model}: {reason}")

    def require_alike(self, facts: Mapping[str, Any]) -> None:
        everyone = self._all((socket.gethostname(), dict(facts)))
        there, expected = everyone[0]
        for rank, (host, has) in enumerate(everyone):
            for key in {**expected, **has}:
                if expected.get(key) != has.get(key):
                    place = f"process {rank} on {host}"
                    if key.startswith("data for ") or key == "data's items":
                        raise UserError(f"{place}: its {key} are others than those of process 0 on {there}")
                    must = f"be {expected.get(key)!r} in {place}, as in process 0 on {there}"
                    raise SettingError(key, has.get(key), must=must)

    def saved(self, path: str | Path) -> None:
        super().saved(path)
        self.store.set("checkpoint", str(path))

    # Evaluation.

    def own_batches(self, loader: Any) -> Any:
        own = copy.copy(loader)
        # torch lets a loader's batches be set once.
        object.__setattr__(own, "batch_sampler", list(islice(loader.batch_sampler, self.rank, None, self.number)))
        return own

    def shares(self, collector: Any) -> None:
        collector.data_struct = BatchedStruct()

    def evaluator(self, evaluator: Any) -> Any:
        return JointEvaluator(evaluator, self)

    def gathered(self, struct: BatchedStruct) -> DataStruct | None:
        """In the first process, what all have collected, batch by batch as one process would; None in the others."""
        batches = {name: list(struct[name].split(sizes)) for name, sizes in struct.sizes.items()}
        everyone = [batches] * self.number if self.rank == 0 else None
        with self._together():
            dist.gather_object(batches, everyone, dst=self._first_rank(), group=self.group)
        if everyone is None:
            return None
        whole = DataStruct()
        for name, value in struct._data_dict.items():
            whole.set(name, value)
        for name in {name: None for batches in everyone for name in batches}:
            columns = [batches.get(name, []) for batches in everyone]
            rounds = range(max(map(len, columns)))
            whole.set(name, torch.cat([column[turn] for turn in rounds for column in columns if turn < len(column)]))
        return whole

    # Ending.

    def explained(self, error: Exception) -> Exception:
        """The error that the user is to see of this process, once the processes have exchanged theirs.

        One of them, the first that lives, says what has happened; that another one does not answer is the last thing
        to say.
        """
        own = "" if isinstance(error, LostProcess) else f"{type(error).__name__}: {error}"
        if isinstance(error, UserError) and own:
            own = str(error)
        said: dict[int, str] = {}
        with suppress(RuntimeError):
            self.store.set(f"error/{self.rank}", own)
            waits_until = time.monotonic() + SECONDS_TO_HEAR
            while len(said) < self.number and time.monotonic() < waits_until:
                said |= {r: self.store.get(f"error/{r}").decode() for r in self._spoken() if r not in said}
                time.sleep(0.05)
        causes = {rank: line for rank, line in said.items() if line}
        if self.rank > min(said, default=self.rank):
            return ReportedElsewhere(own or "see the error of the first process")
        if own:
            return error
        if causes:
            rank, line = next(iter(causes.items()))
            return UserError(f"process {rank} of {self.number}: {line}")
        silent = ", ".join(str(rank) for rank in range(self.number) if rank not in said and rank != self.rank)
        if not silent:
            return error
        return UserError(
            f"process {silent} of {self.number} has ended without a word, as one that is killed does{self.hint()}"
        )

    def _spoken(self) -> list[int]:
        return [rank for rank in range(self.number) if self.store.check([f"error/{rank}"])]

    def hint(self) -> str:
        """How to go on from the last checkpoint, to be put behind a message."""
        return hint_of(self.store)


def _machine() -> tuple[Any, ...]:
    """The same in two processes that see the same temporary files of one machine, not in two containers."""
    folder = os.stat(tempfile.gettempdir())
    return socket.gethostname(), folder.st_dev, folder.st_ino


def hint_of(store: dist.Store) -> str:
    """How to go on from the last checkpoint that `Group.saved` has noted."""
    with suppress(RuntimeError):
        if store.check(["checkpoint"]):
            return f"; run the same with --resume={store.get('checkpoint').decode()} to go on"
    return "; no checkpoint was saved yet"


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Group) -> Tensor:
        ctx.processes = group
        return group.sum_of(value)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        # What each process makes of the sum depends on the part of every one.
        return ctx.processes.sum_of(grad_outputs[0]), None


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sizes: list[int], theirs: list[int], group: Group) -> Tensor:
        ctx.sizes, ctx.theirs, ctx.processes = sizes, theirs, group
        return group.exchanged(rows, sizes, theirs)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.processes.exchanged(grad_outputs[0], ctx.theirs, ctx.sizes), None, None, None


class BatchedStruct(DataStruct):
    """What a collector holds, with the number of rows that each batch has added."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: dict[str, list[int]] = {}

    def update_tensor(self, name: str, value: Tensor) -> None:
        """Add a batch's rows."""
        self.sizes.setdefault(name, []).append(len(value))
        super().update_tensor(name, value)

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self.sizes.pop(key, None)


class JointEvaluator:
    """Computes metrics in the first process, of what all have collected; every process gets them.

    Parameters
    ----------
    evaluator : recbole Evaluator
    group : Group
    """

    def __init__(self, evaluator: Any, group: Group) -> None:
        self._evaluator, self._group = evaluator, group

    def evaluate(self, struct: BatchedStruct) -> Any:
        """The metrics, as RecBole's evaluator gives them."""
        whole = self._group.gathered(struct)
        return self._group.first(lambda: self._evaluator.evaluate(whole))
