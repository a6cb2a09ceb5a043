"""RecBole's `Config` by the settings of this package, for scripts that were written for RecBole."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .common.setting import aliases_of, table_of
from .errors import SettingError, suggestion
from .host.parsing import parse
from .host.registry import find_model
from .host.settings import MERGED, DiffusionConfig, Files, default_files, listed, merge, read_defaults, read_layers
from .host.table import GENERAL, NAMES

__all__ = ["Config"]

# What starts a notebook; its flags are not the user's.
NOTEBOOK = "ipykernel_launcher"


class Config(DiffusionConfig):
    """The settings of a run, with the signature of RecBole's `Config`.

    Flags `--KEY=VALUE` on the command line of the script are read, as RecBole reads them: they are stronger than
    `config_dict`, which is stronger than the files. Only settings that the model reads are taken; any other flag is
    left to the script, and a warning says so.

    Parameters
    ----------
    model : str or type, optional
        Name of a model, `path/to/file.py:ClassName`, or a class. By default the setting `model`.
    dataset : str, optional
        By default the setting `dataset`.
    config_file_list : path or sequence of paths, optional
        Yaml files, the later the stronger.
    config_dict : mapping, optional
        Settings stronger than the files. It is not changed.

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
        files = listed(config_file_list)
        flags = flags_of(sys.argv)
        stated = merge(*read_layers(files, config_dict))
        named = {**stated, **flags}
        known = _known(model or named.get("model"), dataset or named.get("dataset"), stated)
        # Of a mapping, the keys that the flag does not name stay as `config_dict` has them.
        taken = {key: parse(flags[key]) if key in MERGED else flags[key] for key in flags if key in known}
        super().__init__(model, dataset, files, merge(config_dict or {}, taken))
        self.warnings += [
            f"the flag --{key} is no setting of {self.model} and is left to the script{suggestion(key, known)}"
            for key in flags
            if key not in known
        ]


def flags_of(argv: Sequence[str]) -> dict[str, str]:
    """The flags `--KEY=VALUE` of a command line; whatever has another form is not ours.

    Parameters
    ----------
    argv : sequence of str
        As `sys.argv`, the program first.

    Raises
    ------
    SettingError
        If a flag is given twice, with two values.
    """
    flags: dict[str, str] = {}
    if argv and NOTEBOOK in argv[0]:
        return flags
    for argument in argv[1:]:
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not key or not equals:
            continue
        if flags.setdefault(key, value) != value:
            raise SettingError(f"--{key}", value, must=f"be given once, and was {flags[key]!r} before")
    return flags


def _known(model: Any, dataset: Any, stated: Iterable[str]) -> set[str]:
    """The settings that a model reads, and those that the script itself states."""
    known = {*GENERAL, *NAMES, *stated}
    # Where one of the two is missing, the settings say so.
    if model and isinstance(dataset, str):
        model_class = find_model(model)
        known.update(table_of(model_class), aliases_of(model_class))
        for file in default_files(model_class, dataset):
            known.update(read_defaults(file))
    return known
