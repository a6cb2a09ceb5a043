"""`python -m benchmarks.recommending`: how fast a saved model recommends, as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.machine import device_name, peak_rss_mb
from recbole_diffusion.cli.arguments import Parser
from recbole_diffusion.cli.exit_codes import run_command
from recbole_diffusion.cli.saved_model import warnings_on_stderr
from recbole_diffusion.common.log import shows_progress
from recbole_diffusion.errors import SettingError
from recbole_diffusion.evaluation.environment import versions
from recbole_diffusion.inference import Recommender
from recbole_diffusion.inference.restoring import build
from recbole_diffusion.training import checkpoint

K = 10
WARM_UPS = 5
# Of the made-up catalogue, and of a model for it.
MADE_UP_ITEMS = 1_000_000
MADE_UP_SIZES = {"hidden_size": 64, "inner_size": 256}
TOLD = ("hidden_size", "inner_size", "n_layers", "n_heads", "MAX_ITEM_LIST_LENGTH", "attention_mask", "rounding")

EXAMPLES = """\
examples:
  python -m benchmarks.recommending --checkpoint saved/M.pth --data_path ../data
"""
LOAD = """\
import sys
from recbole_diffusion.inference import Recommender
Recommender.load(sys.argv[1], sys.argv[2])
"""


def parser() -> Parser:
    """The flags."""
    about = "Measure how fast a saved model recommends the best 10 items. One JSON object goes to stdout."
    made = Parser("python -m benchmarks.recommending", about, EXAMPLES)
    made.add_argument("--checkpoint", required=True, metavar="PATH", help="the saved model; of a folder, the newest")
    made.add_argument("--data_path", metavar="DIR", help="the dataset's folder; by default that of training")
    made.add_argument("--device", help="cpu, cuda or cuda:1; by default a GPU where there is one")
    made.add_argument("--timed_users", type=int, default=200, metavar="N", help="users timed one by one (default 200)")
    return made


def run(argv: Sequence[str]) -> None:
    """Do what the command line says; a mistake is a `UserError`."""
    args = parser().read(argv)
    if args.timed_users < 1:
        raise SettingError("timed_users", args.timed_users, must="be a positive whole number")
    with warnings_on_stderr():
        print(json.dumps(measure(args.checkpoint, args.data_path, args.device, args.timed_users), indent=2))


def measure(path: str, data_path: str | None = None, device: str | None = None, timed: int = 200) -> dict[str, Any]:
    """Measure a saved model, with its default reverse steps and draws.

    Parameters
    ----------
    path, data_path, device
        As in `Recommender.load`.
    timed : int
        Users, spread over the dataset, that are timed one by one, each for the first time.

    Returns
    -------
    dict
        Plain data. `load_s` is the whole life of a process that only loads the model, `one_user_ms` the median from
        item tokens to recommendations, `all_users_s` excludes `read_users_s`, which reads the dataset; `peak_rss_mb`,
        in 10^6 bytes, is that of this process up to there. `made_up` has a model of random weights.

    Raises
    ------
    UserError
    """
    recommender = Recommender.load(path, device, data_path=data_path)
    where = next(recommender.model.parameters()).device
    begin = perf_counter()
    subprocess.run([sys.executable, "-c", LOAD, str(recommender.path), str(where)], check=True)
    load_s = perf_counter() - begin

    begin = perf_counter()
    users = recommender.users
    read_s = perf_counter() - begin
    rows = np.unique(np.linspace(0, len(users) - 1, timed + WARM_UPS, dtype=int))
    tokens = recommender.vocabulary.tokens
    histories = [tokens[users.row(row)].tolist() for row in rows]
    one_ms = _one_user_ms(recommender, histories)
    begin = perf_counter()
    with tqdm(total=len(users), unit=" users", disable=not shows_progress()) as bar:
        for part in recommender.recommend_all(K):
            bar.update(len(part))
    all_s = perf_counter() - begin
    peak = peak_rss_mb()

    state = checkpoint.load(recommender.path)
    model = recommender.model
    return {
        "model": state["model"],
        "dataset": state["dataset"],
        "items": len(recommender.vocabulary),
        "users": len(users),
        "eval_steps": len(model.timesteps) if hasattr(model, "timesteps") else 1,
        "draws": getattr(model, "inference_seeds", 1),
        "load_s": round(load_s, 2),
        "one_user_ms": round(one_ms, 2),
        "timed_users": max(1, len(rows) - WARM_UPS),
        "read_users_s": round(read_s, 3),
        "all_users_s": round(all_s, 3),
        "peak_rss_mb": round(peak),
        "made_up": _made_up(recommender, state, [len(history) for history in histories]),
        "settings": {key: state["config"][key] for key in TOLD if state["config"].get(key) is not None},
        "versions": versions(),
        "device": device_name(where),
    }


def _one_user_ms(recommender: Recommender, histories: list[list[str]]) -> float:
    seconds = []
    for history in histories:
        begin = perf_counter()
        recommender.recommend(history, K)
        seconds.append(perf_counter() - begin)
    return 1000 * median(seconds[WARM_UPS:] or seconds)


def _made_up(recommender: Recommender, state: dict[str, Any], lengths: list[int]) -> dict[str, Any]:
    """The same model with a made-up catalogue, asked with histories of these lengths."""
    config = {**state["config"], **{key: size for key, size in MADE_UP_SIZES.items() if key in state["config"]}}
    items = ["[PAD]", *(str(number) for number in range(1, MADE_UP_ITEMS + 1))]
    made = {**state, "config": config, "item_tokens": items, "item_titles": None}
    model = build(recommender.path, made, next(recommender.model.parameters()).device)
    random = np.random.default_rng(0)
    histories = [random.integers(1, MADE_UP_ITEMS, length).astype(str).tolist() for length in lengths]
    one_ms = _one_user_ms(Recommender(recommender.path, made, model), histories)
    sizes = {key: config[key] for key in MADE_UP_SIZES if key in config}
    return {"items": MADE_UP_ITEMS, **sizes, "one_user_ms": round(one_ms, 2)}


if __name__ == "__main__":
    sys.exit(run_command(lambda: run(sys.argv[1:]), debug="--debug" in sys.argv))
