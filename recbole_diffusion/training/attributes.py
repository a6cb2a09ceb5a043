"""What training changes on a model beside its weights: counters, histories of losses and the like."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator, Mapping, MutableMapping, Set
from typing import Any

import numpy as np
import scipy  # which loads its parts on first use: `recommend` needs none
import torch
from torch import Tensor, nn

from ..common.plain import plain
from .checkpoint import pack, unpack

# What every module has, and is no state of the model.
OF_ANY_MODULE = frozenset(vars(nn.Module()))


def attributes(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Every attribute of a model and its layers that is no weight: its dotted name, its owner, its name there.

    What RecBole's `other_parameter` names is left out, as every checkpoint holds that already.
    """
    saved_anyway = set(getattr(model, "other_parameter_name", ()))
    for prefix, module in model.named_modules():
        for name in vars(module):
            if name not in OF_ANY_MODULE and not (module is model and name in saved_anyway):
                yield (f"{prefix}.{name}" if prefix else name), module, name


class Changes:
    """Finds the attributes of a model that training changes.

    A change is seen in numbers, texts, tensors, arrays, sparse matrices and in collections of such; of other objects,
    only that another one stands there.

    Parameters
    ----------
    model : nn.Module
        Before training, or resumed.
    known : mapping
        What a checkpoint of an earlier part of the training holds, as `state` gives it.
    """

    def __init__(self, model: nn.Module, known: Mapping[str, Any] | None = None) -> None:
        self.model = model
        self.names: set[str] = set(known or ())
        self._start = self._marks()

    def _marks(self) -> dict[str, Any]:
        return {name: mark(getattr(owner, key)) for name, owner, key in attributes(self.model)}

    def look(self) -> list[str]:
        """Take note of the attributes that have changed since the start; those of the new ones that cannot be saved."""
        now = self._marks()
        new = {name for name in now if name not in self._start or now[name] != self._start[name]} - self.names
        self.names |= new
        return [name for name in self.state()[1] if name in new] if new else []

    def state(self) -> tuple[dict[str, Any], list[str]]:
        """The changed attributes as plain data, and the names of those that no checkpoint can hold."""
        saved, unsaved = {}, []
        for name, owner, key in attributes(self.model):
            if name in self.names:
                value = getattr(owner, key)
                try:
                    saved[name] = plain(pack(value), name)
                except TypeError:
                    unsaved.append(name)
        return saved, unsaved


def mark(value: Any) -> Any:
    """Something that equals another value's mark only where the values are alike."""
    if isinstance(value, nn.Parameter):
        return _Same(value)
    if isinstance(value, Tensor) and value.layout != torch.strided:
        value = value.detach().to_sparse_coo().coalesce()
        return "sparse", mark(value.indices()), mark(value.values()), tuple(value.shape)
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().flatten().view(torch.uint8) if value.numel() else None
        return "tensor", value.dtype, tuple(value.shape), 0 if flat is None else zlib.crc32(flat.numpy().data)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return "array", value.dtype.str, value.shape, zlib.crc32(np.ascontiguousarray(value).data)
    if scipy.sparse.issparse(value):
        entries = value.tocoo()
        return "sparse matrix", value.format, *map(mark, (entries.row, entries.col, entries.data))
    if isinstance(value, Mapping):
        return type(value), [(mark(key), mark(entry)) for key, entry in value.items()]
    if isinstance(value, list | tuple | deque):
        return type(value), [mark(entry) for entry in value]
    if isinstance(value, Set):
        return type(value), frozenset(value)
    # A float that is NaN differs from itself; its spelling does not.
    plain_value = value is None or isinstance(value, bool | int | float | str | np.generic)
    return (type(value), repr(value)) if plain_value else _Same(value)


class _Same:
    """Equals another where both stand for one object, which it keeps alive."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


def put(model: nn.Module, saved: Mapping[str, Any], device: torch.device) -> None:
    """Give a model the attributes that `Changes.state` saved."""
    modules = dict(model.named_modules())
    for name, value in saved.items():
        prefix, _, key = name.rpartition(".")
        owner = modules[prefix]
        setattr(owner, key, _filled(getattr(owner, key, None), unpack(value, device)))


def _filled(old: Any, new: Any) -> Any:
    """`new`, in the place of `old` where that can take it: others may hold the same tensor or collection."""
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        alike = (old.shape, old.dtype, old.layout) == (new.shape, new.dtype, new.layout)
        return old.copy_(new) if alike and not old.requires_grad else new
    if isinstance(old, MutableMapping) and isinstance(new, dict):
        filled = {key: _filled(old.get(key), value) for key, value in new.items()}
        old.clear()
        old.update(filled)
        return old
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old[:] = map(_filled, old, new)
        return old
    return new
