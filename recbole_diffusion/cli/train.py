"""The command line: arguments in, a table on stdout and an exit code out; mistakes are told in one line."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .. import __version__
from ..errors import UserError
from ..host.parsing import read_yaml
from ..host.registry import PROPERTIES, find_model, our_models
from .exit_codes import run_command

DEFAULTS = {"model": "DiffuRec", "dataset": "ml-100k"}
# With one of these --help prints keys.
KEYED = {"model", "model_list"}
SHORT = {"-m": "model", "-d": "dataset", "-h": "help"}
SWITCHES = ("help", "keys", "debug", "version")

HELP = """\
Train and test a recommender with RecBole: a model of this package ({ours}) or any of RecBole's own.

usage: python run_recbole_diffusion.py [--model=NAME] [--dataset=NAME] [--KEY=VALUE ...]
       python run_recbole_diffusion.py --model_list=NAME,NAME [--seeds=N,N] [--KEY=VALUE ...]

examples:
  python run_recbole_diffusion.py --model=DiffuRec --dataset=ml-100k
  python run_recbole_diffusion.py -m DiffRec -d ml-1m --data_path=../data --learning_rate=5e-4 --topk=5,10
  python run_recbole_diffusion.py --model=SASRec --config_files="mine.yaml more.yaml"
  python run_recbole_diffusion.py --model=my_model.py:MyModel --eval_args="{{mode: uni100}}"

`recbole-diffusion train` (or `compare`) does the same where the package is installed without this script.

flags:
  -m, --model NAME      model: {ours}, any of RecBole's, or FILE.py:CLASS (default {model})
  -d, --dataset NAME    dataset (default {dataset}, which ships with RecBole)
  --config_files FILES  yaml files of settings, separated by spaces, the later the stronger
  --KEY VALUE           any setting, also as --KEY=VALUE; stronger than the files
  --model_list LIST     several models side by side; with --seeds=LIST, --output=FOLDER, --off_switch=False,
                        --NAME.KEY=VALUE for one of them, --trials=N to tune each instead, --tuned=FOLDER to take that;
                        all of its settings: --help --model_list=LIST
  --resume PATH         go on with the run that wrote this checkpoint
  --nproc, --ip, --port, --world_size, --group_offset
                        as in RecBole's script; several processes are not supported yet
  --keys                every setting of the model with its default and what it means; also --help --model NAME
  --debug               show the stack of an error
  --version, -h, --help

Values are read as yaml: 1e-3, True, [5, 10], {{mode: uni100}}, ~ for none. The defaults stand, each key explained, in
  {properties}
The table of results goes to stdout, the log to stderr. Exit codes: 0 done, 2 a mistake that you can mend, 1 any other.
"""


class Arguments(NamedTuple):
    """What stands on the command line.

    settings : dict
        Key -> text.
    config_files : list of str
    switches : set of str
        Of `SWITCHES`.
    """

    settings: dict[str, Any]
    config_files: list[str]
    switches: set[str]


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Read RecBole's flags, and any `--key=value` or `--key value`.

    Raises
    ------
    UserError
        For a stray word, a key without a value, or one that is given two values.
    """
    arguments = Arguments({}, [], set())
    waiting = list(argv)
    while waiting:
        word = waiting.pop(0)
        name, given, value = word.partition("=")
        if name in SHORT:
            key = SHORT[name]
        elif re.fullmatch(r"--\w[\w.-]*", name):
            key = name[2:].replace("-", "_")
        elif word.startswith("-"):
            raise UserError(f"{word}: no flag is called so; settings are written --KEY=VALUE")
        else:
            raise UserError(f"{word}: stands alone; settings are written --KEY=VALUE")
        if key in SWITCHES:
            if given:
                raise UserError(f"{word}: --{key} takes no value")
            arguments.switches.add(key)
            continue
        if not given:
            if not waiting or _is_flag(waiting[0]):
                raise UserError(f"--{key}: a value is wanted, as in --{key}=VALUE")
            value = waiting.pop(0)
        if key == "config_files":
            arguments.config_files.extend([value] if Path(value).is_file() else value.split())
            continue
        key = "offset" if key == "group_offset" else key
        if arguments.settings.setdefault(key, value) != value:
            raise UserError(f"--{key}: given twice, as {arguments.settings[key]} and as {value}")
    return arguments


def _is_flag(word: str) -> bool:
    return word.startswith("-") and not re.match(r"-\.?\d", word)


def _layers(arguments: Arguments) -> list[dict[str, Any]]:
    """Command line and files, the strongest first."""
    return [arguments.settings, *reversed([read_yaml(file) for file in arguments.config_files])]


def _chosen(arguments: Arguments, key: str) -> str:
    """Model or dataset: by the command line, else by the last file that names it, else the default."""
    return next((layer[key] for layer in _layers(arguments) if key in layer), DEFAULTS[key])


def print_keys(arguments: Arguments) -> None:
    """Print the property files that hold for a model on a dataset, or for a comparison, as they stand."""
    if "model_list" in arguments.settings:
        files = [PROPERTIES / "compare.yaml"]
        print("Settings of a comparison; --keys --model=NAME prints those of a model.")
    else:
        from ..host.settings import default_files

        model, dataset = _chosen(arguments, "model"), _chosen(arguments, "dataset")
        files = default_files(find_model(model), dataset)
        print(f"Settings of {model} on {dataset}; of a key that stands in several files the last one holds.")
    for file in files:
        print(f"\n--- {file}\n\n{file.read_text(encoding='utf-8').strip()}")


def run(argv: Sequence[str]) -> None:
    """Do what the command line says.

    Raises
    ------
    UserError
        For any mistake in arguments, settings or data.
    """
    arguments = parse_arguments(argv)
    if "version" in arguments.switches:
        print(f"recbole-diffusion {__version__}")
    elif "keys" in arguments.switches or ("help" in arguments.switches and arguments.settings.keys() & KEYED):
        print_keys(arguments)
    elif "help" in arguments.switches:
        print(HELP.format(ours=", ".join(our_models()), properties=PROPERTIES, **DEFAULTS), end="")
    elif any(key in layer for layer in _layers(arguments) for key in ("model_list", "variants")):
        from .compare import run as compare

        compare(arguments.settings, arguments.config_files, DEFAULTS["dataset"], argv)
    else:
        model, dataset = _chosen(arguments, "model"), _chosen(arguments, "dataset")
        from ..training.run import train_and_test

        print(train_and_test(model, dataset, arguments.config_files, arguments.settings).table())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; give the exit code, see `exit_codes.run_command`.

    Parameters
    ----------
    argv : sequence of str, optional
        By default that of the process.
    """
    argv = sys.argv[1:] if argv is None else argv
    return run_command(lambda: run(argv), debug="--debug" in argv)
