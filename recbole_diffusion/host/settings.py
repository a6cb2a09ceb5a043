"""The settings of a run: RecBole's defaults, ours, the user's files and his own word, laid one over the other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from . import compat

compat.apply()

from recbole.config import Config  # noqa: E402
from recbole.utils import ModelType  # noqa: E402

from ..common.plain import plain  # noqa: E402
from ..errors import SettingError, UserError  # noqa: E402
from . import checks  # noqa: E402
from .parsing import Declaration, SettingsLoader, declarations, read_yaml  # noqa: E402
from .registry import find_model, is_recboles, property_files  # noqa: E402

# Of a user's value for these maps the keys count one by one; any other map is replaced as a whole.
MERGED = ("eval_args", "train_neg_sample_args", "load_col")
PATHS = ("data_path", "checkpoint_dir", "log_dir", "tensorboard_dir", "resume", "pretrained_embeddings")
# Settings that no property file holds, with the value that stands for their absence.
UNDECLARED: dict[str, Any] = {
    "nproc": 1,
    "world_size": -1,
    "ip": "localhost",
    "port": "5678",
    "offset": 0,
    "model": None,
    "dataset": None,
    "config_files": None,
    "config_file": None,
    "encoding": None,
    "neg_sampling": None,
    "training_neg_sample_num": None,
}
# What RecBole works out itself. A saved configuration holds these too, and may be handed in again.
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


class _RecBoleFiles(Config):
    """Collects the property files that RecBole's own look-up would read."""

    def __init__(self, model: type, dataset: str) -> None:
        self.files: list[Path] = []
        self.parameters: dict[str, list[str]] = {"Dataset": []}
        # By the class that comes from RecBole: a model of ours or of the user's is not given the yaml of a namesake.
        names = [base.__name__ for base in model.__mro__ if is_recboles(base)]
        self._load_internal_config_dict(names[0] if names else "", model, dataset)

    def _update_internal_config_dict(self, file: str) -> dict[str, Any]:
        self.files.append(Path(file).resolve())
        return {}


def default_files(model: type, dataset: str) -> list[Path]:
    """Every property file that holds for a model on a dataset, the weakest first.

    Our overall.yaml changes RecBole's general defaults and hence stands right above them, below what RecBole says of a
    kind of model or of a dataset; our other files stand above all of RecBole's.
    """
    folders = ("properties", "dataset", "model", "quick_start_config")

    def rank(file: Path) -> tuple[bool, int]:
        return file.name not in ("overall.yaml", "sample.yaml"), folders.index(file.parent.name)

    theirs = sorted(_RecBoleFiles(model, dataset).files, key=rank)
    general = sum(not rank(file)[0] for file in theirs)
    overall, *ours = property_files(model, dataset)
    return [*theirs[:general], overall, *theirs[general:], *ours]


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


class DiffusionConfig(Config):
    """RecBole's `Config` with typed, merged and checked settings.

    Parameters
    ----------
    model : str or type, optional
        As `registry.find_model` takes it; by default the setting `model`.
    dataset : str, optional
        By default the setting `dataset`.
    config_file_list : sequence of paths, optional
        Yaml files, the later the stronger.
    config_dict : mapping, optional
        Settings stronger than the files; texts are read by the type of the default. It is not changed.

    Raises
    ------
    UserError
        For a file that cannot be read and for any setting that cannot be used, in one line.
    """

    def __init__(
        self,
        model: str | type | None = None,
        dataset: str | None = None,
        config_file_list: Sequence[str | os.PathLike[str]] | str | None = None,
        config_dict: Mapping[str, Any] | None = None,
    ) -> None:
        files = [config_file_list] if isinstance(config_file_list, str) else list(config_file_list or ())
        # Told when the run has its log.
        self.warnings: list[str] = []
        self.layers = [*(read_yaml(file) for file in files), dict(config_dict or {})]
        super().__init__(model, dataset)
        check_settings = getattr(self.model_class, "check_settings", None)
        if check_settings is not None:
            check_settings(self)

    # A checkpoint is not compared by what follows from other settings.
    computed = COMPUTED

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

    def _init_parameters_category(self) -> None:
        super()._init_parameters_category()
        # RecBole appends to its own module's lists with every Config.
        self.parameters: dict[str, list[str]] = {category: list(names) for category, names in self.parameters.items()}

    def _build_yaml_loader(self) -> type[yaml.SafeLoader]:
        return SettingsLoader

    def _convert_config_dict(self, config_dict: dict[str, Any]) -> dict[str, Any]:
        return config_dict

    def _load_cmd_line(self) -> dict[str, Any]:
        return {}

    def _merge_external_config_dict(self) -> None:
        # Only the names of model and dataset are read from it before all is typed.
        self.external_config_dict = {key: value for layer in self.layers for key, value in layer.items()}

    def _get_model_and_dataset(self, model: str | type | None, dataset: str | None) -> tuple[str, type, str]:
        model = model if model is not None else self.external_config_dict.get("model")
        dataset = dataset if dataset is not None else self.external_config_dict.get("dataset")
        if model is None or model == "":
            raise SettingError("model", model, "the name of a model is wanted, such as DiffuRec")
        if not isinstance(dataset, str) or not dataset:
            raise SettingError("dataset", dataset, "the name of a dataset is wanted, such as ml-100k")
        model_class = find_model(model)
        return model_class.__name__, model_class, dataset

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        contents = {file: read_yaml(file, may_be_empty=True) for file in default_files(model_class, dataset)}
        self.declared = declarations(contents, UNDECLARED)
        overall, sample, *_ = contents.values()
        self.base = overall | sample
        model_type = {"MODEL_TYPE": model_class.type}  # type: ignore[attr-defined]
        self.internal_config_dict = merge(*contents.values(), model_type)

    def _get_final_config_dict(self) -> dict[str, Any]:
        known = {name for names in self.parameters.values() for name in names}.union(self.declared, COMPUTED)
        layers = []
        for layer in self.layers:
            self.warnings += checks.check_names(layer, known, self.model)
            undeclared = Declaration()
            layers.append(
                {
                    key: self.declared.get(key, undeclared).typed(key, value)
                    for key, value in layer.items()
                    if key not in (*COMPUTED, "model", "dataset")
                }
            )
        given = merge(*layers)
        settings = merge(self.internal_config_dict, *layers)
        for key in PATHS:
            if settings[key] is not None:
                settings[key] = os.path.expanduser(settings[key])

        checks.check_values(settings)
        checks.check_eval_args(settings, settings["MODEL_TYPE"] == ModelType.SEQUENTIAL)
        checks.check_metrics(settings)
        settings["train_neg_sample_args"] = checks.negatives(
            self.model_class, settings, given, self.base["train_neg_sample_args"]
        )
        settings["load_col"] = checks.columns(settings, given, self.base)
        sequential = settings["MODEL_TYPE"] == ModelType.SEQUENTIAL
        if settings["benchmark_filename"] is not None and sequential and settings.get("alias_of_item_id") is None:
            # Histories that come with the files hold items.
            settings["alias_of_item_id"] = [settings["ITEM_ID_FIELD"] + settings["LIST_SUFFIX"]]
        self.external_config_dict = given
        return settings

    def _set_default_parameters(self) -> None:
        self.data_folder: str = self.final_config_dict["data_path"]
        try:
            super()._set_default_parameters()
        except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
            raise UserError(str(error)) from error
        if os.path.normpath(self.data_folder) != os.path.normpath(self.base["data_path"]):
            # RecBole takes ml-100k out of its own package, wherever the user has put it.
            self.final_config_dict["data_path"] = os.path.join(self.data_folder, self.dataset)
        self.final_config_dict["data_path"] = os.path.normpath(self.final_config_dict["data_path"])

    def _init_device(self) -> None:
        settings = self.final_config_dict
        settings["single_spec"], settings["local_rank"] = True, 0
        settings["device"] = checks.pick_device(settings["gpu_id"], settings["use_gpu"])
        for layer in self.layers:
            if str(layer.get("device", settings["device"])) != str(settings["device"]):
                raise SettingError("device", layer["device"], "is chosen by use_gpu and gpu_id; set those")


def load_config(
    model: str | type | None,
    dataset: str | None,
    config_file_list: Sequence[str | os.PathLike[str]] | str | None = None,
    config_dict: Mapping[str, Any] | None = None,
) -> DiffusionConfig:
    """The settings of one run; see `DiffusionConfig`."""
    return DiffusionConfig(model, dataset, config_file_list, config_dict)
