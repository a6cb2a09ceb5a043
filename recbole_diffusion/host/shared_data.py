"""A split dataset in a file that the processes of a machine map into memory, where its numbers then stand once."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from recbole.data.dataset import Dataset
from torch import Tensor

from ..common.files import save_tensors
from ..errors import UserError

# Bytes from which an array stands in the file by itself.
SMALL = 2**12


class SplitData(NamedTuple):
    """A dataset and its parts.

    whole : recbole Dataset
    parts : sequence of recbole Dataset
        For training, validation and test.
    facts : dict
        Of the data, text -> what must be the same in all processes of a run.
    """

    whole: Dataset
    parts: Sequence[Dataset]
    facts: dict[str, Any]


class TokenIds(Mapping[str, int]):
    """Internal id of each token, as RecBole's dict has them; made where somebody asks.

    Parameters
    ----------
    tokens : array of str
        By internal id.
    """

    def __init__(self, tokens: np.ndarray) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def __iter__(self) -> Iterator[str]:
        return iter(self.tokens.tolist())

    def __getitem__(self, token: str) -> int:
        if "ids" not in self.__dict__:
            self.ids = {each: number for number, each in enumerate(self)}
        return self.ids[token]


class _Pickler(pickle.Pickler):
    """Gives arrays to torch as tensors, which it writes so that they can be mapped."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray) and obj.dtype.kind in "biufU" and obj.nbytes >= SMALL:
            content = torch.from_numpy(np.array(obj, order="C").reshape(-1).view(np.uint8))
            return _array, (content, obj.dtype.str, obj.shape)
        return NotImplemented


def _array(content: Tensor, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    return content.numpy().view(dtype).reshape(shape)


def save(path: str | Path, data: SplitData) -> None:
    """Write a dataset; its settings are left out, and it cannot be used any more.

    Raises
    ------
    UserError
        Where the folder has no room for it.
    """
    for dataset in (data.whole, *data.parts):
        dataset.config = None
        tokens = dataset.field2id_token
        dataset.field2token_id = {field: TokenIds(tokens[field]) for field in dataset.field2token_id}
    try:
        save_tensors(tuple(data), Path(path), pickle_module=SimpleNamespace(__name__="pickle", Pickler=_Pickler))
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: the data cannot be written ({reason}); TMPDIR names another folder") from error


def load(path: str | Path, config: Any) -> SplitData:
    """Map what `save` wrote. Whoever changes an array has a copy of the changed pages; the file may be removed.

    Parameters
    ----------
    path : str or Path
        Written by a process of this run: reading it runs code that stands in it.
    config : DiffusionConfig
        The settings of this process.
    """
    data = SplitData(*torch.load(path, map_location="cpu", mmap=True, weights_only=False))
    for dataset in (data.whole, *data.parts):
        dataset.config = config
    return data
