"""The settings of a run: RecBole's defaults, ours, the user's files and the call, laid one over the other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from . import compat

compat.apply()

from recbole.config import Config  # noqa: E402
from recbole.evaluator import metric_types, smaller_metrics  # noqa: E402
from recbole.utils import ModelType  # noqa: E402

from ..common.plain import plain  # noqa: E402
from ..common.setting import Setting, table_of, without_effect  # noqa: E402
from ..errors import SettingError  # noqa: E402
from . import checks  # noqa: E402
from .parsing import SettingsLoader, read_yaml, require_names, typed  # noqa: E402
from .registry import find_model, model_name, property_files, recbole_folder, recbole_name  # noqa: E402
from .table import COMPUTED, DATA, EVALUATION, NAMES, RUN, TRAINING, rename, settings_table  # noqa: E402

# The row of a key that no table has.
ANY = Setting("any or ~")
# Of a user's value for these maps the keys count one by one; any other map is replaced as a whole.
MERGED = ("eval_args", "train_neg_sample_args", "load_col")
Files = Sequence[str | os.PathLike[str]] | str | os.PathLike[str] | None


def recbole_files(model: type, dataset: str) -> list[Path]:
    """The property files that RecBole's own look-up reads for a model on a dataset, the weakest first."""
    # By the class that comes from RecBole: a model of ours or of the user's is not given the yaml of a namesake.
    name = recbole_name(model)
    kind, on_ml_100k = model.type, dataset == "ml-100k"  # type: ignore[attr-defined]
    quick_start: list[str] = []
    if kind == ModelType.CONTEXT:
        quick_start = ["context-aware", *["context-aware_ml-100k"] * on_ml_100k]
    elif kind == ModelType.KNOWLEDGE:
        quick_start = ["knowledge_base"]
    elif kind == ModelType.SEQUENTIAL and name in ("DIN", "DIEN"):
        quick_start = ["sequential_DIN", *["sequential_DIN_on_ml-100k"] * on_ml_100k]
    elif kind == ModelType.SEQUENTIAL and name in ("GRU4RecKG", "KSR"):
        quick_start = ["sequential_embedding_model"]
    elif kind == ModelType.SEQUENTIAL:
        with_features = on_ml_100k and name in ("GRU4RecF", "SASRecF", "FDSA", "S3Rec")
        quick_start = ["sequential", *["special_sequential_on_ml-100k"] * with_features]
    names = ["overall", "dataset/sample", f"dataset/{dataset}", f"model/{name}"]
    names += [f"quick_start_config/{part}" for part in quick_start]
    files = [recbole_folder() / "properties" / f"{name}.yaml" for name in names]
    return [file for file in dict.fromkeys(files) if file.is_file()]


def default_files(model: type, dataset: str) -> list[Path]:
    """Every property file that holds for a model on a dataset, the weakest first.

    Our overall.yaml changes RecBole's general defaults and hence stands right above them, below what RecBole says of a
    kind of model or of a dataset; our other files stand above all of RecBole's.
    """
    general, sample, *theirs = recbole_files(model, dataset)
    overall, *ours = property_files(model, dataset)
    return [general, sample, overall, *theirs, *ours]


def read_defaults(file: Path) -> Mapping[str, Any]:
    """What a property file holds; to be read only.

    It is parsed again only when the file has changed: parsing takes most of the time in which settings are resolved.
    """
    state = file.stat()
    return _parsed(file, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=256)
def _parsed(file: Path, changed: int, size: int) -> Mapping[str, Any]:
    return read_yaml(file, may_be_empty=True)


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Lay settings over one another, the weakest first.

    The maps in `MERGED` are merged key by key, and so is the mode of `eval_args`.
    """
    merged: dict[str, Any] = {}
    for key, value in ((key, value) for layer in layers for key, value in layer.items()):
        if key not in MERGED or not isinstance(value, Mapping):
            merged[key] = value
            continue
        old = merged.get(key) or {}
        merged[key] = {**old, **value}
        if "mode" in value:
            merged[key]["mode"] = {**_by_phase(old.get("mode", {})), **_by_phase(value["mode"])}
    return merged


def _by_phase(mode: Any) -> dict[str, Any]:
    return dict(mode) if isinstance(mode, Mapping) else {"valid": mode, "test": mode}


def listed(files: Files) -> list[str | os.PathLike[str]]:
    """One path, several or none as a list."""
    return [files] if isinstance(files, str | os.PathLike) else list(files or ())


def read_layers(files: Sequence[str | os.PathLike[str]], overrides: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """What the user sets, the weakest first: the content of each file, then `overrides`.

    Raises
    ------
    UserError
        For a file that cannot be read, and for what is no mapping of names.
    """
    if not isinstance(overrides, Mapping | None):
        raise SettingError("config_dict", overrides, must="be a mapping such as {'epochs': 10}")
    return [*map(read_yaml, files), require_names("config_dict", dict(overrides or {}))]


class Resolved(NamedTuple):
    """The settings of a run.

    model_class : type
    dataset : str
    values : dict
        Every setting, and what RecBole derives from them.
    given : dict
        Of these what the user gave, in its type.
    table : dict of Setting
        Every setting that the model reads.
    data_folder : str
        The setting `data_path`, whose value in `values` is the folder of the dataset itself.
    warnings : list of str
        What of the user's settings has no effect or another name.
    """

    model_class: type
    dataset: str
    values: dict[str, Any]
    given: dict[str, Any]
    table: dict[str, Setting]
    data_folder: str
    warnings: list[str]


def resolve(
    model: str | type | None,
    dataset: str | None,
    files: Sequence[str | os.PathLike[str]] = (),
    overrides: Mapping[str, Any] | None = None,
) -> Resolved:
    """From a model, a dataset and what the user sets to the settings of a run.

    Parameters
    ----------
    model : str or type, optional
        As `registry.find_model` takes it; by default the setting `model`.
    dataset : str, optional
        By default the setting `dataset`.
    files : sequence of paths
        Yaml files, the later the stronger.
    overrides : mapping, optional
        Settings stronger than the files; texts are read by the type of their setting. It is not changed.

    Raises
    ------
    UserError
        For a file that cannot be read and for any setting that cannot be used, in one line.
    """
    # Read.
    layers = read_layers(files, overrides)
    model_class, dataset = _named(model, dataset, layers)
    contents = [read_defaults(file) for file in default_files(model_class, dataset)]
    table = settings_table(model_class, contents)

    # Type.
    defaults = [{key: typed(key, value, table[key].kind) for key, value in layer.items()} for layer in contents]
    transform = next((layer["transform"] for layer in reversed(layers) if "transform" in layer), None)
    known = {*table, *COMPUTED, *NAMES, *checks.TRANSFORM_NEEDS.get(str(transform), ())}
    warnings: dict[str, None] = {}
    given_layers = []
    for layer in layers:
        layer, renamed = rename(layer, model_class, known)
        warnings |= dict.fromkeys([*renamed.values(), *checks.check_names(layer, known, model_class)])
        rows = {key: table.get(key, ANY) for key in layer if key not in (*COMPUTED, "model", "dataset")}
        given_layers.append({key: typed(key, layer[key], row.kind, row.must) for key, row in rows.items()})

    # Merge.
    given = merge(*given_layers)
    base = merge(*defaults[:2])
    values = {**merge(*defaults, *given_layers), "MODEL_TYPE": model_class.type}  # type: ignore[attr-defined]

    # Check.
    own = table_of(model_class)
    for key, row in table.items():
        # What the model's class states must be there; other rows may be RecBole's for other models.
        if key in values or key in own:
            row.check(key, values.get(key))
    sequential = values["MODEL_TYPE"] == ModelType.SEQUENTIAL
    usual = merge(*defaults)
    checks.check_transform(model_class, values, usual["transform"])
    checks.check_layers(values)
    checks.check_eval_args(values, sequential)
    checks.check_metrics(values)
    checks.check_presplit(values, given)

    # Derive.
    changed = [key for key, value in given.items() if value != usual.get(key)]
    warnings |= dict.fromkeys(without_effect(model_class, values, changed))
    unread = checks.unread_additions(model_class, given)
    warnings |= dict.fromkeys([*unread.values(), *checks.check_frozen(values, given, usual["frozen"])])
    values |= dict.fromkeys(unread)
    values |= checks.ranking_protocol(values, given)
    values["train_neg_sample_args"] = checks.negatives(model_class, values, given, base["train_neg_sample_args"])
    values["load_col"] = checks.columns(values, given, base)
    if values["benchmark_filename"] is not None and sequential and values["alias_of_item_id"] is None:
        # Histories that come with the files hold items.
        values["alias_of_item_id"] = [values["ITEM_ID_FIELD"] + values["LIST_SUFFIX"]]
    data_folder = values["data_path"]
    values |= {
        "model": model_name(model_class),
        "dataset": dataset,
        "data_path": _dataset_folder(dataset, data_folder, base["data_path"]),
        "MODEL_INPUT_TYPE": checks.input_type(model_class, values.get("loss_type")),
        "eval_type": metric_types[values["metrics"][0].lower()],
        "valid_metric_bigger": values["valid_metric"].split("@")[0].lower() not in smaller_metrics,
        "valid_neg_sample_args": checks.evaluation_negatives(values["eval_args"]["mode"]["valid"]),
        "test_neg_sample_args": checks.evaluation_negatives(values["eval_args"]["mode"]["test"]),
        "single_spec": True,
        "local_rank": 0,
        "device": checks.pick_device(values["gpu_id"], values["use_gpu"]),
    }
    for layer in layers:
        if str(layer.get("device", values["device"])) != str(values["device"]):
            raise SettingError("device", layer["device"], must="be left out; set use_gpu and gpu_id")
    return Resolved(model_class, dataset, values, given, table, data_folder, list(warnings))


def _named(model: str | type | None, dataset: str | None, layers: Sequence[Mapping[str, Any]]) -> tuple[type, str]:
    """The model's class and the dataset's name, by the call or else by the settings."""
    settings = {key: value for layer in layers for key, value in layer.items()}
    model = model if model is not None else settings.get("model")
    dataset = dataset if dataset is not None else settings.get("dataset")
    if model is None or model == "":
        raise SettingError("model", model, must="be the name of a model, such as DiffuRec")
    if not isinstance(dataset, str) or not dataset.strip() or "\0" in dataset:
        raise SettingError("dataset", dataset, must="be the name of a dataset, such as ml-100k")
    if {os.sep, os.altsep} & set(dataset) or dataset in (os.curdir, os.pardir):
        raise SettingError("dataset", dataset, must="be a name, and no path; data_path is the folder that it lies in")
    return find_model(model), dataset


def _dataset_folder(dataset: str, data_path: str, default_path: str) -> str:
    """Where a dataset's files are; RecBole brings ml-100k along, unless the user has put it elsewhere."""
    if dataset == "ml-100k" and os.path.normpath(data_path) == os.path.normpath(default_path):
        return str(recbole_folder() / "dataset_example" / dataset)
    return os.path.normpath(os.path.join(data_path, dataset))


class DiffusionConfig(Config):
    """The resolved settings in the form that RecBole's models and data classes read.

    Like RecBole's `Config` it gives None for a key that is not there.

    Parameters
    ----------
    model : str or type, optional
    dataset : str, optional
    config_file_list : path or sequence of paths, optional
    config_dict : mapping, optional
        See `resolve` for these four.

    Raises
    ------
    UserError
        For a file that cannot be read and for any setting that cannot be used, in one line.
    """

    def __init__(
        self,
        model: str | type | None = None,
        dataset: str | None = None,
        config_file_list: Files = None,
        config_dict: Mapping[str, Any] | None = None,
    ) -> None:
        # RecBole's own constructor would read the files anew, by its own rules.
        resolved = resolve(model, dataset, listed(config_file_list), config_dict)
        self.final_config_dict = resolved.values
        self.model_class, self.model, self.dataset = resolved.model_class, resolved.values["model"], resolved.dataset
        self.given, self.table, self.warnings = resolved.given, resolved.table, resolved.warnings
        self.data_folder = resolved.data_folder
        # By these RecBole prints the settings, and reads its own yaml files.
        groups = {"General": RUN, "Training": TRAINING, "Evaluation": EVALUATION, "Dataset": DATA}
        self.parameters: dict[str, list[str]] = {name: list(table) for name, table in groups.items()}
        self.yaml_loader = SettingsLoader
        check_settings = getattr(self.model_class, "check_settings", None)
        if check_settings is not None:
            check_settings(self)

    def plain(self) -> dict[str, Any]:
        """The settings as plain data, for checkpoints and reports.

        Enums and the device are texts, and what is no plain data is left out. Handed in again as `config_dict`,
        it gives the same settings.
        """
        as_plain = {}
        for key, value in {**self.final_config_dict, "data_path": self.data_folder}.items():
            try:
                as_plain[key] = plain(value)
            except TypeError:
                continue
        return as_plain


def load_config(
    model: str | type | None,
    dataset: str | None,
    config_file_list: Files = None,
    config_dict: Mapping[str, Any] | None = None,
) -> DiffusionConfig:
    """The settings of one run; see `DiffusionConfig`."""
    return DiffusionConfig(model, dataset, config_file_list, config_dict)
