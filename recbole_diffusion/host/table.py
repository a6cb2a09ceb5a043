"""The settings that every model has, RecBole's and ours: one table, from which all that is said of a key is derived.

A model's own settings stand in tables of the same form on its class. RecBole is not imported here, so that a trained
model is restored quickly.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ..common import deadline
from ..common.setting import Setting, aliases_of, at_least, one_of, positive, switch, table_of, within
from ..errors import SettingError
from .parsing import kind_of, typed


def is_interval(value: Any) -> bool:
    """Whether a text is an interval such as [5,inf), or several with `;` between; RecBole takes any other for all."""
    for part in str(value).split(";"):
        found = re.fullmatch(r"\s*[\[(]([^,]*),([^,]*)[\])]\s*", part)
        try:
            if found is None or not float(found[1]) <= float(found[2]):
                return False
        except ValueError:
            return False
    return True


def _interval(**more: Any) -> Setting:
    return Setting("str or ~", "be an interval such as [5,inf), or several with ; between", is_interval, **more)


def _are_intervals(value: Mapping[str, Any]) -> bool:
    # A list names the values to keep.
    return all(isinstance(part, list) or (isinstance(part, str) and is_interval(part)) for part in value.values())


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_lengths(parts: Mapping[str, Any]) -> bool:
    return all(isinstance(part, int) and _number(part) and part > 0 for part in parts.values())


def _is_threshold(parts: Mapping[str, Any]) -> bool:
    return len(parts) == 1 and all(map(_number, parts.values()))


def _are_lists(parts: Mapping[str, Any]) -> bool:
    return all(part == "*" or isinstance(part, list) for part in parts.values())


def _are_names(parts: Mapping[str, Any]) -> bool:
    return all(isinstance(part, str) for part in parts.values())


def _are_buckets(parts: Mapping[str, Any]) -> bool:
    """Whether a mapping says for each column how its numbers become classes."""
    return all(
        isinstance(part, Mapping)
        and (
            part.get("method") == "LD" or (part.get("method") == "ED" and _are_lengths({"bucket": part.get("bucket")}))
        )
        for part in parts.values()
    )


def _clips(parts: Mapping[str, Any]) -> bool:
    """Whether a mapping is what torch clips gradients by."""
    numbers = all(_number(part) and part > 0 for part in parts.values())
    return "max_norm" in parts and parts.keys() <= {"max_norm", "norm_type"} and numbers


def _is_encoding(name: str) -> bool:
    try:
        # Not by `codecs.lookup`, which knows hex and others that are of no text.
        return "".encode(name) is not None
    except (LookupError, ValueError):
        return False


_separator = Setting("str", "be characters within a line", lambda text: bool(text) and not set(text) & set("\r\n\0"))
_GPUS = r"\s*|-1|\d+(\s*,\s*\d+)*"
# Without sparse_adam: no model has gradients that are sparse.
LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop")
TRANSFORMS = ("mask_itemseq", "inverse_itemseq", "crop_itemseq", "reorder_itemseq")

# Where and how a run is computed and what it writes; no figure depends on it.
_run: dict[str, Setting] = {
    "gpu_id": Setting("str", "be numbers of GPUs such as 0 or 0,1", lambda text: re.fullmatch(_GPUS, text) is not None),
    "use_gpu": switch(),
    "state": one_of(("debug", "info", "warning", "error", "critical"), ignore_case=True),
    "encoding": Setting("str or ~", "be an encoding that Python knows, such as utf-8 or latin-1", _is_encoding),
    "data_path": Setting("path", shared=True),
    "cache_data": switch(),
    "checkpoint_dir": Setting("path", "be a folder", bool),
    "show_progress": switch(),
    "verbose": switch(),
    # So many that they cannot be started end the process at once.
    "threads": positive("int or ~", most=1024),
    "save_dataset": switch(),
    "dataset_save_path": Setting("path or ~"),
    "save_dataloaders": switch(),
    "dataloaders_save_path": Setting("path or ~"),
    "log_wandb": switch(),
    "wandb_project": Setting("str"),
    "log_dir": Setting("path or ~"),
    "tensorboard_dir": Setting("path or ~"),
    "resume": Setting("path or ~", "be a checkpoint that exists", lambda path: Path(path).is_file()),
    "cuda_graphs": switch(),
    "split_items": switch(),
    "deadline": deadline.SETTING,
    "nproc": positive("int"),
    "world_size": Setting("int"),
    "ip": Setting("str"),
    "port": Setting("str"),
    "offset": at_least(0, "int"),
}
RUN = {key: row._replace(changes_results=False) for key, row in _run.items()}
# How the weights are found; training may go on with other values.
TRAINING: dict[str, Setting] = {
    "epochs": positive("int"),
    "train_batch_size": positive("int"),
    "learner": one_of(LEARNERS, ignore_case=True),
    "learning_rate": positive("float"),
    "lr_step_size": positive("int or ~"),
    "lr_gamma": positive("float"),
    "lr_cosine_epochs": positive("int or ~"),
    "warmup_steps": at_least(0, "int"),
    "ema_decay": Setting("float or ~", "be from 0 to below 1", lambda decay: 0 <= decay < 1),
    "pretrained_embeddings": Setting("path or ~"),
    "frozen": Setting("list of str"),
    "frozen_epochs": at_least(0, "int"),
    "weight_decay": at_least(0, "float"),
    "clip_grad_norm": Setting("dict or ~", "hold a positive max_norm, as in {max_norm: 5.0}", _clips),
    "train_neg_sample_args": Setting("dict or ~"),
    "eval_step": at_least(0, "int", shared=True),
    "stopping_step": at_least(0, "int", shared=True),
    "loss_decimal_place": at_least(0, "int", changes_results=False),
    "enable_amp": switch(),
    "float32_matmul_precision": one_of(("highest", "high", "medium")),
    "compile": switch(),
    "enable_scaler": switch(),
    "shuffle": switch(),
    "worker": at_least(0, "int"),
    "reproducibility": switch(),
}
# How a model is scored.
EVALUATION: dict[str, Setting] = {
    "eval_args": Setting("dict", shared=True),
    "history_in_ranking": one_of(("in", "out", "both"), shared=True),
    # By `history_in_ranking`, which is shared: of models of different kinds other values say the same.
    "repeatable": switch(),
    "metrics": Setting("list of str", "hold at least one metric", bool, at_inference=True, shared=True),
    "topk": Setting(
        "list of int",
        "hold positive numbers such as [5, 10]",
        lambda cuts: bool(cuts) and min(cuts) > 0,
        at_inference=True,
        shared=True,
    ),
    "valid_metric": Setting("str", shared=True),
    "valid_metric_bigger": switch(),
    "eval_batch_size": positive("int", at_inference=True, changes_results=False),
    # More than a float has digits; of far more numpy makes NaN.
    "metric_decimal_place": within(0, 15, "int", at_inference=True, shared=True),
}
# What a model is trained and scored on.
DATA: dict[str, Setting] = {
    "seed": Setting("int", "be from 0 to 2**32 - 1", lambda number: 0 <= number < 2**32),
    "field_separator": _separator,
    "seq_separator": _separator,
    "USER_ID_FIELD": Setting("str"),
    "ITEM_ID_FIELD": Setting("str"),
    "RATING_FIELD": Setting("str"),
    "TIME_FIELD": Setting("str"),
    "LABEL_FIELD": Setting("str"),
    "NEG_PREFIX": Setting("str"),
    "ITEM_LIST_LENGTH_FIELD": Setting("str"),
    "LIST_SUFFIX": Setting("str"),
    "POSITION_FIELD": Setting("str"),
    "HEAD_ENTITY_ID_FIELD": Setting("str"),
    "TAIL_ENTITY_ID_FIELD": Setting("str"),
    "RELATION_ID_FIELD": Setting("str"),
    "ENTITY_ID_FIELD": Setting("str"),
    "seq_len": Setting("dict or ~", "hold lengths of columns, as in {item_id_list: 50}", _are_lengths),
    "threshold": Setting("dict or ~", "hold one column and a number, as in {rating: 4}", _is_threshold),
    "numerical_features": Setting("list of str"),
    "load_col": Setting("dict or ~"),
    "unload_col": Setting("dict or ~", "hold lists of columns, as in {inter: [rating]}", _are_lists),
    "unused_col": Setting("dict or ~", "hold lists of columns, as in {inter: [rating]}", _are_lists),
    "additional_feat_suffix": Setting("list of str or ~"),
    "rm_dup_inter": one_of(("first", "last"), "str or ~", shared=True),
    "val_interval": Setting(
        "dict or ~", "hold intervals such as '[3,inf)', or lists of values to keep", _are_intervals, shared=True
    ),
    "filter_inter_by_user_or_item": switch(shared=True),
    "user_inter_num_interval": _interval(shared=True),
    "item_inter_num_interval": _interval(shared=True),
    "entity_kg_num_interval": _interval(),
    "relation_kg_num_interval": _interval(),
    "kg_reverse_r": switch(),
    "alias_of_user_id": Setting("list of str or ~"),
    "alias_of_item_id": Setting("list of str or ~"),
    "alias_of_entity_id": Setting("list of str or ~"),
    "alias_of_relation_id": Setting("list of str or ~"),
    "preload_weight": Setting("dict or ~", "hold columns, as in {item_id: item_vector}", _are_names),
    "normalize_field": Setting("list of str or ~"),
    "normalize_all": Setting("bool or ~"),
    "discretization": Setting(
        "dict or ~", "hold methods ED or LD, as in {price: {method: ED, bucket: 10}}", _are_buckets
    ),
    "benchmark_filename": Setting("list of str or ~", shared=True),
    "drop_incomplete_rows": switch(shared=True),
    "tie_order": one_of(("file", "item", "random"), shared=True),
    "length_batching": switch(),
}
# What models of several kinds read, and their weights depend on.
MODEL: dict[str, Setting] = {
    "MAX_ITEM_LIST_LENGTH": positive("int"),
    "loss_type": Setting("str or ~"),
    "require_pow": switch(),
    "transform": one_of(TRANSFORMS, "str or ~"),
}
GENERAL: dict[str, Setting] = {**RUN, **TRAINING, **EVALUATION, **DATA, **MODEL}
# What names the run; `resolve` reads these by itself.
NAMES = ("model", "dataset", "config_files", "config_file")
# What follows from other settings. A saved configuration holds these too, and may be handed in again.
COMPUTED = (
    "MODEL_TYPE",
    "MODEL_INPUT_TYPE",
    "eval_type",
    "valid_metric_bigger",
    "valid_neg_sample_args",
    "test_neg_sample_args",
    "device",
    "single_spec",
    "local_rank",
)


def without_computed(settings: Mapping[str, Any]) -> dict[str, Any]:
    """A saved configuration without what followed from its other settings, on the machine where it was made."""
    return {key: value for key, value in settings.items() if key not in COMPUTED}


# Keys of RecBole's models whose default is of another type than what they take, or is none.
RECBOLE_KINDS = {
    "reg_weight": "float or list of float",
    "negative_weight": "float",
    "w_max": "float",
    "w_min": "float",
    "dropout_prob": "float",
    "hidden_dropout_prob": "float",
    "global_ratio": "float",
    "spatial_ratio": "float",
    "resolution": "float",
    "reranker_CAN_NUM": "int or str",
    "use_proj_bias": "bool or int",
    "ind": "str or float",
    "fields": "dict or ~",
    "pretrain_path": "str or ~",
    "mf_pretrain_path": "str or ~",
    "mlp_pretrain_path": "str or ~",
}
# Switches of finished experiments, which are gone, each with the value that is left.
FINISHED: dict[str, Any] = {"positions_from": "newest", "embedding_noise_at_inference": False}


def settings_table(model: type, defaults: Iterable[Mapping[str, Any]]) -> dict[str, Setting]:
    """The table of all settings of a model: the general ones, those of its class, and those that only have a default.

    Parameters
    ----------
    model : type
    defaults : iterable of mapping
        What its property files hold, the weakest first. The type of a key that no table states is that of its default.
    """
    stated = {**GENERAL, **table_of(model)}
    values: dict[str, list[Any]] = {}
    for key, value in ((key, value) for layer in defaults for key, value in layer.items()):
        values.setdefault(key, []).append(value)
    unstated = {key: RECBOLE_KINDS.get(key) or kind_of(values[key]) for key in values if key not in stated}
    return {**stated, **{key: Setting(kind) for key, kind in unstated.items()}}


def changeable(model: type, resume: bool) -> set[str]:
    """The settings that may be others than those of a checkpoint.

    Parameters
    ----------
    model : type
    resume : bool
        Whether training is to go on, which takes the same data and seed; to use the weights, the settings of the model
        are enough.
    """
    anew = RUN.keys() | TRAINING.keys() | {*COMPUTED, *NAMES}
    anew |= {key for key, row in {**GENERAL, **table_of(model)}.items() if row.at_inference}
    return anew if resume else anew | EVALUATION.keys() | DATA.keys()


def changeable_results(model: type) -> set[str]:
    """The settings that a resumed training may have others of and whose values its result depends on, but for `epochs`.

    More epochs are what a run is mostly resumed for, and the metrics that are told change nothing in training.
    """
    rows = {**GENERAL, **table_of(model)}
    free = changeable(model, resume=True) & rows.keys() - EVALUATION.keys() - {"epochs"}
    return {key for key in free if rows[key].changes_results}


def with_protocol(config: Mapping[str, Any]) -> dict[str, Any]:
    """A saved configuration with its `history_in_ranking`, which those from before the setting lack."""
    before = "in" if config.get("repeatable", True) else "out"
    return {"history_in_ranking": before, **config}


def rename(settings: Mapping[str, Any], model: type, known: Collection[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Settings under the names that hold now, and without those that are gone.

    Parameters
    ----------
    settings : mapping
        It is not changed.
    model : type
        Its class may have `aliases`, name -> key.
    known : collection of str
        Keys of today, which are left as they are.

    Returns
    -------
    dict
    dict
        A warning for each old key.

    Raises
    ------
    SettingError
        Where a key is given under both names, or a finished switch has a value that is gone.
    """
    names = aliases_of(model)
    renamed: dict[str, Any] = {}
    warnings: dict[str, str] = {}
    for key, value in settings.items():
        if key in known or key not in (*names, *FINISHED):
            renamed[key] = value
        elif key in names:
            if names[key] in settings:
                raise SettingError(key, value, must=f"be left out, as {names[key]} is given, which is the same setting")
            renamed[names[key]] = value
            warnings[key] = f"{key} is called {names[key]} now"
        elif typed(key, value, kind_of([FINISHED[key]])) == FINISHED[key]:
            warnings[key] = f"the setting {key} is gone; it is always {FINISHED[key]}"
        else:
            raise SettingError(key, value, must=f"be {FINISHED[key]}, which is all that is left of it")
    return renamed, warnings
