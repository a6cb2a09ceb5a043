"""Items split over the processes of a run: where that can be, and how a checkpoint holds all of them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import SettingError, UserError
from ..evaluation.collector import TopCollector
from ..model.splitting import SplitEmbedding, split_weights
from . import distributed

KEY = "split_items"
# Of a checkpoint, what has an entry for each weight.
PARTS = ("state_dict", "best_state_dict", "average")


def split_items(config: Any, model: Any) -> None:
    """Let each process of a run keep the embeddings of its items alone, where `split_items` is set.

    Raises
    ------
    SettingError
        Where the model or a setting needs all items in one process.
    """
    processes = distributed.present()
    if not config[KEY] or processes.number == 1:
        return
    obstacle = _obstacle(config, model, processes.number)
    if obstacle is not None:
        raise SettingError(KEY, True, must=f"be False {obstacle}")
    model.split(processes)


def _obstacle(config: Any, model: Any, number: int) -> str | None:
    """Why items cannot be split, to be put behind what must hold; None where they can."""
    needs = vars(type(model)).get("splits_items")
    if needs is None:
        return f"for {config['model']}, which does not say that its items can be split"
    for key, value in {**needs, "clip_grad_norm": None, "pretrained_embeddings": None}.items():
        if (config[key] or None) != (value or None):
            return f"with {key}={config[key]}"
    if config["eval_args"]["mode"] != {"valid": "full", "test": "full"}:
        return "where eval_args.mode is not full"
    if not TopCollector.suffices(config):
        return "with a metric that reads the scores of all items"
    if model.item_embedding.num_embeddings < 2 * number:
        return f"with fewer than {2 * number} items for {number} processes"
    return None


def gathered(learnt: Mapping[str, Any], model: nn.Module, optimizers: Mapping[str, Optimizer], folder: Path) -> Any:
    """What a checkpoint holds, with the rows of all processes in the first of them.

    They stand in a file that is removed already, so that no process needs the memory for them.
    """
    processes = distributed.present()
    assert isinstance(processes, distributed.Group)

    def whole(part: Tensor, table: SplitEmbedding) -> Tensor:
        if processes.rank:
            processes.send_to_first(part)
            return part
        size = (table.num_embeddings, *part.shape[1:])
        rows = _in_file(folder, size, part.dtype)
        rows[table.rows] = part.cpu()
        for rank in range(1, processes.number):
            processes.receive(rows[table.rows_of(rank)], rank)
        return rows

    return _with_tables(learnt, model, optimizers, whole)


def _in_file(folder: Path, size: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An empty tensor in a file that nobody else sees, and that goes with the tensor.

    Raises
    ------
    UserError
        Where the folder has no room for it.
    """
    numbers = torch.Size(size).numel()
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".items-") as file:
            if hasattr(os, "posix_fallocate"):
                # A page for which the disk has no room would end the process without a word.
                os.posix_fallocate(file.fileno(), 0, numbers * dtype.itemsize)
            return torch.from_file(file.name, shared=True, size=numbers, dtype=dtype).view(size)
    except OSError as error:
        raise UserError(f"{folder}: no checkpoint can be written there ({error.strerror})") from error


def own_part(state: Mapping[str, Any], model: nn.Module, optimizers: Mapping[str, Optimizer]) -> Any:
    """What a checkpoint holds, with this process's rows of split tables alone."""
    return _with_tables(state, model, optimizers, lambda whole, table: whole[table.rows].clone())


def _with_tables(
    state: Mapping[str, Any],
    model: nn.Module,
    optimizers: Mapping[str, Optimizer],
    change: Callable[[Tensor, SplitEmbedding], Tensor],
) -> dict[str, Any]:
    """A state with something else in the place of each tensor that has a row for each item."""
    changed = dict(state)
    for name, table in split_weights(model).items():
        for part in PARTS:
            if changed.get(part) and name in changed[part]:
                changed[part] = {**changed[part], name: change(changed[part][name], table)}
        changed["optimizer"] = dict(changed.get("optimizer") or {})
        for key, saved in changed["optimizer"].items():
            parameters = [each for group in optimizers[key].param_groups for each in group["params"]]
            number = next(place for place, each in enumerate(parameters) if each is table.weight)
            entries = {
                entry: change(value, table) if isinstance(value, Tensor) and value.dim() == 2 else value
                for entry, value in saved["state"].get(number, {}).items()
            }
            held = {**saved["state"], number: entries} if entries else saved["state"]
            changed["optimizer"][key] = {**saved, "state": held}
    return changed
