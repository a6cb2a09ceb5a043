"""Attackers: each makes one attack; what comes back must be right, or one line that says what is wrong."""

from __future__ import annotations

import io
import json
import random
import re
import string
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_diffusion.cli.main import main
from recbole_diffusion.common.setting import table_of
from recbole_diffusion.errors import UserError
from recbole_diffusion.host.dataset import build_dataset
from recbole_diffusion.host.registry import find_model
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.host.table import GENERAL
from recbole_diffusion.host.titles import read_titles
from recbole_diffusion.inference import Recommender
from recbole_diffusion.training import checkpoint
from recbole_diffusion.training.run import prepare, train_and_test

HISTORY = ["50", "286", "258"]
ODD_TEXTS = [
    "",
    " ",
    "~",
    "nan",
    "1e999",
    "-1",
    "0",
    "[]",
    "{}",
    "[[1]]",
    "{a: 1}",
    "True",
    "\x85",
    "é",
    "\ud800",
    "../..",
]
ODD_NUMBERS = [0, -1, 1, 2, 0.5, 10**9, 10**30, -(10**30), 1e308, float("inf"), float("nan")]
LETTERS = string.printable + "éß\u2028\x00\x85\ufeff"
# Values near those that make sense, by the kind of a setting: most are accepted, and training has to bear them.
NEAR = {
    "bool": [True, False],
    "int": [0, 1, 2, 3, 7, 50],
    "float": [0, 1e-6, 0.1, 0.5, 1, 2.0, 100.0],
    "str": ["CE", "BPR", "none", "x", "ndcg@10", "adam", "sparse_adam", "item_id", "timestamp", "[3,inf)", "[0,0]"],
    "list": [[], [0], [1, 2], ["x"], ["ndcg"], [0.5], ["timestamp"], ["item_id"], ["name"], ["price", "x"]],
    "dict": [
        {},
        {"x": 1},
        {"split": {"RS": [1, 1, 1]}},
        {"mode": "uni5"},
        {"timestamp": "[0,5]"},
        {"timestamp": 3},
        {"item_id": ["i1", "i2"]},
        {"price": 2},
        {"inter": ["timestamp"]},
        {"item": "*"},
        {"item": ["item_id", "price"]},
        {"max_norm": 1},
        {"distribution": "popularity", "sample_num": 2},
    ],
}
# Settings that lead elsewhere: to files, to other machines, to time and memory that a test does not have.
ELSEWHERE = {"checkpoint_dir", "log_dir", "tensorboard_dir", "data_path", "dataset", "model", "url", "deadline"}
ELSEWHERE |= {"log_wandb", "wandb_project", "compile", "nproc", "world_size", "gpu_id", "use_gpu", "epochs", "threads"}
OF_RECOMMEND = [
    "topk",
    "seed",
    "temperature",
    "inference_steps",
    "inference_seeds",
    "batch_size",
    "device",
    "noise_scale",
]
OF_RECOMMEND += ["output_format", "item_titles", "titles", "users", "diversify"]


def odd(chosen: random.Random, depth: int = 2) -> Any:
    """Any plain value."""
    kind = chosen.randrange(8 if depth else 5)
    if kind < 2:
        return chosen.choice(ODD_TEXTS)
    if kind == 2:
        return chosen.choice(ODD_NUMBERS)
    if kind == 3:
        return chosen.choice([None, True, False])
    if kind == 4:
        return "".join(chosen.choices(LETTERS, k=chosen.randrange(12)))
    if kind < 7:
        return [odd(chosen, depth - 1) for _ in range(chosen.randrange(4))]
    return {
        chosen.choice(["a", "mode", "split", 1, "inter"]): odd(chosen, depth - 1) for _ in range(chosen.randrange(3))
    }


def near(chosen: random.Random, kind: str) -> Any:
    """A value of a setting's type, near those that make sense."""
    names = [name for name in NEAR if name in kind] or list(NEAR)
    return chosen.choice(NEAR[chosen.choice(names)])


def one_line(action: Callable[[], Any]) -> Any:
    """What an action gives; None where it is refused with a message."""
    try:
        return action()
    except UserError as error:
        assert str(error).strip(), "a message that is empty"
        return None


def command(*argv: str) -> int:
    """Run a command line; 0 is done, 2 refused with one last line that says so, and no library warns."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([*argv])
    said = err.getvalue()
    assert code in (0, 2), (code, argv, said[-500:])
    assert code == 0 or said.split("\n")[-2].startswith("error: "), (argv, said[-500:])
    assert "Warning:" not in said, (argv, said[-500:])
    return code


def changed_bytes(chosen: random.Random, content: bytes) -> bytes:
    """Some bits turned, some bytes gone, doubled or replaced, or all behind one cut off."""
    changed = bytearray(content)
    for _ in range(chosen.randint(1, 3)):
        place = chosen.randrange(max(1, len(changed)))
        kind = chosen.randrange(5)
        if kind == 0 and changed:
            changed[place] ^= 1 << chosen.randrange(8)
        elif kind == 1:
            del changed[place : place + chosen.randint(1, 40)]
        elif kind == 2:
            changed[place:place] = bytes(chosen.choices(range(256), k=chosen.randint(1, 6)))
        elif kind == 3:
            changed[place : place + 1] = chosen.choice([b"\t", b"\n", b"\r", b"\0", b'"', b" ", b",", b":", b"\xc3"])
        else:
            del changed[place:]
    return bytes(changed)


def rows_of(content: bytes) -> Counter[tuple[str, ...]]:
    """User, item and time of every line of an atomic file, read as simply as can be."""
    header, *lines = (line for line in re.split("\r\n|\n|\r", content.decode("utf-8-sig")) if line)
    names = [cell.rpartition(":")[0] for cell in header.split("\t")]
    at = [names.index(name) for name in ("user_id", "item_id")]
    return Counter(tuple(line.split("\t")[place] for place in at) for line in lines)


class Attacks:
    """The attackers, on a trained DiffuRec of ml-100k.

    Parameters
    ----------
    model : Path
        Its checkpoint.
    folder : Path
        To write to.
    """

    def __init__(self, model: Path, folder: Path) -> None:
        self.model, self.folder = model, folder
        self.content, self.state = model.read_bytes(), checkpoint.load(model)
        self.right = Recommender.load(model, "cpu").recommend(HISTORY).items.tolist()
        elsewhere = {"checkpoint_dir": str(folder / "saved"), "log_dir": None, "tensorboard_dir": None, "threads": 1}
        self.training = prepare(load_config("DiffuRec", "ml-100k", None, {**self.state["config"], **elsewhere}))
        self.keys = [*GENERAL, *table_of(find_model("DiffuRec"))]
        rows = "".join(f"u{user}\ti{item}\t{item}\n" for user in range(4) for item in range(user, user + 6))
        items = "item_id:token\tname:token_seq\tprice:float\n" + "".join(f"i{item}\ta b\t{item}\n" for item in range(9))
        self.files = {
            "inter": f"user_id:token\titem_id:token\ttimestamp:float\n{rows}".encode(),
            "item": items.encode(),
        }
        self._write_data("whole", self.files)

    def _write_data(self, name: str, files: dict[str, bytes]) -> None:
        (self.folder / name).mkdir(exist_ok=True)
        for suffix, content in files.items():
            (self.folder / name / f"{name}.{suffix}").write_bytes(content)

    def settings(self, chosen: random.Random) -> None:
        """Settings of any value are taken or refused, before anything is read."""
        given = {chosen.choice(self.keys): odd(chosen) for _ in range(chosen.randint(1, 2))}
        one_line(lambda: load_config(chosen.choice(["DiffuRec", "SASRec", "BPR"]), "ml-100k", None, given))

    def trainings(self, chosen: random.Random) -> None:
        """Settings near those that make sense train to metrics from 0 to 1, or are refused."""
        model = chosen.choice(
            ["DiffuRec", "DiffRec", "DreamRec", "PreferDiff", "ADRec", "FMRec", "SASRec", "GRU4Rec", "BPR"]
        )
        rows = {**GENERAL, **table_of(find_model(model))}
        keys = [key for key in rows if key not in ELSEWHERE]
        given = {key: near(chosen, rows[key].kind) for key in chosen.choices(keys, k=chosen.randint(1, 3))}
        fixed = {"data_path": str(self.folder), "epochs": 1, "checkpoint_dir": str(self.folder / "saved"), "threads": 1}
        fixed |= {"log_dir": None, "tensorboard_dir": None, "show_progress": False}
        small = {"hidden_size": 8, "inner_size": 8, "n_heads": 2, "n_layers": 1, "embedding_size": 8}
        given = {**{key: value for key, value in small.items() if key in rows}, **given, **fixed}
        with redirect_stderr(io.StringIO()):
            outcome = one_line(lambda: train_and_test(model, "whole", None, given, saved=False))
        if outcome is not None:
            values = list((outcome.result["test_result"] or {}).values())
            assert np.isfinite(values).all() and all(value >= 0 for value in values), (given, outcome)

    def command_lines(self, chosen: random.Random) -> None:
        """Flags of any value, given twice or without one; no data is there, so that nothing is trained."""
        flags = [*self.keys, "history", "users", "x", "resume", "config_files", "model_list", "seed_list", "trials"]
        words = []
        for _ in range(chosen.randint(1, 3)):
            value = chosen.choice(["", "=", f"={odd(chosen)}", f" {odd(chosen)}"])
            words.append(f"--{chosen.choice(flags)}{value}")
        name = chosen.choice(["train", "compare", "tune", "report", "explain", "nosuch", "", "recommend", "recommend"])
        if name == "recommend":
            history = f"--history={chosen.choice(['50', '50,1', odd(chosen)])}"
            flag = f"--{chosen.choice(OF_RECOMMEND)}={odd(chosen, 0)}"
            command(name, f"--checkpoint={self.model}", history, flag, *words[1:])
        elif name == "report":
            command(name, *words)
        else:
            command(name, "--dataset=absent", "--data_path=.", *words)

    def atomic_files(self, chosen: random.Random) -> None:
        """Data files with changed bytes are read as they stand, or refused."""
        hit = chosen.choice(["inter", "item"])
        files = {**self.files, hit: changed_bytes(chosen, self.files[hit])}
        self._write_data("made", files)
        columns = {"inter": "*"} if hit == "inter" else {"inter": "*", "item": "*"}
        settings = {"data_path": str(self.folder), "load_col": columns, "filter_inter_by_user_or_item": False}
        dataset = one_line(lambda: build_dataset(load_config("SASRec", "made", None, settings)))
        if dataset is not None:
            tokens = [dataset.field2id_token[field][dataset.inter_feat[field]] for field in ("user_id", "item_id")]
            assert Counter(zip(*map(map, (str, str), tokens), strict=True)) == rows_of(files["inter"])

    def checkpoint_bytes(self, chosen: random.Random) -> None:
        """A checkpoint with changed bytes recommends what the whole one does, or is refused."""
        path = self.folder / "changed.pth"
        path.write_bytes(changed_bytes(chosen, self.content))
        answer = one_line(lambda: Recommender.load(path, "cpu").recommend(HISTORY).items.tolist())
        assert answer is None or answer == self.right

    def checkpoint_parts(self, chosen: random.Random) -> None:
        """A well-formed checkpoint in which a part is missing or another, to recommend from or to resume."""
        state = dict(self.state)
        for _ in range(chosen.randint(1, 2)):
            key = chosen.choice(sorted(state))
            inside = isinstance(state[key], dict) and state[key] and chosen.random() < 0.7
            target = dict(state[key]) if inside else state
            name = chosen.choice(sorted(target, key=str)) if inside else key
            if chosen.random() < 0.3:
                del target[name]
            elif isinstance(target[name], torch.Tensor) and chosen.random() < 0.7:
                value = target[name]
                target[name] = chosen.choice(
                    [value[:-1] if value.dim() else value[None], value.flatten(), value * np.nan]
                )
            else:
                target[name] = odd(chosen)
            if inside:
                state[key] = target
        path = self.folder / "parts.pth"
        torch.save(state, path)
        answer = one_line(lambda: Recommender.load(path, "cpu").recommend(HISTORY))
        assert answer is None or np.isfinite(answer.scores).all()
        one_line(lambda: self._resume(path))

    def _resume(self, path: Path) -> None:
        """Take up the training, of which no epoch is left."""
        self.training.trainer.resume_checkpoint(path, self.training.train_data)
        self.training.trainer.fit(self.training.train_data, saved=False, verbose=False)

    def histories(self, chosen: random.Random) -> None:
        """Lines of histories, and titles, of any content."""
        lines = []
        for _ in range(chosen.randint(1, 4)):
            history = chosen.choice([HISTORY, odd(chosen), [odd(chosen) for _ in range(3)], [7, "50", " 50 "]])
            line = chosen.choice([history, {"user": odd(chosen), "history": history}])
            lines.append(json.dumps(line, default=str).encode(errors="surrogatepass"))
        content = b"\n".join(lines)
        path = self.folder / f"in.{chosen.choice(['jsonl', 'csv'])}"
        path.write_bytes(changed_bytes(chosen, content) if chosen.random() < 0.5 else content)
        output = self.folder / f"out.{chosen.choice(['jsonl', 'csv'])}"
        command("recommend", f"--checkpoint={self.model}", f"--input={path}", f"--output={output}")
        titles = self.folder / "titles.item"
        titles.write_bytes(changed_bytes(chosen, b'item_id:token\ttitle:token\n50\tA "B\n7\tc, d\n'))
        one_line(lambda: read_titles(titles, chosen.choice([None, "title", "x"])))


ATTACKS = (
    "settings",
    "trainings",
    "command_lines",
    "atomic_files",
    "checkpoint_bytes",
    "checkpoint_parts",
    "histories",
)
