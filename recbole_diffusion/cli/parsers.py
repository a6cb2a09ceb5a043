"""The flags of every command. Nothing here waits for torch, so that --help answers at once."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection
from os.path import expanduser

from ..host.registry import PROPERTIES, our_models
from .arguments import ConfigFiles, Parser, SettingFlag, number

PROGRAM = "recbole-diffusion"
SCRIPT = "python run_recbole_diffusion.py"
DEFAULTS = {"model": "DiffuRec", "dataset": "ml-100k"}
# Settings of compare.yaml that only one of the two commands reads.
ONLY_COMPARING = ("off_switch", "against", "valid_latex", "test_latex")
ONLY_TUNING = ("trials", "trial_minutes", "study_storage", "space")
PROCESSES = {
    "nproc": ("N", "processes on this machine (default 1)"),
    "world_size": ("N", "processes on all machines (default: nproc)"),
    "ip": ("ADDRESS", "of the machine of the first process (default localhost)"),
    "port": ("N", "at which they meet, a free one there (default: any, on one machine)"),
}
COMPARE_FILE = PROPERTIES / "compare.yaml"

MODELS = (
    f"a model of this package ({', '.join(our_models())}) or any of RecBole's own\n"
    "(RecBole-NAME where both have that name: RecBole-DiffRec is the DiffRec of SIGIR 2023)"
)
SETTINGS_HELP = f"""\
Any setting may follow as --KEY=VALUE or --KEY VALUE; it is stronger than the files. Values are read as yaml: 1e-3,
True, [5, 10], {{mode: uni100}}, ~ for none. --keys explains every key; the defaults stand in
  {PROPERTIES}
"""
EXIT_CODES = "Exit codes: 0 done, 2 a mistake that you can mend, 75 work is left at the --deadline, 1 any other.\n"

TRAIN_HELP = """\
examples:
  {command} --model=DiffuRec --dataset=ml-100k
  {command} -m DiffRec -d ml-1m --data_path=../data --learning_rate=5e-4 --topk=5,10
  {command} --model=SASRec --config_files="mine.yaml more.yaml"
  {command} --model=my_model.py:MyModel --eval_args="{{mode: uni100}}"
"""
COMPARE_HELP = """\
examples:
  {command} --model_list=DiffuRec,SASRec --dataset=ml-100k
  {command} --model_list="DiffuRec,large=SASRec(hidden_size=128)" --seeds=1,2,3
  {command} --model_list=DiffuRec,SASRec --SASRec.n_layers=1 --tuned=tune/ml-100k
"""
TUNE_HELP = """\
examples:
  {command} --model_list=DiffuRec,SASRec --dataset=ml-100k --trials=8
  {command} --model_list=DiffRec --trials=20 --trial_minutes=10 --space=my_spaces
"""
REPORT_HELP = """\
examples:
  recbole-diffusion report compare/ml-100k compare/ml-1m
  recbole-diffusion report --output=all.html compare/*
"""
RECOMMEND_HELP = """\
examples:
  recbole-diffusion recommend --checkpoint saved/M.pth --history 50,172,1
  recbole-diffusion recommend --checkpoint saved/M.pth --users 196,186 --inference_seeds 16
  recbole-diffusion recommend --checkpoint saved/M.pth --history 50,172,1 --reverse_sampler=ddim --inference_steps=8
  recbole-diffusion recommend --checkpoint saved/M.pth --users all --output recs.parquet
  recbole-diffusion recommend --checkpoint saved/M.pth --input histories.jsonl --output recs.csv

A line of a jsonl input is {"user": "7", "history": ["50", "172"]}, or the list alone. A csv input has a column history,
its items separated by spaces, and may have a column user. A line that cannot be answered is named on stderr; the others
are answered, and the exit code is 2.
"""
EVALUATE_HELP = """\
examples:
  recbole-diffusion evaluate --checkpoint saved/M.pth --history_in_ranking=both
  recbole-diffusion evaluate --checkpoint saved/M.pth --inference_steps=16 --seed=7 --metrics=Hit,NDCG --topk=10,50
  recbole-diffusion evaluate --checkpoint saved/M.pth --eval_args="{mode: uni100}" --ranks=ranks.npz --output=M.json
  recbole-diffusion evaluate --checkpoint compare/ml-100k --history_in_ranking=both

The last line takes the folder of a comparison: every finished run in it is tested again, and the report is written
into a folder of its own.
"""
EXPLAIN_HELP = """\
examples:
  recbole-diffusion explain --checkpoint saved/M.pth --history 50,172,1
  recbole-diffusion explain --checkpoint saved/M.pth --history 50,172,1 --inference_steps 32 --output why.png
"""
EXPLORE_HELP = """\
examples:
  recbole-diffusion explore --checkpoint saved/A.pth
  recbole-diffusion explore --checkpoint saved/A.pth --checkpoint saved/B.pth --port=8000 --no_browser

Ctrl-C ends it.
"""


def train_parser() -> Parser:
    """Flags of `train`."""
    command = f"{PROGRAM} train"
    about = f"Train and test {MODELS}."
    parser = settings_parser(command, about, TRAIN_HELP.format(command=command) + f"\n{SETTINGS_HELP}\n{EXIT_CODES}")
    add_model(parser)
    _add_training(parser)
    return parser


def compare_parser() -> Parser:
    """Flags of `compare`."""
    command = f"{PROGRAM} compare"
    about = "Train and test several models side by side, with the same data, splits, metrics and seeds."
    parser = settings_parser(command, about, COMPARE_HELP.format(command=command) + f"\n{SETTINGS_HELP}\n{EXIT_CODES}")
    _add_comparison(parser, "comparison", without=ONLY_TUNING)
    return parser


def tune_parser() -> Parser:
    """Flags of `tune`."""
    command = f"{PROGRAM} tune"
    about = "Search the settings of each model by validation, with the same number of trials for all."
    parser = settings_parser(command, about, TUNE_HELP.format(command=command) + f"\n{SETTINGS_HELP}\n{EXIT_CODES}")
    _add_comparison(parser, "tuning", without=ONLY_COMPARING)
    return parser


def report_parser() -> Parser:
    """Flags of `report`."""
    about = "Put the comparisons of several datasets into one html file: tables to sort and filter, tests, curves."
    parser = Parser(f"{PROGRAM} report", about, REPORT_HELP)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="what compare wrote for a dataset")
    parser.add_argument(
        "--output", type=expanduser, default="report.html", metavar="FILE", help="the file (default report.html)"
    )
    return parser


def script_parser() -> Parser:
    """Flags of `run_recbole_diffusion.py`: it trains one model, or compares or tunes those of --model_list."""
    examples = TRAIN_HELP + COMPARE_HELP.partition("\n")[2] + TUNE_HELP.partition("\n")[2]
    about = (
        f"Train and test {MODELS};\n"
        "with --model_list compare several, with --trials too tune each.\n"
        f"`{PROGRAM} train`, `compare` and `tune` do the same where only the package is installed."
    )
    parser = settings_parser(SCRIPT, about, f"{examples.format(command=SCRIPT)}\n{SETTINGS_HELP}\n{EXIT_CODES}")
    add_model(parser)
    _add_training(parser)
    _add_comparison(parser, "several models")
    return parser


def settings_parser(command: str, about: str = "", examples: str = "") -> Parser:
    """A parser of settings, with the flags that each such command has."""
    parser = Parser(command, about, examples, add_help=False, usage=f"{command} [--KEY=VALUE ...]")
    parser.add_argument("-d", "--dataset", action=SettingFlag, metavar="NAME", help=_with_default("dataset", "dataset"))
    parser.add_argument(
        "--config_files", action=ConfigFiles, metavar="FILES", help="yaml files of settings, the later the stronger"
    )
    parser.add_argument(
        "--verbose", action=SettingFlag, nargs="?", const="True", metavar="BOOL", help="show settings and layers, too"
    )
    parser.add_argument("--keys", action="store_true", help="print every setting, its default and what it does")
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("-h", "--help", action="store_true", help="print this; with a model, what --keys prints")
    return parser


def recommend_parser() -> Parser:
    """Flags of `recommend`."""
    parser = Parser(f"{PROGRAM} recommend", "Recommend the next items with a saved model.", RECOMMEND_HELP)
    add_saved_model(parser)
    users = parser.add_argument_group("for whom, one of").add_mutually_exclusive_group(required=True)
    users.add_argument(
        "--history", metavar="ITEMS", help="tokens of items, oldest first, separated by commas, or a json list of them"
    )
    users.add_argument(
        "--users", metavar="USERS", help="users of the dataset, separated by commas, or a json list of them, or `all`"
    )
    users.add_argument(
        "--input", type=expanduser, metavar="FILE", help="a file with a history in each line; - for stdin"
    )
    parser.add_argument(
        "--input_format", metavar="FORMAT", help="jsonl or csv (default: the input's ending; stdin jsonl)"
    )
    parser.add_argument(
        "--data_path", metavar="DIR", help="folder of the dataset, for --users (default: as in training)"
    )
    lists = parser.add_argument_group("lists")
    _add_number(lists, "topk", int, 10, "K", "items of a list")
    lists.add_argument("--include_seen", action="store_true", help="items of the history may be recommended again")
    _add_number(lists, "inference_seeds", int, None, "S", "noises for each history; two or more tell how sure it is")
    lists.add_argument(
        "--diversify", action="store_true", help="a list that covers what the noises give, not their mean"
    )
    _add_number(lists, "batch_size", int, 512, "N", "rows at once; bounds the memory")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--output",
        type=expanduser,
        metavar="FILE",
        help="a csv, jsonl or parquet file; - for stdout (default: a table)",
    )
    output.add_argument(
        "--output_format", metavar="FORMAT", help="csv, jsonl or parquet (default: the output's ending)"
    )
    return parser


def explain_parser() -> Parser:
    """Flags of `explain`."""
    about = "Follow the reverse process on one history: which items x_t is close to at each step."
    parser = Parser(f"{PROGRAM} explain", about, EXPLAIN_HELP)
    add_saved_model(parser)
    parser.add_argument("--history", required=True, metavar="ITEMS", help="items by their tokens, oldest first")
    _add_number(parser, "topk", int, 3, "K", "items shown of each step")
    parser.add_argument("--include_seen", action="store_true", help="items of the history may be shown too")
    parser.add_argument(
        "--output",
        type=expanduser,
        default="trajectory.png",
        metavar="FILE",
        help="the picture (default trajectory.png)",
    )
    return parser


def explore_parser() -> Parser:
    """Flags of `explore`."""
    about = "Open a page that asks one saved model, or two side by side, for their lists and shows how they come about."
    parser = Parser(f"{PROGRAM} explore", about, EXPLORE_HELP)
    group = add_checkpoint(parser, "a saved model; of a folder, the newest; twice for two models", action="append")
    _add_loading(group)
    group.add_argument(
        "--data_path", metavar="DIR", help="folder of the dataset, for its users (default: as in training)"
    )
    parser.add_argument_group(
        "--KEY=VALUE", "any other setting that can be changed after training, for both models, as for `recommend`"
    )
    group = parser.add_argument_group("page")
    host = (
        "address to listen on (default 127.0.0.1, which other machines cannot reach; 0.0.0.0 lets all ask the models)"
    )
    group.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=host)
    _add_number(group, "port", int, 8350, "N", "port to listen on; 0 for any that is free")
    group.add_argument("--no_browser", dest="browser", action="store_false", help="open no browser")
    return parser


def evaluate_parser() -> Parser:
    """Flags of `evaluate`."""
    about = "Test a saved model, or all of a comparison, on its validation and test data, without training."
    parser = Parser(f"{PROGRAM} evaluate", about, EVALUATE_HELP)
    add_checkpoint(parser, "the saved model; of a folder, the newest; or the folder of a comparison")
    parser.add_argument("--ranks", type=expanduser, metavar="FILE.npz", help="a file for the rank of every test item")
    parser.add_argument(
        "--output",
        type=expanduser,
        metavar="PATH",
        help="a json file of the metrics, - for stdout (default: a table); of a comparison, the folder of the new one "
        "(default: the old one's name and -evaluated)",
    )
    parser.add_argument_group(
        "--KEY=VALUE",
        "any setting that the weights do not depend on, such as --history_in_ranking=both, --eval_args,\n"
        "--metrics, --topk, --data_path, --seed or --noise_scale; a wrong KEY is answered with those there are",
    )
    return parser


def add_checkpoint(parser: Parser, text: str, action: str = "store") -> argparse._ArgumentGroup:
    """Add the flags that say which saved model; gives their group."""
    group = parser.add_argument_group("model")
    group.add_argument("--checkpoint", type=expanduser, required=True, action=action, metavar="PATH", help=text)
    group.add_argument("--model", metavar="FILE.py:CLASS", help="its class, where it is neither ours nor RecBole's")
    return group


def add_saved_model(parser: Parser) -> None:
    """Add the flags that say which saved model, and how it samples."""
    group = add_checkpoint(parser, "the saved model; of a folder, the newest")
    _add_loading(group)
    _add_number(group, "inference_steps", int, None, "K", "reverse steps")
    _add_number(group, "seed", int, None, "N", "seed of the noise (default: that of the training)")
    _add_number(group, "temperature", float, 1.0, "X", "multiplies x_T and the noise of the reverse steps")
    group.add_argument("--skip_unknown", action="store_true", help="leave out items that the model does not know")
    parser.add_argument_group(
        "--KEY=VALUE",
        "any other setting that can be changed after training, such as\n"
        "  --noise_scale=0.1 or --reverse_sampler=ddim; a wrong KEY is answered with those of the model",
    )


def _add_loading(group: argparse._ArgumentGroup) -> None:
    """Add the flags that say how a saved model is read."""
    group.add_argument("--device", help="cpu, cuda or cuda:1 (default: a GPU where there is one)")
    group.add_argument(
        "--titles", type=expanduser, metavar="FILE:COLUMN", help="titles of the items, where the checkpoint holds none"
    )


def add_model(parser: Parser) -> None:
    """Add the flag that says which model."""
    parser.add_argument(
        "-m", "--model", action=SettingFlag, metavar="NAME", help=_with_default("model or FILE.py:CLASS", "model")
    )


def _add_training(parser: Parser) -> None:
    parser.add_argument(
        "--resume", action=SettingFlag, metavar="PATH", help="go on with the run that wrote this checkpoint"
    )
    group = parser.add_argument_group("several processes, as in RecBole's script; torchrun starts them as well")
    for flag, (metavar, text) in PROCESSES.items():
        group.add_argument(f"--{flag}", action=SettingFlag, metavar=metavar, help=text)
    group.add_argument(
        "--group_offset",
        dest="offset",
        action=SettingFlag,
        metavar="N",
        help="processes on the machines before this one",
    )


def _add_comparison(parser: Parser, title: str, without: Collection[str] = ()) -> None:
    """Add the settings of compare.yaml, explained as they are there."""
    group = parser.add_argument_group(title)
    row = re.compile(r"^(\w+):[ \t]*(.*?)[ \t]+# \([^)]*\) (.*(?:\n[ \t]+#.*)*)", re.MULTILINE)
    for key, default, comment in row.findall(COMPARE_FILE.read_text(encoding="utf-8")):
        if key not in without:
            text = re.sub(r"\s*\n\s*#\s*", " ", comment).replace("%", "%%")
            shown = "" if default in ("~", "[]", "{}") else f" (default {default})"
            group.add_argument(f"--{key}", action=SettingFlag, metavar="VALUE", help=text + shown)


def _add_number(
    group: argparse._ActionsContainer, key: str, kind: type, default: object, metavar: str, text: str
) -> None:
    shown = "" if default is None else f" (default {default:g})"
    group.add_argument(f"--{key}", type=number(key, kind), default=default, metavar=metavar, help=text + shown)


def _with_default(text: str, key: str) -> str:
    return f"{text} (default {DEFAULTS[key]})"
