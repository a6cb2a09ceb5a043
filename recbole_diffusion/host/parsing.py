"""Settings as they are written: yaml, never evaluated as code, read by the type that the property files declare."""

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

# RecBole writes these as whole numbers, though any number will do.
ANY_NUMBER = ("reg_weight", "negative_weight", "w_max", "w_min")
# RecBole takes none for these without saying so where they stand.
MAY_BE_NONE = (
    "train_neg_sample_args",
    "user_inter_num_interval",
    "item_inter_num_interval",
    "entity_kg_num_interval",
    "relation_kg_num_interval",
)


class SettingsLoader(yaml.SafeLoader):
    """Yaml's safe scalars, less those that surprise: `no`, `010`, `1:30` and dates are texts, `1e-3` is a number."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (the base class declares it so)


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
        raise UserError(f"{file}: a mapping is wanted, one 'key: value' a line")
    for key in content:
        if not isinstance(key, str):
            raise UserError(f"{file}: {key!r} is no name of a setting")
    return content


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
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise ValueError


def _as_str(value: Any) -> str:
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    raise ValueError


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, str):
        value = parse(value)
    if isinstance(value, str):
        if value[:1] in ("[", "{"):
            raise ValueError
        bare = value[1:-1] if value.startswith("(") and value.endswith(")") else value
        value = [parse(part.strip()) for part in bare.split(",") if part.strip()]
    if isinstance(value, Mapping) or value is None:
        raise ValueError
    return copy.deepcopy(list(value)) if isinstance(value, (list, tuple)) else [value]


def _as_dict(value: Any) -> dict[str, Any]:
    value = parse(value) if isinstance(value, str) else value
    # "{mode:uni100}" is one key without a value to yaml: the space after the colon is missing.
    if not isinstance(value, Mapping) or any(isinstance(k, str) and ":" in k and v is None for k, v in value.items()):
        raise ValueError
    return copy.deepcopy(dict(value))


class Kind(NamedTuple):
    """A type that a setting may have: how a value becomes one, and what to ask for where it does not."""

    convert: Callable[[Any], Any]
    wanted: str


KINDS = {
    "bool": Kind(_as_bool, "True or False is wanted"),
    "int": Kind(_as_int, "a whole number is wanted"),
    "float": Kind(_as_float, "a number is wanted"),
    "str": Kind(_as_str, "a text is wanted"),
    "list": Kind(_as_list, "a list is wanted, such as [a, b]"),
    "dict": Kind(_as_dict, "a mapping is wanted, such as {key: value}, with a space after the colon"),
}


class Declaration(NamedTuple):
    """What the property files say about a setting."""

    kinds: tuple[str, ...] = ()
    elements: str | None = None
    nullable: bool = False

    def typed(self, key: str, value: Any) -> Any:
        """The value in the type that is declared.

        Raises
        ------
        SettingError
            If it cannot be read as that.
        """
        if isinstance(value, np.generic):
            value = value.item()
        elif isinstance(value, os.PathLike):
            value = os.fspath(value)
        absent = value is None or (isinstance(value, str) and value.strip().lower() in ("none", "null", "~", ""))
        if absent and (self.nullable or not self.kinds):
            return None
        for kind in self.kinds:
            try:
                typed = KINDS[kind].convert(value)
            except ValueError:
                continue
            return self._typed_elements(key, typed) if kind == "list" else typed
        if self.kinds:
            raise SettingError(key, value, KINDS[self.kinds[0]].wanted)
        return parse(value) if isinstance(value, str) else copy.deepcopy(value)

    def _typed_elements(self, key: str, values: list[Any]) -> list[Any]:
        if self.elements is None:
            return values
        try:
            return [KINDS[self.elements].convert(value) for value in values]
        except ValueError:
            raise SettingError(key, values, f"in every place {KINDS[self.elements].wanted}") from None


# A top-level key, and the types that the comment beside it opens with: "# (int or ~) Epochs between ..."
_COMMENTED = re.compile(r"^([\w-]+)[ \t]*:[^#\n]*#[ \t]*\(([^)]*)\)", re.MULTILINE)
TOP_LEVEL_KEY = re.compile(r"^([\w-]+)[ \t]*:", re.MULTILINE)


def declarations(files: Mapping[Path, Mapping[str, Any]], undeclared: Mapping[str, Any]) -> dict[str, Declaration]:
    """What each setting may be, by its defaults and by the comment beside it.

    Parameters
    ----------
    files : mapping of Path to mapping
        Property files and what they hold.
    undeclared : mapping
        Settings that no file holds, with their defaults.
    """
    declared: dict[str, Declaration] = {}

    def note(key: str, kinds: Iterable[str], elements: str | None, nullable: bool) -> None:
        old = declared.get(key, Declaration())
        kinds = dict.fromkeys((*old.kinds, *kinds))
        if "float" in kinds:
            kinds = [kind for kind in kinds if kind != "int"]
        declared[key] = Declaration(tuple(kinds), elements or old.elements, nullable or old.nullable)

    for key, value in undeclared.items():
        note(key, [] if value is None else [type(value).__name__], None, value is None)
    for file, content in files.items():
        for key, value in content.items():
            kind = "float" if key in ANY_NUMBER and isinstance(value, int) else type(value).__name__
            note(key, [] if value is None else [kind], _element_kind(value), value is None or key in MAY_BE_NONE)
        for key, comment in _COMMENTED.findall(file.read_text(encoding="utf-8")):
            words = re.findall(r"\w+|~", re.sub(r"list of \w+", "list", comment))
            note(key, [word for word in words if word in KINDS], None, "None" in words or "~" in words)
    return declared


def _element_kind(value: Any) -> str | None:
    kinds = {type(element).__name__ for element in value} if isinstance(value, list) else set()
    if kinds == {"int", "float"}:
        return "float"
    return kinds.pop() if len(kinds) == 1 and kinds <= {"int", "float", "str"} else None
