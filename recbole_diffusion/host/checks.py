"""What settings must be together, and what follows from them: checked before any data is touched."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from . import compat

compat.apply()

from recbole.evaluator import metric_information, metric_types, metrics_dict  # noqa: E402
from recbole.utils import EvaluatorType, InputType, ModelType  # noqa: E402

from ..errors import SettingError, nearest  # noqa: E402
from .parsing import kind_of, typed  # noqa: E402
from .registry import PROPERTIES, is_ours, is_recboles, recbole_folder  # noqa: E402
from .temporal import SCHEME, read_temporal  # noqa: E402

FIELDS = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD")
# What other libraries call settings of RecBole's.
SHORTHANDS = {
    "lr": "learning_rate",
    "batch_size": "train_batch_size",
    "n_epochs": "epochs",
    "max_len": "MAX_ITEM_LIST_LENGTH",
    "patience": "stopping_step",
    "optimizer": "learner",
}
# Settings that RecBole's transforms read without a default.
TRANSFORM_NEEDS = {"mask_itemseq": ("mask_ratio",), "crop_itemseq": ("eta",), "reorder_itemseq": ("beta",)}
DISTRIBUTIONS = ("uniform", "popularity")
# What a model must read for a setting to have an effect on it, as it stands in its code.
READ_AS = {
    "preload_weight": "get_preload_weight",
    "mask_itemseq": "MASK_ITEM_SEQ",
    "inverse_itemseq": "INVERSE_ITEM_SEQ",
    "crop_itemseq": "CROP_ITEM_SEQ",
    "reorder_itemseq": "REORDER_ITEM_SEQ",
}
# Settings that choose interactions, which pre-split files are without.
FILTERS = ("val_interval", "user_inter_num_interval", "item_inter_num_interval", "rm_dup_inter")
ALL = ("[0,inf)", "[0,inf]")
# The files of a dataset, DATASET.SUFFIX.
SUFFIXES = ("inter", "user", "item", "kg", "link", "net")
# RecBole's form of "no negatives are sampled".
NO_NEGATIVES = {"distribution": "none", "sample_num": "none", "alpha": "none", "dynamic": False, "candidate_num": 0}
# Layers are made one by one: a slip of the pen would fill the memory before anything fails.
MOST_LAYERS = 1000
_TOP_LEVEL_KEY = re.compile(r"^([\w-]+)[ \t]*:", re.MULTILINE)


@functools.cache
def _settings_of_any_model() -> frozenset[str]:
    files = [*(recbole_folder() / "properties").rglob("*.yaml"), *PROPERTIES.rglob("*.yaml")]
    return frozenset(key for file in files for key in _TOP_LEVEL_KEY.findall(file.read_text(encoding="utf-8")))


def check_names(settings: Mapping[str, Any], known: Iterable[str], model: type) -> list[str]:
    """Refuse a misspelt setting, and warn of those that nothing reads.

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
        # A model of the user's has no yaml that says what it reads.
        if not (is_ours(model) or is_recboles(model)) and _reads(model, f'"{key}"'):
            continue
        # A file of settings may serve several models, so a key of another one is no slip of the pen.
        if key in _settings_of_any_model():
            warnings.append(f"{model.__name__} does not read the setting {key}")
        elif near := SHORTHANDS.get(key) or nearest(key, sorted(known), cutoff=0.8):
            raise SettingError(key, value, must=f"be the name of a setting, such as {near}")
        else:
            warnings.append(f"the setting {key} is unknown, and probably nothing reads it")
    return warnings


def check_transform(model: type, settings: Mapping[str, Any], default: str | None) -> None:
    """Check that the setting which `transform` reads is given, and that the transform does what the model needs.

    Parameters
    ----------
    model : type
    settings : mapping
        All settings, merged.
    default : str or None
        The `transform` of the model's yaml.

    Raises
    ------
    SettingError
    """
    if default is not None and settings["transform"] != default and _reads(model, READ_AS[default]):
        must = f"be {default}, as {model.__name__} reads what that adds"
        raise SettingError("transform", settings["transform"], must=must)
    for parameter in TRANSFORM_NEEDS.get(settings["transform"] or "", ()):
        if settings.get(parameter) is None:
            raise SettingError("transform", settings["transform"], must=f"be given together with {parameter}")
        if not _is_share(settings[parameter]) or settings[parameter] > 1:
            raise SettingError(parameter, settings[parameter], must="be from 0 to 1")
    longest = settings["MAX_ITEM_LIST_LENGTH"]
    # RecBole rounds down the number of items that it masks.
    if settings["transform"] == "mask_itemseq" and int(settings["mask_ratio"] * longest) < 1:
        must = f"be at least 1 / MAX_ITEM_LIST_LENGTH = {1 / longest:.3g}, so that an item is masked"
        raise SettingError("mask_ratio", settings["mask_ratio"], must=must)


def check_layers(settings: Mapping[str, Any]) -> None:
    """Check that a model has no more layers than can be built.

    Raises
    ------
    SettingError
    """
    for key, value in settings.items():
        if "layer" in key and type(value) is int and value > MOST_LAYERS:
            raise SettingError(key, value, must=f"be at most {MOST_LAYERS}")


def check_frozen(settings: Mapping[str, Any], given: Mapping[str, Any], default: Sequence[str]) -> list[str]:
    """A warning where parameters are named, others than by default, that stay frozen for no epoch."""
    if given.get("frozen", default) == default or settings["frozen_epochs"]:
        return []
    return [f"frozen={given['frozen']} has no effect without frozen_epochs"]


def check_presplit(settings: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Check that nothing is to be filtered in files that are split already: RecBole takes them as they are.

    Raises
    ------
    SettingError
    """
    for key in FILTERS if settings["benchmark_filename"] is not None else ():
        if given.get(key) and given[key] not in ALL:
            raise SettingError(key, given[key], must="be left out with benchmark_filename: its files stay as they are")


def unread_additions(model: type, given: Mapping[str, Any]) -> dict[str, str]:
    """The settings that add something to the data which the model does not read, each with a warning."""
    warnings = {}
    for key in ("preload_weight", "transform"):
        word = READ_AS.get(str(given.get(key))) if key == "transform" else READ_AS[key]
        if given.get(key) and word and not _reads(model, word):
            warnings[key] = f"{key}={given[key]} has no effect, as {model.__name__} does not read what it adds"
    return warnings


def _reads(model: type, word: str) -> bool:
    """Whether a word stands in the code of a class or of one that it derives from; True where no code is found."""
    try:
        return any(word in inspect.getsource(base) for base in model.__mro__ if base is not object)
    except (OSError, TypeError):
        return True


def check_metrics(settings: Mapping[str, Any]) -> None:
    """Check `metrics`, `topk` and `valid_metric` against each other and against the way of evaluation.

    Raises
    ------
    SettingError
    """
    metrics, topk, valid_metric = settings["metrics"], settings["topk"], settings["valid_metric"]
    for metric in metrics:
        if metric.lower() not in metric_types:
            names = [known.__name__ for known in metrics_dict.values()]
            must = f"hold names of metrics, such as {nearest(metric, names) or ', '.join(names)}"
            raise SettingError("metrics", metric, must=must)
    if len({metric_types[metric.lower()] for metric in metrics}) > 1:
        raise SettingError("metrics", metrics, must="be all of ranking or all of values")
    modes = settings["eval_args"]["mode"].values()
    by_value = metric_types[metrics[0].lower()] == EvaluatorType.VALUE
    if by_value and "full" in modes:
        must = "be metrics of ranking with eval_args.mode full; metrics of values take labeled, uniN or popN"
        raise SettingError("metrics", metrics, must=must)
    if "labeled" in modes and not by_value:
        raise SettingError("eval_args.mode", "labeled", must="be full, uniN or popN for ranking; labels go with AUC")
    if "labeled" in modes and not settings.get("threshold") and not _loads(settings, settings["LABEL_FIELD"]):
        must = "come with labels, such as threshold={rating: 4}"
        raise SettingError("eval_args.mode", "labeled", must=must)

    for metric in metrics:
        shortest = getattr(metrics_dict[metric.lower()], "shortest", 1)
        if min(topk) < shortest:
            raise SettingError("topk", topk, must=f"hold numbers of at least {shortest} for {metric}")
    names = metric_names(metrics, topk)
    if valid_metric.lower() not in [name.lower() for name in names]:
        must = f"be one of {', '.join(names)}, which metrics and topk={topk} give"
        raise SettingError("valid_metric", valid_metric, must=must)


def metric_names(metrics: Sequence[str], topk: Sequence[int]) -> list[str]:
    """What the values of known metrics are called: with a cut-off each, or alone; unknown metrics are left out."""
    names = []
    for metric in (metric for metric in metrics if metric.lower() in metric_types):
        by_rank = {"rec.topk", "rec.items"} & set(metric_information[metric.lower()])
        names += [f"{metric}@{k}" for k in topk] if by_rank else [metric]
    return names


def check_eval_args(settings: Mapping[str, Any], sequential: bool) -> None:
    """Check how the data is split, ordered and ranked for evaluation.

    Raises
    ------
    SettingError
    """
    args = settings["eval_args"]
    _known_parts("eval_args", args, ("split", "order", "group_by", "mode"))
    _check_split(args.get("split"))
    order = args.get("order")
    if order not in ("RO", "TO"):
        raise SettingError("eval_args.order", order, must="be RO (random) or TO (by time)")
    if sequential and order != "TO":
        raise SettingError("eval_args.order", order, must="be TO (by time) for a sequential model")
    if str(args.get("group_by")).lower() not in ("user", "none"):
        raise SettingError("eval_args.group_by", args["group_by"], must="be user or none")
    _known_parts("eval_args.mode", args["mode"], ("valid", "test"))
    for mode in args["mode"].values():
        if not re.fullmatch(r"full|labeled|(uni|pop)[1-9]\d*", str(mode)):
            raise SettingError("eval_args.mode", mode, must="be full, labeled, uniN or popN, such as uni100")


def ranking_protocol(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The `history_in_ranking` and the `repeatable` that follow from each other.

    Only evaluation changes: the negatives of training are the same either way, see `loaders.build_loaders`.

    Raises
    ------
    SettingError
        Where the two contradict each other, or the evaluation cannot do it.
    """
    protocol, modes = settings["history_in_ranking"], settings["eval_args"]["mode"].values()
    sequential = settings["MODEL_TYPE"] == ModelType.SEQUENTIAL
    # A model that is not sequential is told by `repeatable` what its users have, for both rankings as for one.
    told = protocol == "both" and not sequential
    if not settings["repeatable"] and not told:
        if given.get("history_in_ranking", "out") != "out":
            must = f"be True with history_in_ranking={protocol}; False is the same as history_in_ranking=out"
            raise SettingError("repeatable", False, must=must)
        protocol = "out"
    if protocol == "both" and set(modes) != {"full"}:
        must = "be in or out with sampled items: out samples others, so that the scores are not the same"
        raise SettingError("history_in_ranking", protocol, must=must)
    if protocol != "in" and sequential and "labeled" in modes:
        raise SettingError(
            "history_in_ranking", protocol, must="be in with eval_args.mode labeled, which ranks nothing"
        )
    return {"history_in_ranking": protocol, "repeatable": sequential or protocol == "in"}


def _check_split(split: Any) -> None:
    must = "be {LS: valid_and_test}, {RS: [0.8, 0.1, 0.1]}, {TS: [0.8, 0.1, 0.1]} or {GTS: [0.8, 0.9]}"
    if not isinstance(split, Mapping) or len(split) != 1 or not set(split) <= {"RS", "LS", "TS", SCHEME}:
        raise SettingError("eval_args.split", split, must=must)
    if read_temporal(split) is not None:
        return
    ((scheme, parts),) = split.items()
    if scheme == "LS":
        if parts not in ("valid_and_test", "valid_only", "test_only"):
            must = "have LS: valid_and_test, valid_only or test_only"
            raise SettingError("eval_args.split", split, must=must)
    elif not (isinstance(parts, list) and len(parts) == 3 and all(map(_is_share, parts)) and sum(parts) > 0):
        must = f"have {scheme}: three shares, such as [0.8, 0.1, 0.1]"
        raise SettingError("eval_args.split", split, must=must)


def _is_share(part: Any) -> bool:
    return isinstance(part, (int, float)) and not isinstance(part, bool) and 0 <= part < math.inf


def _known_parts(key: str, value: Mapping[str, Any], known: Sequence[str]) -> None:
    for part in value:
        if part not in known:
            must = f"be left out; {key} has {', '.join(known)}"
            raise SettingError(f"{key}.{part}", value[part], must=must)


def negatives(model: type, settings: Mapping[str, Any], given: Mapping[str, Any], default: Any) -> dict[str, Any]:
    """The `train_neg_sample_args` that the loss asks for.

    Parameters
    ----------
    model : type
    settings : mapping
        All settings, merged.
    given : mapping
        What the user set.
    default : dict
        RecBole's, for losses that sample negatives.

    Raises
    ------
    SettingError
        If the loss is unknown, or the user's own setting contradicts it.
    """
    loss, args = settings.get("loss_type"), settings["train_neg_sample_args"]
    input_type = getattr(model, "input_type", None)
    sequential = settings["MODEL_TYPE"] == ModelType.SEQUENTIAL
    # A model that says what its input is may have a loss of any other name.
    other = input_type is not None and (loss is None or not sequential or not is_recboles(model))
    if loss not in ("CE", "BPR") and not other:
        raise SettingError("loss_type", loss, must="be CE or BPR")
    if args is not None:
        args = _checked_negatives(args, default)
    chosen = given.get("train_neg_sample_args")
    if sequential and loss == "CE" and input_type != InputType.PAIRWISE:
        if chosen and args is not None:
            must = "be left out, as loss_type CE samples no negatives; or set loss_type to BPR"
            raise SettingError("train_neg_sample_args", chosen, must=must)
        return NO_NEGATIVES.copy()
    if args is None and (input_type == InputType.PAIRWISE or (input_type is None and loss == "BPR")):
        if "train_neg_sample_args" not in given:
            return copy.deepcopy(default)
        if input_type is None:
            must = f"have a distribution for loss_type BPR: {' or '.join(DISTRIBUTIONS)}"
            raise SettingError("train_neg_sample_args", chosen, must=must)
    return NO_NEGATIVES.copy() if args is None else args


def _checked_negatives(args: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any] | None:
    _known_parts("train_neg_sample_args", args, list(default))
    distribution = args.get("distribution", default["distribution"])
    if distribution is None or str(distribution).lower() == "none":
        return None
    if distribution not in DISTRIBUTIONS:
        must = f"be one of {', '.join(DISTRIBUTIONS)}, none"
        raise SettingError("train_neg_sample_args.distribution", distribution, must=must)
    parts = {
        part: typed(f"train_neg_sample_args.{part}", args.get(part, usual), kind_of([usual]))
        for part, usual in default.items()
    }
    for part, least in (("sample_num", 1), ("candidate_num", 1 if parts["dynamic"] else 0)):
        if parts[part] < least:
            raise SettingError(f"train_neg_sample_args.{part}", parts[part], must=f"be at least {least}")
    return parts


def input_type(model: type, loss: str | None) -> InputType | None:
    """What a training row holds: what the model says, or what follows from the loss; None for a loss of its own."""
    by_loss = {"CE": InputType.POINTWISE, "BPR": InputType.PAIRWISE}
    return getattr(model, "input_type", None) or by_loss.get(str(loss))


def evaluation_negatives(mode: str) -> dict[str, Any]:
    """RecBole's `valid_neg_sample_args` and `test_neg_sample_args` of a mode of evaluation."""
    if mode == "labeled":
        return {"distribution": "none", "sample_num": "none"}
    if mode == "full":
        return {"distribution": "uniform", "sample_num": "none"}
    return {"distribution": "popularity" if mode.startswith("pop") else "uniform", "sample_num": int(mode[3:])}


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
    suffixes = (*SUFFIXES, *(settings.get("additional_feat_suffix") or ()))
    for suffix in load_col:
        if suffix not in suffixes:
            raise SettingError("load_col", load_col, must=f"name files by {', '.join(suffixes)}, not {suffix}")
    for suffix, names in load_col.items():
        if names != "*" and not isinstance(names, list):
            raise SettingError(f"load_col.{suffix}", names, must="be a list of fields, or '*' for all")
    own = given.get("load_col") or {}
    for suffix in given.get("unload_col") or {}:
        if suffix in own:
            must = f"leave out {suffix}, whose fields load_col names already"
            raise SettingError("unload_col", given["unload_col"], must=must)
        load_col[suffix] = "*"
    if load_col["inter"] == "*":
        return load_col
    if "inter" not in own:
        renamed = {default_fields[key]: settings[key] for key in FIELDS}
        load_col["inter"] = [renamed.get(name, name) for name in load_col["inter"]]
    for field, key in _needed_fields(settings, given).items():
        if any(names == "*" or field in names for names in load_col.values()):
            continue
        if "inter" in own:
            raise SettingError("load_col", own, must=f"name the field {field} in inter, which {key} needs")
        load_col["inter"].append(field)
    return load_col


def _needed_fields(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, str]:
    """Fields of the interactions that have to be read, each with a setting that needs it."""
    needed = {field: key for key in ("threshold", "val_interval", "normalize_field") for field in given.get(key) or ()}
    if settings.get("inter_matrix_type") == "rating":
        needed[settings["RATING_FIELD"]] = "inter_matrix_type"
    if settings["benchmark_filename"] is not None and settings["MODEL_TYPE"] == ModelType.SEQUENTIAL:
        needed[settings["ITEM_ID_FIELD"] + settings["LIST_SUFFIX"]] = "benchmark_filename"
    elif settings["eval_args"]["order"] == "TO" and settings["benchmark_filename"] is None:
        needed[settings["TIME_FIELD"]] = "TIME_FIELD"
    needed[settings["ITEM_ID_FIELD"]], needed[settings["USER_ID_FIELD"]] = "ITEM_ID_FIELD", "USER_ID_FIELD"
    return needed


def _loads(settings: Mapping[str, Any], field: str) -> bool:
    columns = (settings["load_col"] or {}).get("inter", "*")
    return columns == "*" or field in columns


def pick_device(gpu_id: str, use_gpu: bool) -> torch.device:
    """The device that a run computes on: the first GPU of `gpu_id`; the CPU without one, or with `use_gpu: False`.

    `CUDA_VISIBLE_DEVICES` is left alone; `gpu_id` counts among the GPUs that it shows.

    Raises
    ------
    SettingError
        If there are fewer GPUs.
    """
    if not use_gpu or not gpu_id.strip() or gpu_id == "-1" or not torch.cuda.is_available():
        return torch.device("cpu")
    # Of several processes on a machine each takes the next.
    numbers = gpu_id.split(",")
    index, count = int(numbers[int(os.environ.get("LOCAL_RANK", "0")) % len(numbers)]), torch.cuda.device_count()
    if index >= count:
        raise SettingError("gpu_id", gpu_id, must=f"be below {count}, the number of GPUs that can be seen")
    # Some of RecBole's models say plainly "cuda".
    torch.cuda.set_device(index)
    return torch.device("cuda", index)
