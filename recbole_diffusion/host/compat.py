"""What RecBole 1.2.1 needs on the NumPy, pandas and torch of today. The only file that changes RecBole.

Each mend says what breaks, where (paths are relative to `recbole/`, lines those of the 1.2.1 wheel), and when it can
go. Names that NumPy and SciPy have taken away are all that is set outside RecBole.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType, ModuleType
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import dok_matrix
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..errors import SettingError, UserError
from .atomic_files import load_feat, orders_by_time
from .download import ensure_files
from .fields import check_fields

# Aliases that NumPy 1.24 and 2.0 took away; RecBole writes np.float (evaluator/metrics.py 90, data/interaction.py 31),
# np.bool (metrics.py 287), np.long (model/layers.py 932) and np.str. Can go when RecBole writes the types themselves.
NUMPY_NAMES = {
    "bool": np.bool_,
    "int": np.int_,
    "float": np.float64,
    "complex": np.complex128,
    "object": np.object_,
    "str": np.str_,
    "long": np.int_,
    "unicode": np.str_,
    "float_": np.float64,
    "complex_": np.complex128,
    "unicode_": np.str_,
}

# RecBole's filters, in their order, and the settings of each.
FILTERS = {
    "_remove_duplication": "rm_dup_inter",
    "_filter_by_field_value": "val_interval",
    "_filter_inter_by_user_or_item": "filter_inter_by_user_or_item",
    "_filter_by_inter_num": "user_inter_num_interval item_inter_num_interval",
}

# What RecBole imports at its start and most runs never call (evaluator/metrics.py 29, utils/utils.py 25): module ->
# names. Scikit-learn alone takes a second. Can go when RecBole imports them where it calls them.
CALLED_SELDOM = {
    "sklearn.metrics": ("auc", "mean_absolute_error", "mean_squared_error"),
    "torch.utils.tensorboard": ("SummaryWriter",),
}

_applied = False
# What methods have been rewritten to.
_sources: dict[Any, str] = {}


def apply() -> None:
    """Mend RecBole 1.2.1 in this process; a second call does nothing."""
    global _applied
    if _applied:
        return
    # hasattr would make NumPy 1.26 warn of the very names it asks for.
    for name, value in NUMPY_NAMES.items():
        if name not in vars(np):
            setattr(np, name, value)
    # SciPy's dok_matrix is no dict any longer, and RecBole fills it as one (model/general_recommender/lightgcn.py 111,
    # ngcf.py 110, ncl.py 131, gcmc.py 174, spectralcf.py 123, knowledge_aware_recommender/kgin.py 356, mcclk.py 425).
    # Can go when RecBole builds those matrices from coordinates.
    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = lambda self, entries: self._dict.update(entries)
    with _imported_when_called():
        _mend_config()
    _mend_interaction()
    _mend_dataset()
    _mend_loaders()
    _mend_evaluation()
    _applied = True


@contextmanager
def _imported_when_called() -> Iterator[None]:
    """Give whoever imports a name of `CALLED_SELDOM` meanwhile a function that imports the module when it is called."""
    stand_ins = {module: ModuleType(module) for module in CALLED_SELDOM if module not in sys.modules}
    for module, stand_in in stand_ins.items():
        for name in CALLED_SELDOM[module]:
            setattr(stand_in, name, functools.partial(_call, module, name))
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for module in stand_ins:
            del sys.modules[module]


def _call(module: str, name: str, /, *args: Any, **options: Any) -> Any:
    return getattr(importlib.import_module(module), name)(*args, **options)


def _mend_config() -> None:
    from recbole.config import Config

    # config/configurator.py 625: each Config sets names of NumPy's anew, np.float_ among them, which NumPy 2 lacks.
    # Done above, once. Can go when RecBole drops the method.
    Config.compatibility_settings = lambda self: None


def _mend_interaction() -> None:
    from recbole.data import interaction

    # data/interaction.py 347: np.argsort of a tensor goes through __array_wrap__, whose signature NumPy 2 deprecates,
    # and sorting downwards fails on a negative stride. Can go when RecBole sorts with torch.
    interaction.Interaction.sort = _sort
    # data/interaction.py 32: torch warns of the read-only arrays that pandas 3 hands out. Can go when RecBole copies
    # them.
    convert = interaction._convert_to_tensor
    interaction._convert_to_tensor = lambda data: convert(
        data.copy() if isinstance(data, np.ndarray) and not data.flags.writeable else data
    )


def _mend_dataset() -> None:
    from recbole.data.dataset import Dataset, KnowledgeBasedDataset, SequentialDataset

    # data/dataset/dataset.py 712, 792, 809, 1217, kg_dataset.py 316, sequential_dataset.py 163: Series.agg(len) gives
    # the number of rows on pandas 3, and warns on pandas 2. Can go when RecBole maps.
    for owner, name in (
        (Dataset, "_normalize"),
        (Dataset, "_discretization"),
        (Dataset, "_remap"),
        (KnowledgeBasedDataset, "_reset_ent_remapID"),
        (SequentialDataset, "_benchmark_presets"),
    ):
        _rewrite(owner, name, r"\.agg\(len\)", ".map(len)")
    # dataset.py 359, 827, 834, 853, 864, 922, 926, 939, 1045, 1055, 1065, 1078, 1104, kg_dataset.py 166, 188: pandas
    # 3.1 deprecates `inplace` of methods that copy anyway. Can go when RecBole assigns what they return.
    Dataset._replace_feat = _replace_feat
    for owner, name in (
        (Dataset, "_filter_nan_user_or_item"),
        (Dataset, "_remove_duplication"),
        (Dataset, "_filter_by_inter_num"),
        (Dataset, "_filter_by_field_value"),
        (Dataset, "_filter_inter_by_user_or_item"),
        (Dataset, "_reset_index"),
        (KnowledgeBasedDataset, "_filter_kg_by_triple_num"),
        (KnowledgeBasedDataset, "_filter_link"),
    ):
        _rewrite(owner, name, r"\b(self\.\w+_feat|feat)(\.\w+)\(([^;]*?),\s*inplace=True,?\s*\)", _assigned)
    # dataset.py 893, 898, 934, 935: a loop over all ids, which pandas 3 hands out one by one where it keeps them by
    # pyarrow: 5 s for a million. Can go when RecBole counts by pandas.
    _rewrite(Dataset, "_filter_by_inter_num", r"Counter\(([^()]+)\.values\)", r"Counter(\1.value_counts().to_dict())")
    _rewrite(Dataset, "_load_user_or_item_feat", r"(feat\.drop_duplicates\(.*), inplace=True\)", r"feat = \1)")
    _rewrite(Dataset, "_del_col", r"feat\.drop\(columns=field, inplace=True\)", "del feat[field]")
    # dataset.py 648, 650: fillna(inplace=True) of a column is lost under copy-on-write, 652 names np.float.
    # Can go when RecBole assigns.
    Dataset._fill_nan = _fill_nan
    # dataset.py 427: see the function. Can go when RecBole reads ids as written and names what is wrong with a file.
    Dataset._load_feat = load_feat
    # dataset.py 853: the sort before duplicates are dropped is not stable, so that of two equal times either may stay.
    # Can go when RecBole names a stable kind.
    _rewrite(Dataset, "_remove_duplication", "ascending=True", 'ascending=True, kind="stable"')
    # dataset.py 164: a setting that names a column that is not there fails somewhere below, without its name. Can go
    # when RecBole checks these settings.
    _follow(Dataset, "_build_feat_name_list", check_fields)
    # dataset.py 1104: a threshold that all interactions are above, or all below, gives metrics of NaN. Can go when
    # RecBole refuses it.
    _follow(Dataset, "_set_label_by_threshold", _require_two_labels)
    # dataset.py 1104: the column that is compared with the threshold is dropped, of whatever use it was. Can go when
    # RecBole keeps it.
    _precede(Dataset, "_set_label_by_threshold", _require_column_to_spare)
    # dataset.py 1062: where a filter leaves nothing, RecBole does not say which. Can go when it does.
    for name, setting in FILTERS.items():
        _follow(Dataset, name, functools.partial(_count_rows, setting))
    _precede(Dataset, "_reset_index", _require_rows)
    # dataset.py 2207: times become float32 (a step of 64 s at 1e9) before RecBole sorts by them; sorted here while they
    # are float64, events closer than that keep their order, as every later sort is stable. Can go when RecBole sorts
    # first.
    _precede(Dataset, "_normalize", _sort_by_time)
    # dataset.py 2199: pandas 3 hands out read-only arrays, of which torch warns. Can go when RecBole copies them.
    _rewrite(Dataset, "_dataframe_to_interaction", r"data\[k\]\.values", "data[k].to_numpy(copy=True)")
    # dataset.py 252, 266 and utils/url.py 21: a download ends in barrier() of a group that was never started, and one
    # that breaks off leaves a folder that bars the next. Can go when RecBole moves finished downloads into place.
    _precede(Dataset, "_load_data", _ensure_files)
    Dataset._download = _ensure_files


def _mend_loaders() -> None:
    from recbole.data.dataloader import AbstractDataLoader

    # data/dataloader/abstract_dataloader.py 68: a list of all row numbers takes 36 bytes a row. Can go when RecBole
    # passes the range itself.
    _rewrite(AbstractDataLoader, "__init__", r"super\(\)", "super(AbstractDataLoader, self)")
    _rewrite(AbstractDataLoader, "__init__", r"list\((range\(self\.sample_size\))\)", r"\1")


def _mend_evaluation() -> None:
    import recbole.trainer.trainer
    from recbole.evaluator import Collector

    # evaluator/collector.py 227: .cpu() of a count and of a Counter, so that ItemCoverage, GiniIndex, AveragePopularity
    # and TailPercentage crash. Can go when RecBole asks for tensors first.
    cpu = r"(self\.data_struct\._data_dict\[key\])\.cpu\(\)"
    _rewrite(Collector, "get_data_struct", cpu, r"\1.cpu() if torch.is_tensor(\1) else \1")
    # evaluator/register.py 63, collector.py 79: RecBole knows the metrics of its own module alone, and hands them no
    # more of the training data than counts. Can go when RecBole lets metrics be added.
    _add_metrics()
    # trainer/trainer.py 115: every Trainer writes to ./log_tensorboard. Can go when the folder is a setting.
    recbole.trainer.trainer.get_tensorboard = lambda logger: NullWriter()


def _add_metrics() -> None:
    from recbole.evaluator import Collector, register

    # It imports RecBole, which is to be done with what apply() has set.
    from .metrics import ITEM_USERS, METRICS, item_users

    for metric in METRICS:
        name = metric.__name__.lower()
        register.metrics_dict[name] = metric
        register.metric_types[name] = metric.metric_type
        register.metric_information[name] = metric.metric_need
    collect = Collector.data_collect

    @functools.wraps(collect)
    def data_collect(self: Any, train_data: Any) -> None:
        collect(self, train_data)
        if self.register.need(ITEM_USERS):
            self.data_struct.set(ITEM_USERS, item_users(train_data.dataset))

    Collector.data_collect = data_collect


def undo_anomaly_detection() -> None:
    """Turn torch's anomaly detection off, to be called once a model is there."""
    # Importing any of RecBole's sequential models runs model/sequential_recommender/sine.py, whose line 25 turns it on
    # for the whole process: training becomes slow, and NaN ends in a traceback. Can go when RecBole drops that line.
    torch.autograd.set_detect_anomaly(False)


@contextmanager
def anomaly_detection_as_found() -> Iterator[None]:
    """Leave torch's anomaly detection as it was found, whatever is imported meanwhile; see `undo_anomaly_detection`."""
    found = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    try:
        yield
    finally:
        torch.autograd.set_detect_anomaly(*found)


@contextmanager
def files_as_data() -> Iterator[None]:
    """Have models that read files while they are built run no code that stands in them."""
    # model/general_recommender/ldiffrec.py 232 loads item_emb.npy of a dataset with allow_pickle; s3rec.py 120,
    # neumf.py 84, nais.py 127 and others call torch.load, which before torch 2.6 unpickles anything. Can go when
    # RecBole asks for weights and arrays alone.
    force, load = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", np.load
    before = os.environ.get(force)
    os.environ[force] = "1"
    np.load = lambda *args, **options: load(*args, **{**options, "allow_pickle": False})  # type: ignore[assignment]
    try:
        yield
    finally:
        np.load = load
        os.environ.pop(force)
        if before is not None:
            os.environ[force] = before


def mend_loss(model: nn.Module) -> None:
    """Have a BERT4Rec of RecBole's compute its loss where it counts; other models stay as they are."""
    # model/sequential_recommender/bert4rec.py 204: a batch without a masked item gives 0 / 0, and what counts is a
    # position above 0, so that a batch of histories of one item is always such; every row is scored against the whole
    # catalogue at as many positions as the longest could have masked, which takes gigabytes. Can go when RecBole
    # scores the masked positions alone.
    bert4rec = sys.modules.get("recbole.model.sequential_recommender.bert4rec")
    if bert4rec is not None and getattr(type(model), "calculate_loss", None) is bert4rec.BERT4Rec.calculate_loss:
        vars(model)["calculate_loss"] = MethodType(_loss_of_masked, model)


def _loss_of_masked(self: Any, interaction: Any) -> Tensor:
    """BERT4Rec's `calculate_loss`: the mean over the masked positions, and 0 where there is none."""
    index = interaction[self.MASK_INDEX]
    masked = index > 0
    output = self.forward(interaction[self.MASK_ITEM_SEQ])[masked.nonzero()[:, 0], index[masked]]
    positive = interaction[self.POS_ITEMS][masked]
    if self.loss_type == "BPR":
        ahead, behind = (
            (output * self.item_embedding(items)).sum(dim=-1) + self.output_bias[items]
            for items in (positive, interaction[self.NEG_ITEMS][masked])
        )
        losses = -torch.log(1e-14 + torch.sigmoid(ahead - behind))
    else:
        # The last row of the embedding is the mask.
        scores = output @ self.item_embedding.weight[: self.n_items].T + self.output_bias
        losses = cross_entropy(scores, positive, reduction="none")
    return losses.sum() / max(len(losses), 1)


class NullWriter:
    """A tensorboard writer that writes nothing."""

    def add_scalar(self, *args: Any, **kwargs: Any) -> None:
        """Take no notice."""

    def add_hparams(self, *args: Any, **kwargs: Any) -> None:
        """Take no notice."""

    def close(self) -> None:
        """Nothing is open."""


def _rewrite(owner: type, name: str, old: str, new: str | Callable[[re.Match[str]], str]) -> None:
    """Recompile a method of RecBole's with a pattern in its source replaced; it may be rewritten more than once."""
    method = getattr(owner, name)
    source = _sources.get(method) or textwrap.dedent(inspect.getsource(method))
    source, found = re.subn(old, new, source, flags=re.DOTALL)
    if not found:
        raise RuntimeError(f"{owner.__module__}.{owner.__name__}.{name} is not that of RecBole 1.2.1")
    namespace: dict[str, Any] = {}
    first = method.__code__.co_firstlineno
    exec(compile("\n" * (first - 1) + source, method.__code__.co_filename, "exec"), method.__globals__, namespace)
    _sources[namespace[name]] = source
    setattr(owner, name, namespace[name])


def _assigned(match: re.Match[str]) -> str:
    """`feat.drop(rows, inplace=True)` as an assignment."""
    feat, method, arguments = match.groups()
    copy = f"{feat}{method}({arguments})"
    return f"self._replace_feat(feat, {copy})" if feat == "feat" else f"{feat} = {copy}"


def _replace_feat(self: Any, old: pd.DataFrame, new: pd.DataFrame) -> None:
    """Put a table in the place of another among a dataset's."""
    for name in self.feat_name_list:
        if getattr(self, name) is old:
            setattr(self, name, new)


def _precede(owner: type, name: str, action: Callable[[Any], None]) -> None:
    """Have a method of RecBole's begin with `action(self)`."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def mended(self: Any, *args: Any) -> Any:
        action(self)
        return method(self, *args)

    setattr(owner, name, mended)


def _follow(owner: type, name: str, action: Callable[[Any], None]) -> None:
    """Have a method of RecBole's end with `action(self)`."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def mended(self: Any, *args: Any) -> Any:
        result = method(self, *args)
        action(self)
        return result

    setattr(owner, name, mended)


def _require_column_to_spare(dataset: Any) -> None:
    threshold = dataset.config["threshold"] or {}
    needed = {dataset.uid_field: "users", dataset.iid_field: "items"}
    if orders_by_time(dataset.config):
        needed[dataset.time_field] = "times"
    for field in needed.keys() & threshold.keys():
        raise SettingError("threshold", threshold, must=f"name another column: {field} has the {needed[field]}")


def _require_two_labels(dataset: Any) -> None:
    threshold = dataset.config["threshold"]
    if threshold and dataset.inter_feat[dataset.label_field].nunique() < 2:
        kind = "above" if dataset.inter_feat[dataset.label_field].iloc[0] else "below"
        raise SettingError("threshold", threshold, must=f"divide the interactions; all of them are {kind} it")


def _count_rows(setting: str, dataset: Any) -> None:
    """Note how many interactions a filter has left; say so of the one that a file of features brings along."""
    counts, rows = vars(dataset).setdefault("_rows_left", []), len(dataset.inter_feat)
    lost = counts[-1][1] - rows if counts else 0
    counts.append((setting, rows))
    if lost and setting == "filter_inter_by_user_or_item":
        name = dataset.dataset_name
        problem = f"{lost} of {lost + rows} interactions, whose user or item is not in {name}.user or {name}.item"
        dataset.logger.warning(f"{setting}=True drops {problem}")


def _require_rows(dataset: Any) -> None:
    """Say which filter has left how many interactions, where none is left."""
    if dataset.inter_feat is None or len(dataset.inter_feat):
        return
    config = dataset.config
    steps = []
    for settings, rows in vars(dataset).get("_rows_left", []):
        given = [f"{key}={config[key]}" for key in settings.split() if config[key]]
        steps += [f"{rows} after {' and '.join(given)}"] if given else []
    raise UserError(f"dataset={dataset.dataset_name}: no interaction is left by the filters: {', '.join(steps)}")


def _sort(self: Any, by: str | list[str], ascending: bool | list[bool] = True) -> None:
    """Sort an Interaction in place and stably, by one or several of its fields."""
    fields = [by] if isinstance(by, str) else list(by)
    for field in fields:
        if field not in self:
            raise ValueError(f"[{field}] is not exist in interaction [{self}].")
    upwards = [ascending] * len(fields) if isinstance(ascending, bool) else list(ascending)
    if len(upwards) == 1:
        upwards *= len(fields)
    if len(upwards) != len(fields):
        raise ValueError(f"by [{by}] and ascending [{ascending}] should have same length.")
    for field, up in zip(reversed(fields), reversed(upwards), strict=True):
        key = self[field]
        self._reindex(torch.argsort(key if key.dim() == 1 else key[..., 0], stable=True, descending=not up))


def _sort_by_time(dataset: Any) -> None:
    inter_feat, time_field = dataset.inter_feat, dataset.time_field
    # Files of a benchmark are kept as they are, and where the order is random there is none to keep.
    ordered = dataset.benchmark_filename_list is None and dataset.config["eval_args"]["order"] == "TO"
    if not ordered or time_field not in inter_feat:
        return
    # A configuration of RecBole's own has no such setting.
    ties = dataset.config["tie_order"] or "file"
    if ties == "item":
        rank = dataset.field2id_token[dataset.iid_field].astype(str).argsort(kind="stable").argsort()
        inter_feat = inter_feat.iloc[rank[inter_feat[dataset.iid_field].to_numpy()].argsort(kind="stable")]
    elif ties == "random":
        inter_feat = inter_feat.iloc[np.random.default_rng(dataset.config["seed"]).permutation(len(inter_feat))]
    if ties != "file" or not inter_feat[time_field].is_monotonic_increasing:
        dataset.inter_feat = inter_feat.sort_values(time_field, kind="stable", ignore_index=True)


def _fill_nan(self: Any) -> None:
    """Missing tokens become 0 (the padding), missing floats the column's mean, missing sequences empty ones."""
    from recbole.utils import FeatureType

    empty = {FeatureType.TOKEN_SEQ: np.array([], dtype=np.int64), FeatureType.FLOAT_SEQ: np.array([], dtype=np.float64)}
    for feat_name in self.feat_name_list:
        feat = getattr(self, feat_name)
        for field in feat:
            column, ftype = feat[field], self.field2type[field]
            if ftype == FeatureType.TOKEN:
                feat[field] = column.fillna(0).astype(np.int64)
            elif ftype == FeatureType.FLOAT:
                feat[field] = column.fillna(column.mean())
            else:
                feat[field] = column.map(lambda x, e=empty[ftype]: e if isinstance(x, float) else x)


def _ensure_files(dataset: Any) -> None:
    ensure_files(dataset.dataset_path, dataset.dataset_name, dataset.benchmark_filename_list)
