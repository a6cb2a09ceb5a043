"""From a model's name to its class and its property files: ours first, then RecBole's."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from ..errors import SettingError, UserError, nearest

PACKAGE = Path(__file__).parents[1]
# In the wheel the properties lie inside the package, in a checkout beside it.
PROPERTIES = PACKAGE / "properties" if (PACKAGE / "properties").is_dir() else PACKAGE.parent / "properties"

DECISION_TREES = "exlib_recommender"
# Before the name of a model of RecBole's that shares its name with one of ours.
THEIRS = "RecBole-"
# Without what it pins: it asks for a ray that newer Pythons do not have.
INSTALL_RECBOLE = "pip install --no-deps recbole==1.2.1"
# What the module of a user's own model is called.
OWN_MODULE = "recbole_diffusion_user_"
NO_GRADIENT = "decision trees are not trained by gradient, so they cannot be run here"


class MissingRecBole(UserError, ImportError):
    """RecBole, on which all of this works, is not installed."""


def our_models() -> list[str]:
    """Names of the models of this package."""
    return sorted(_model_files((PACKAGE / "model",)))


def recbole_models() -> list[str]:
    """Names of RecBole's own models; those whose name ours have too begin with `THEIRS`."""
    ours = our_models()
    return sorted(THEIRS + name if name in ours else name for name in _model_files(_recbole_folders()))


def model_name(model: type) -> str:
    """The name of a class by which `find_model` finds it, where it is ours or RecBole's."""
    name = model.__name__
    return THEIRS + name if is_recboles(model) and name in our_models() else name


def findable(model: type) -> str | type:
    """What `find_model` finds a class by in another process: its file, its name, or the class itself."""
    if model.__module__.startswith(OWN_MODULE):
        return f"{inspect.getfile(model)}:{model.__name__}"
    return model_name(model) if is_ours(model) or is_recboles(model) else model


def find_model(model: str | type) -> type:
    """Find a model's class.

    Parameters
    ----------
    model : str or type
        Name of a model of ours or of RecBole's, `path/to/file.py:ClassName`, or a class. Where both have a model of one
        name, that name means ours, and `RecBole-NAME` RecBole's.

    Raises
    ------
    UserError
        If there is no such model (with the nearest name), or it cannot be run here.
    """
    from . import compat

    with compat.anomaly_detection_as_found():
        compat.apply()
        return _find_model(model)


def _find_model(model: str | type) -> type:
    if not isinstance(model, str):
        return _checked(model, model)
    if ".py:" in model:
        return _checked(model, _class_in_file(model))
    if model in our_models():
        module = importlib.import_module(f"..model.{model.lower()}", __package__)
        return _checked(model, getattr(module, model))
    file = _model_files(_recbole_folders()).get(model.removeprefix(THEIRS))
    if file is None:
        raise SettingError("model", model, f"there is no such model; {_hint(model)}")
    if file.parent.name == DECISION_TREES:
        raise SettingError("model", model, NO_GRADIENT)
    try:
        module = importlib.import_module(f"recbole.model.{file.parent.name}.{file.stem}")
    except ImportError as error:
        raise SettingError("model", model, f"RecBole's model cannot be imported: {error}") from error
    return _checked(model, getattr(module, model.removeprefix(THEIRS)))


def is_ours(model: type) -> bool:
    """Whether a class is one of this package."""
    return model.__module__.startswith(f"{PACKAGE.name}.")


def is_recboles(model: type) -> bool:
    """Whether a class is one that RecBole ships."""
    return model.__module__.startswith("recbole.")


def recbole_name(model: type) -> str:
    """Name of the class of RecBole's that a class is or derives from, the nearest."""
    return next((base.__name__ for base in model.__mro__ if is_recboles(base)), "")


def property_files(model: type, dataset: str) -> list[Path]:
    """The property files that exist for a model on a dataset, the weakest first.

    A model inherits the settings of the models that its class derives from. The yaml of a user's own model may stand
    beside its file.
    """
    ours = our_models()
    # A model of RecBole's that merely shares its name with one of ours (DiffRec) has nothing to do with it.
    lineage = [base for base in reversed(model.__mro__) if not (is_recboles(base) and base.__name__ in ours)]
    files = [PROPERTIES / "overall.yaml"]
    for base in lineage:
        files += [PROPERTIES / "model" / f"{base.__name__}.yaml", *_beside(base)]
    files.append(PROPERTIES / "dataset" / f"{dataset}.yaml")
    files += [PROPERTIES / "quick_start_config" / f"{base.__name__}_on_{dataset}.yaml" for base in lineage]
    return [file for file in files if file.is_file()]


def recbole_folder() -> Path:
    """RecBole's package folder, found without importing RecBole."""
    require_recbole()
    spec = importlib.util.find_spec("recbole")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def require_recbole() -> None:
    """Refuse to go on where RecBole is not installed.

    Raises
    ------
    MissingRecBole
        Saying what to type.
    """
    try:
        spec = importlib.util.find_spec("recbole")
    except ValueError:  # by an import system that hides it
        spec = None
    if spec is None or spec.origin is None:
        raise MissingRecBole(f"RecBole is not installed; type: {INSTALL_RECBOLE}")


def _recbole_folders() -> tuple[Path, ...]:
    return tuple(sorted((recbole_folder() / "model").glob("*_recommender")))


@cache
def _model_files(folders: tuple[Path, ...]) -> Mapping[str, Path]:
    """Model name -> file, by RecBole's convention: class `Name` stands in `name.py`."""
    return {
        name: file
        for folder in folders
        for file in sorted(folder.glob("*.py"))
        for name in re.findall(r"^class (\w+)", file.read_text(encoding="utf-8"), re.MULTILINE)
        if name.lower() == file.stem
    }


def _hint(name: str) -> str:
    near = nearest(name, [*recbole_models(), *our_models()])
    if near:
        return f"did you mean {near}?"
    return f"ours are {', '.join(our_models())}, and RecBole's run as well"


def _class_in_file(name: str) -> type:
    path, _, class_name = name.rpartition(":")
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise SettingError("model", name, f"there is no file {path}")
    # Registered under a name of its own, as pickle and dataclasses look classes up through sys.modules.
    module_name = f"{OWN_MODULE}{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise SettingError("model", name, f"{file.name} fails with {type(error).__name__}: {error}") from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        raise SettingError("model", name, f"{file.name} holds no class {class_name!r}")
    return found


def _checked(name: object, model: type) -> type:
    """The class itself, if RecBole's interface is there to be used."""
    from recbole.utils import ModelType

    kind = getattr(model, "type", None)
    if not isinstance(model, type) or not isinstance(kind, ModelType):
        raise SettingError("model", name, must="be a class derived from one of RecBole's recommenders")
    if kind is ModelType.DECISIONTREE:
        raise SettingError("model", name, NO_GRADIENT)
    return model


def _beside(model: type) -> list[Path]:
    try:
        return [Path(inspect.getfile(model)).with_name(f"{model.__name__}.yaml")]
    except (TypeError, OSError):  # built in, or typed into an interpreter
        return []
