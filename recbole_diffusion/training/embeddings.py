"""Item embeddings from another run's checkpoint, item by item."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import SettingError
from . import checkpoint

KEY = "pretrained_embeddings"
WEIGHT = "item_embedding.weight"


def take_embeddings(path: str | Path, model: nn.Module, config: Any, dataset: Any) -> tuple[int, int]:
    """Give items the embeddings that they have in a checkpoint; items that it does not know keep theirs.

    Items are the same where their tokens are. The padding keeps its own embedding.

    Parameters
    ----------
    path : str or Path
        Of any model with an `item_embedding` [n_items, d]; a folder means its newest checkpoint. Its best weights are
        taken.
    model : nn.Module
        With an `item_embedding` of the same d.
    config : recbole Config
    dataset : recbole Dataset
        Says which item a row is of.

    Returns
    -------
    (int, int)
        How many items got an embedding, and how many there are.

    Raises
    ------
    UserError
        Where one of the models has no item embedding, the sizes differ, or the file cannot be read.
    """
    own = getattr(model, "item_embedding", None)
    if not isinstance(own, nn.Embedding):
        raise SettingError(KEY, str(path), must=f"be ~, as {config['model']} has no item_embedding")
    file = checkpoint.newest(path)
    state = checkpoint.load_model(file)
    theirs = checkpoint.best_weights(state)["state_dict"].get(WEIGHT)
    if theirs is None:
        raise SettingError(KEY, str(path), must=f"be of a model with an item_embedding; {state['model']} has none")
    here, there = own.embedding_dim, theirs.shape[1]
    if here != there:
        key = "embedding_size" if config["embedding_size"] == here else "hidden_size"
        raise SettingError(key, here, must=f"be {there}, the size in {file}")
    row_of = {token: row for row, token in enumerate(state["item_tokens"]) if row}
    tokens = dataset.field2id_token[dataset.iid_field]
    pairs = [(row, row_of[token]) for row, token in enumerate(map(str, tokens)) if row and token in row_of]
    if pairs:
        rows, sources = torch.tensor(pairs).T
        with torch.no_grad():
            own.weight[rows.to(own.weight.device)] = theirs[sources].to(own.weight)
    return len(pairs), len(tokens) - 1
