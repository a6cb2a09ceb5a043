"""What settings may be, and what follows from them: checked before any data is touched."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from . import compat

compat.apply()

from recbole.evaluator import metric_information, metric_types, metrics_dict  # noqa: E402
from recbole.utils import EvaluatorType, InputType, ModelType  # noqa: E402

from ..errors import SettingError, nearest, suggestion  # noqa: E402
from .parsing import TOP_LEVEL_KEY, Declaration  # noqa: E402
from .registry import PROPERTIES, recbole_folder  # noqa: E402

FIELDS = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD")
POSITIVE = (
    "epochs",
    "train_batch_size",
    "eval_batch_size",
    "learning_rate",
    "MAX_ITEM_LIST_LENGTH",
    "lr_step_size",
    "lr_gamma",
)
NOT_NEGATIVE = (
    "seed",
    "eval_step",
    "stopping_step",
    "weight_decay",
    "worker",
    "loss_decimal_place",
    "metric_decimal_place",
    "warmup_steps",
    "frozen_epochs",
)
CHOICES = {
    "learner": ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam"),
    "state": ("debug", "info", "warning", "error", "critical"),
    "rm_dup_inter": ("first", "last"),
    "transform": ("mask_itemseq", "inverse_itemseq", "crop_itemseq", "reorder_itemseq", "user_defined"),
}
# What other libraries call settings of RecBole's.
SHORTHANDS = {
    "lr": "learning_rate",
    "batch_size": "train_batch_size",
    "n_epochs": "epochs",
    "max_len": "MAX_ITEM_LIST_LENGTH",
    "patience": "stopping_step",
    "optimizer": "learner",
}
INTERVALS = (
    "user_inter_num_interval",
    "item_inter_num_interval",
    "entity_kg_num_interval",
    "relation_kg_num_interval",
)
# Settings that RecBole's transforms read without a default.
TRANSFORM_NEEDS = {"mask_itemseq": ("mask_ratio",), "crop_itemseq": ("eta",), "reorder_itemseq": ("beta",)}
DISTRIBUTIONS = ("uniform", "popularity")


@functools.cache
def _settings_of_any_model() -> frozenset[str]:
    files = [*(recbole_folder() / "properties").rglob("*.yaml"), *PROPERTIES.rglob("*.yaml")]
    return frozenset(key for file in files for key in TOP_LEVEL_KEY.findall(file.read_text(encoding="utf-8")))


def check_names(settings: Mapping[str, Any], known: Iterable[str], model: str) -> list[str]:
    """Refuse a misspelt setting, and tell of those that nothing reads.

    Returns
    -------
    list of str
        A warning for each setting that has no effect.

    Raises
    ------
    SettingError
        If a setting is unknown and near to a known one.
    """
    known = set(known)
    warnings = []
    for key, value in settings.items():
        if key in known or key.startswith("alias_of_"):
            continue
        # A file of settings may serve several models, so a key of another one is no slip of the pen.
        if key in _settings_of_any_model():
            warnings.append(f"{model} does not read the setting {key}")
        elif near := SHORTHANDS.get(key) or nearest(key, sorted(known), cutoff=0.8):
            raise SettingError(key, value, f"there is no such setting; did you mean {near}?")
        else:
            warnings.append(f"the setting {key} is unknown; perhaps nothing reads it")
    return warnings


def check_processes(nproc: int, world_size: int) -> None:
    """Refuse a run on several processes.

    Raises
    ------
    SettingError
    """
    for key, value in (("nproc", nproc), ("world_size", world_size)):
        if value > 1 or (key == "nproc" and value < 1):
            raise SettingError(key, value, "several processes are not supported yet; run with nproc=1")


def check_values(settings: Mapping[str, Any]) -> None:
    """Check ranges and choices of the settings that every model has.

    Raises
    ------
    SettingError
    """
    check_processes(settings.get("nproc", 1), settings.get("world_size", -1))
    for key in POSITIVE:
        if settings.get(key) is not None and settings[key] <= 0:
            raise SettingError(key, settings[key], "a positive number is wanted")
    for key in NOT_NEGATIVE:
        if settings[key] < 0:
            raise SettingError(key, settings[key], "a number of at least 0 is wanted")
    if settings["seed"] >= 2**32:
        raise SettingError("seed", settings["seed"], "a number below 2**32 is wanted")
    for key, choices in CHOICES.items():
        if settings.get(key) is not None and settings[key].lower() not in choices:
            raise SettingError(key, settings[key], f"one of {', '.join(choices)} is wanted")
    for key in INTERVALS:
        _require_interval(key, settings.get(key))
    for field, interval in (settings.get("val_interval") or {}).items():
        if isinstance(interval, str):  # a list names the tokens to keep
            _require_interval(f"val_interval.{field}", interval)
    for parameter in TRANSFORM_NEEDS.get(settings.get("transform") or "", ()):
        if settings.get(parameter) is None:
            raise SettingError("transform", settings["transform"], f"the setting {parameter} is wanted with it")
    if settings["clip_grad_norm"] is not None and "max_norm" not in settings["clip_grad_norm"]:
        raise SettingError("clip_grad_norm", settings["clip_grad_norm"], "max_norm is wanted, as in {max_norm: 5.0}")
    decay = settings["ema_decay"]
    if decay is not None and not 0 <= decay < 1:
        raise SettingError("ema_decay", decay, must="be from 0 to below 1")
    if settings["resume"] is not None and not Path(settings["resume"]).is_file():
        raise SettingError("resume", settings["resume"], "there is no such file")


def _require_interval(key: str, value: Any) -> None:
    """RecBole itself warns of a malformed interval, and then takes everything."""
    for part in str(value).split(";") if value is not None else ():
        found = re.fullmatch(r"\s*[\[(]([^,]*),([^,]*)[\])]\s*", part)
        try:
            ordered = found is not None and float(found[1]) <= float(found[2])
        except ValueError:
            ordered = False
        if not ordered:
            raise SettingError(key, value, "an interval is wanted, such as [5,inf), or several with ; between")


def check_metrics(settings: Mapping[str, Any]) -> None:
    """Check `metrics`, `topk` and `valid_metric` against each other and against the way of evaluation.

    Raises
    ------
    SettingError
    """
    metrics, topk, valid_metric = settings["metrics"], settings["topk"], settings["valid_metric"]
    if not metrics:
        raise SettingError("metrics", metrics, "at least one metric is wanted")
    for metric in metrics:
        if metric.lower() not in metric_types:
            names = [known.__name__ for known in metrics_dict.values()]
            hint = suggestion(metric, names) or f"; known: {', '.join(names)}"
            raise SettingError("metrics", metrics, f"there is no metric {metric}{hint}")
    if not topk or min(topk) <= 0:
        raise SettingError("topk", topk, "positive whole numbers are wanted, such as [5, 10]")
    if len({metric_types[metric.lower()] for metric in metrics}) > 1:
        raise SettingError("metrics", metrics, "metrics of ranking and of values cannot be mixed")
    modes = settings["eval_args"]["mode"].values()
    if metric_types[metrics[0].lower()] == EvaluatorType.VALUE and "full" in modes:
        raise SettingError("metrics", metrics, "metrics of values need eval_args.mode labeled, uniN or popN, not full")
    if "labeled" in modes and metric_types[metrics[0].lower()] == EvaluatorType.RANKING:
        raise SettingError("eval_args.mode", "labeled", "ranking takes full, uniN or popN; labels go with AUC")
    if "labeled" in modes and not settings.get("threshold") and not _loads(settings, settings["LABEL_FIELD"]):
        raise SettingError("eval_args.mode", "labeled", "labels are wanted for it, such as threshold={rating: 4}")

    names = []
    for metric in metrics:
        by_rank = {"rec.topk", "rec.items"} & set(metric_information[metric.lower()])
        names += [f"{metric}@{k}" for k in topk] if by_rank else [metric]
    if valid_metric.lower() not in [name.lower() for name in names]:
        wanted = f"metrics and topk={topk} do not give it; one of {', '.join(names)} is wanted"
        raise SettingError("valid_metric", valid_metric, wanted)


def check_eval_args(settings: Mapping[str, Any], sequential: bool) -> None:
    """Check how the data is split, ordered and ranked for evaluation.

    Raises
    ------
    SettingError
    """
    args = settings["eval_args"]
    _known_parts("eval_args", args, ("split", "order", "group_by", "mode"))
    split, order = args.get("split"), args.get("order")
    if not isinstance(split, Mapping) or len(split) != 1 or not set(split) <= {"RS", "LS", "TS"}:
        raise SettingError("eval_args.split", split, "{LS: valid_and_test}, {RS: [0.8, 0.1, 0.1]} or TS is wanted")
    ((scheme, parts),) = split.items()
    if scheme == "LS":
        if parts not in ("valid_and_test", "valid_only", "test_only"):
            raise SettingError("eval_args.split", split, "LS takes valid_and_test, valid_only or test_only")
    elif not (isinstance(parts, list) and len(parts) == 3 and all(map(_is_share, parts)) and sum(parts) > 0):
        raise SettingError("eval_args.split", split, f"{scheme} takes three shares, such as [0.8, 0.1, 0.1]")
    if order not in ("RO", "TO"):
        raise SettingError("eval_args.order", order, "RO (random) or TO (by time) is wanted")
    if sequential and order != "TO":
        raise SettingError("eval_args.order", order, "sequential models need TO, the order of time")
    if sequential and not settings["repeatable"]:
        raise SettingError("repeatable", settings["repeatable"], "sequential models need True")
    if str(args.get("group_by")).lower() not in ("user", "none"):
        raise SettingError("eval_args.group_by", args["group_by"], "user or none is wanted")
    _known_parts("eval_args.mode", args["mode"], ("valid", "test"))
    for mode in args["mode"].values():
        if not re.fullmatch(r"full|labeled|(uni|pop)[1-9]\d*", str(mode)):
            raise SettingError("eval_args.mode", mode, "full, labeled, uniN or popN is wanted, such as uni100")


def _is_share(part: Any) -> bool:
    return isinstance(part, (int, float)) and not isinstance(part, bool) and part >= 0


def _known_parts(key: str, value: Mapping[str, Any], known: Sequence[str]) -> None:
    for part in value:
        if part not in known:
            raise SettingError(f"{key}.{part}", value[part], f"there is no such setting; known: {', '.join(known)}")


def negatives(model: type, settings: Mapping[str, Any], given: Mapping[str, Any], default: Any) -> Any:
    """The `train_neg_sample_args` that the loss asks for.

    Parameters
    ----------
    model : type
    settings : mapping
        All settings, merged.
    given : mapping
        What the user set himself.
    default : dict
        RecBole's, for losses that draw negatives.

    Raises
    ------
    SettingError
        If the loss is unknown, or the user's own setting contradicts it.
    """
    loss, args = settings.get("loss_type"), settings["train_neg_sample_args"]
    input_type = getattr(model, "input_type", None)
    sequential = settings["MODEL_TYPE"] == ModelType.SEQUENTIAL
    if loss not in ("CE", "BPR") and (input_type is None or (sequential and loss is not None)):
        raise SettingError("loss_type", loss, "CE or BPR is wanted")
    if args is not None:
        args = _checked_negatives(args, default)
    chosen = "train_neg_sample_args" in given
    if sequential and loss == "CE" and input_type != InputType.PAIRWISE:
        if chosen and args is not None:
            wanted = "loss_type CE draws no negatives; leave this out or set loss_type to BPR"
            raise SettingError("train_neg_sample_args", given["train_neg_sample_args"], wanted)
        return None
    if args is None and (input_type == InputType.PAIRWISE or (input_type is None and loss == "BPR")):
        if not chosen:
            return copy.deepcopy(default)
        if input_type is None:
            wanted = f"loss_type BPR needs a distribution: {' or '.join(DISTRIBUTIONS)}"
            raise SettingError("train_neg_sample_args", given["train_neg_sample_args"], wanted)
    return args


def _checked_negatives(args: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any] | None:
    _known_parts("train_neg_sample_args", args, list(default))
    distribution = args.get("distribution", default["distribution"])
    if distribution is None or str(distribution).lower() == "none":
        return None
    if distribution not in DISTRIBUTIONS:
        wanted = f"one of {', '.join(DISTRIBUTIONS)}, none is wanted"
        raise SettingError("train_neg_sample_args.distribution", distribution, wanted)
    typed = {
        part: Declaration((type(usual).__name__,)).typed(f"train_neg_sample_args.{part}", args.get(part, usual))
        for part, usual in default.items()
    }
    for part, least in (("sample_num", 1), ("candidate_num", 1 if typed["dynamic"] else 0)):
        if typed[part] < least:
            raise SettingError(f"train_neg_sample_args.{part}", typed[part], f"a number of at least {least} is wanted")
    return typed


def columns(settings: Mapping[str, Any], given: Mapping[str, Any], default_fields: Mapping[str, Any]) -> Any:
    """The `load_col` that the other settings ask for: renamed fields, and those that are filtered or labelled by.

    Raises
    ------
    SettingError
        If the user's own `load_col` lacks a field that is needed.
    """
    load_col = copy.deepcopy(settings["load_col"])
    if load_col is None:
        return None
    load_col.setdefault("inter", "*")
    for suffix, names in load_col.items():
        if names != "*" and not isinstance(names, list):
            raise SettingError(f"load_col.{suffix}", names, "a list of fields is wanted, or '*' for all")
    own = given.get("load_col") or {}
    for suffix in given.get("unload_col") or {}:
        if suffix in own:
            raise SettingError("unload_col", given["unload_col"], f"load_col names the fields of .{suffix} already")
        load_col[suffix] = "*"
    if load_col["inter"] == "*":
        return load_col
    if "inter" not in own:
        renamed = {default_fields[key]: settings[key] for key in FIELDS}
        load_col["inter"] = [renamed.get(name, name) for name in load_col["inter"]]

    needed = {field: key for key in ("threshold", "val_interval", "normalize_field") for field in given.get(key) or ()}
    if settings.get("inter_matrix_type") == "rating":
        needed[settings["RATING_FIELD"]] = "inter_matrix_type"
    if settings["benchmark_filename"] is not None and settings["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        needed[settings["ITEM_ID_FIELD"] + settings["LIST_SUFFIX"]] = "benchmark_filename"
    elif settings["eval_args"]["order"] == "TO" and settings["benchmark_filename"] is None:
        needed[settings["TIME_FIELD"]] = "TIME_FIELD"
    needed[settings["ITEM_ID_FIELD"]], needed[settings["USER_ID_FIELD"]] = "ITEM_ID_FIELD", "USER_ID_FIELD"
    for field, key in needed.items():
        if any(names == "*" or field in names for names in load_col.values()):
            continue
        if "inter" in own:
            raise SettingError("load_col", own, f"{key} needs the field {field}; add it to inter")
        load_col["inter"].append(field)
    return load_col


def _loads(settings: Mapping[str, Any], field: str) -> bool:
    columns = (settings["load_col"] or {}).get("inter", "*")
    return columns == "*" or field in columns


def pick_device(gpu_id: str, use_gpu: bool) -> torch.device:
    """The device that a run computes on: the first GPU of `gpu_id`, or the CPU where none is there or wanted.

    `CUDA_VISIBLE_DEVICES` is left alone; `gpu_id` counts among the GPUs that it shows.

    Raises
    ------
    SettingError
        If `gpu_id` is no list of numbers, or there are fewer GPUs.
    """
    if not re.fullmatch(r"\s*|-1|\d+(\s*,\s*\d+)*", gpu_id):
        raise SettingError("gpu_id", gpu_id, "numbers of GPUs are wanted, such as 0 or 0,1")
    if not use_gpu or not gpu_id.strip() or gpu_id == "-1" or not torch.cuda.is_available():
        return torch.device("cpu")
    index = int(gpu_id.split(",")[0])
    if index >= torch.cuda.device_count():
        raise SettingError("gpu_id", gpu_id, f"{torch.cuda.device_count()} GPU(s) can be seen, numbered from 0")
    # Some of RecBole's models say plainly "cuda".
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
