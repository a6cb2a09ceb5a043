"""Settings as they are written: yaml, never evaluated as code, read by the type that a setting has."""

from __future__ import annotations

import copy
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from ..errors import SettingError, UserError

# What a whole number is below, whatever its sign, as torch has it.
LARGEST = 2**63


class SettingsLoader(yaml.SafeLoader):
    """Yaml's safe scalars, less those that surprise: `no`, `010`, `1:30` and dates are texts, `1e-3` is a number."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (the base class declares it so)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands there twice, of which yaml would take the last."""
        seen = set()
        for key, _ in getattr(node, "value", ()):
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"it has {key.value} twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first_characters in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    ("float", r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9]+)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
):
    SettingsLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"^({_pattern})$"), list(_first_characters)
    )


def parse(text: str) -> Any:
    """Read a value as yaml does; what is no yaml is a text."""
    try:
        return yaml.load(text, Loader=SettingsLoader)
    except (yaml.YAMLError, ValueError):
        return text


def read_yaml(file: str | os.PathLike[str], may_be_empty: bool = False) -> dict[str, Any]:
    """Read a mapping of settings from a yaml file.

    Raises
    ------
    UserError
        If the file is missing, empty, no mapping, or does not parse; with the line where there is one.
    """
    try:
        content = yaml.load(Path(file).expanduser().read_text(encoding="utf-8-sig"), Loader=SettingsLoader)
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{file}{line}: is no valid yaml: {error.problem}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{file}: is no valid yaml: {' '.join(str(error).split())}") from error
    if content is None and may_be_empty:
        return {}
    if content is None:
        raise UserError(f"{file}: holds no settings")
    if not isinstance(content, dict):
        raise UserError(f"{file}: must be a mapping, one 'key: value' a line")
    return require_names(str(file), content)


def require_names(where: str, settings: dict[Any, Any]) -> dict[str, Any]:
    """Settings whose names are texts; the message begins with `where`.

    Raises
    ------
    UserError
    """
    for key in settings:
        if not isinstance(key, str):
            raise UserError(f"{where}: {key!r} is no name of a setting")
    return settings


def _without_numpy(value: Any) -> Any:
    """A value whose lists and mappings hold Python's own numbers and lists, as a yaml file would."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_without_numpy(part) for part in value]
    if isinstance(value, Mapping):
        return {_without_numpy(key): _without_numpy(part) for key, part in value.items()}
    return value


def _as_bool(value: Any) -> bool:
    word = str(value).strip().lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0"):
        return False
    raise ValueError


def _as_float(value: Any) -> float:
    value = parse(value) if isinstance(value, str) else value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise ValueError


def _as_int(value: Any) -> int:
    value = parse(value) if isinstance(value, str) else value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST:
        return value
    raise ValueError


def _as_str(value: Any) -> str:
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise ValueError


def _as_path(value: Any) -> str:
    path = _as_str(value)
    if "\0" in path:
        raise ValueError
    return os.path.expanduser(path)


def _as_anything(value: Any) -> Any:
    return parse(value) if isinstance(value, str) else copy.deepcopy(value)


def _as_list(value: Any) -> list[Any]:
    value = parse(value) if isinstance(value, str) else _without_numpy(value)
    if isinstance(value, str):
        if value[:1] in ("[", "{"):
            raise ValueError
        bare = value[1:-1] if value.startswith("(") and value.endswith(")") else value
        value = [parse(part.strip()) for part in bare.split(",") if part.strip()]
    if isinstance(value, Mapping) or value is None:
        raise ValueError
    return copy.deepcopy(value) if isinstance(value, list) else [value]


def _list_of(convert: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    return lambda value: [convert(element) for element in _as_list(value)]


def _as_dict(value: Any) -> dict[str, Any]:
    value = parse(value) if isinstance(value, str) else _without_numpy(value)
    # "{mode:uni100}" is one key without a value to yaml: the space after the colon is missing.
    if not isinstance(value, Mapping) or any(isinstance(k, str) and ":" in k and v is None for k, v in value.items()):
        raise ValueError
    return copy.deepcopy(dict(value))


class Kind(NamedTuple):
    """A type that a setting may have: how a value becomes one, and what one is called."""

    convert: Callable[[Any], Any]
    noun: str


KINDS = {
    "any": Kind(_as_anything, "anything"),
    "bool": Kind(_as_bool, "True or False"),
    "int": Kind(_as_int, "a whole number"),
    "float": Kind(_as_float, "a number"),
    "str": Kind(_as_str, "a text"),
    "path": Kind(_as_path, "a path"),
    "list": Kind(_as_list, "a list such as [a, b]"),
    "list of int": Kind(_list_of(_as_int), "a list of whole numbers such as [1, 2]"),
    "list of float": Kind(_list_of(_as_float), "a list of numbers such as [0.1, 0.2]"),
    "list of str": Kind(_list_of(_as_str), "a list of texts such as [a, b]"),
    "dict": Kind(_as_dict, "a mapping such as {key: value}, with a space after the colon"),
}


def typed(key: str, value: Any, kind: str, must: str | None = None) -> Any:
    """A value in the type of its setting; containers are copied.

    Parameters
    ----------
    key : str
        Named in messages.
    value : object
        As a yaml file, the command line or a caller gives it.
    kind : str
        See `common.setting.Setting`.
    must : str, optional
        What must hold of a text; the message has it in place of "be a text".

    Raises
    ------
    SettingError
        If it cannot be read as that.
    """
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, os.PathLike):
        value = os.fspath(value)
    kinds = kind.split(" or ")
    absent = value is None or (isinstance(value, str) and value.strip().lower() in ("none", "null", "~", ""))
    if absent and "~" in kinds:
        return None
    kinds = [name for name in kinds if name != "~"]
    if len(kinds) > 1:
        # Of "str or list" a text that reads as a list is one.
        fitting = type(parse(value) if isinstance(value, str) else value).__name__
        kinds.sort(key=lambda name: name.split()[0] != fitting)
    for name in kinds:
        try:
            return KINDS[name].convert(value)
        except ValueError:
            continue
    number = parse(value) if isinstance(value, str) else value
    if "int" in kinds and isinstance(number, int) and abs(number) >= LARGEST:
        raise SettingError(key, value, must="be between -2**63 and 2**63")
    if must and kinds == ["str"]:
        raise SettingError(key, value, must=must)
    nouns = [noun for name, (_, noun) in KINDS.items() if name in kinds] + ["~"] * kind.endswith(" or ~")
    raise SettingError(key, value, must=f"be {' or '.join(nouns)}")


def kind_of(values: Iterable[Any]) -> str:
    """The type of a setting that has such values."""
    values = list(values)
    kinds = list(dict.fromkeys(_kind_of_one(value) for value in values if value is not None)) or ["any"]
    for number, whole in (("float", "int"), ("list of float", "list of int")):
        if number in kinds and whole in kinds:
            kinds.remove(whole)
    return " or ".join([*kinds, *(["~"] if None in values else [])])


def _kind_of_one(value: Any) -> str:
    if not isinstance(value, list):
        return type(value).__name__ if type(value).__name__ in KINDS else "any"
    elements = {type(element).__name__ for element in value}
    if elements == {"int", "float"}:
        return "list of float"
    name = f"list of {elements.pop()}" if len(elements) == 1 else "list"
    return name if name in KINDS else "list"
