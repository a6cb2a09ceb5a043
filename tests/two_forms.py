"""Two forms of one network, for benchmarks that time one against the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.scale import catalogue, made_up_batch
from recbole_diffusion.common.setting import table_of
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.training.run import build_model

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0, "embedding_dropout_prob": 0.0}


def with_equal_weights(
    forms: Sequence[type], settings: Mapping[str, Any], items: int, lengths: Any
) -> tuple[Any, Any, Any]:
    """Both forms, without dropout unless settings say otherwise and with the weights of the first, and a batch."""
    table = table_of(forms[0])
    none = {key: value for key, value in NO_DROPOUT.items() if key in table}
    configs = [load_config(form, "made-up", None, {**none, **settings}) for form in forms]
    first, second = (build_model(config, catalogue(config, items)) for config in configs)
    second.load_state_dict(first.state_dict())
    return first, second, made_up_batch(configs[1], items, lengths)
