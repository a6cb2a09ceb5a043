from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from saved_models import Saved

from recbole_diffusion.cli import recommend as recommending
from recbole_diffusion.cli.main import main
from recbole_diffusion.inference import Recommender

LINES = '{"user": "a", "history": ["50", "258"]}\nnope\n["286"]\n["no such item"]\n[]\n'


@pytest.fixture
def ask(saved: Callable[..., Saved]) -> Callable[..., int]:
    """Run `recommend` with a model on these flags; gives the exit code."""

    # Trained here, as a training's log is no part of what the test captures.
    checkpoint = saved("DiffuRec").path

    def run(*flags: str) -> int:
        return main(["recommend", f"--checkpoint={checkpoint}", "--device=cpu", *flags])

    return run


def test_a_history_gives_a_table_with_titles(
    ask: Callable[..., int], diffurec: Recommender, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask("--history", "50, 258", "--topk=3") == 0
    out, err = capsys.readouterr()
    expected = diffurec.recommend(["50", "258"], topk=3)
    assert expected.titles is not None and err == ""
    rows = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()[2:]]
    assert [row[0] for row in rows] == expected.items[0].tolist()
    assert [float(row[1]) for row in rows] == pytest.approx(expected.scores[0], abs=1e-3)
    assert [row[2] for row in rows] == expected.titles[0].tolist()


def test_users_and_how_sure_the_model_is(
    ask: Callable[..., int], diffurec: Recommender, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = diffurec.users.tokens[:2]
    assert ask(f"--users={first},nobody,{second}", "--inference_seeds=4", "--topk=2") == 2
    out, err = capsys.readouterr()
    assert re.findall(r"^user (\S+)$", out, re.MULTILINE) == [first, second]
    assert out.count("share") == 2 and out.count("entropy of their best item") == 2
    lines = err.splitlines()
    assert lines[0].startswith("user 'nobody': not among the ")
    assert lines[-1] == "error: 1 of 3 inputs could not be answered, for the reasons above"


def test_bad_lines_are_named_and_the_others_answered(
    ask: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in.jsonl").write_text(LINES)
    assert ask("--input=in.jsonl", "--output=out.jsonl", "--topk=2") == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(":")[0] for line in lines[:-1]] == [f"in.jsonl, line {number}" for number in (2, 4, 5)]
    assert "item 'no such item': not among the " in lines[1] and "it is empty" in lines[2]
    assert lines[-1] == "error: 3 of 5 inputs could not be answered, for the reasons above"
    records = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [record["user"] for record in records] == ["a", "3"]
    assert sorted(os.listdir(".")) == ["in.jsonl", "out.jsonl"]


def test_from_stdin_to_stdout(
    ask: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b'["50", "no such item"]\n')))
    assert ask("--input=-", "--output=-", "--output-format=csv", "--skip-unknown", "--topk=4") == 0
    table = pd.read_csv(io.StringIO(capsys.readouterr().out))
    assert table["user"].tolist() == [1] * 4 and table["rank"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_all_users_to_a_file(ask: Callable[..., int], diffurec: Recommender, ending: str) -> None:
    assert ask("--users=all", f"--output=all.{ending}", "--topk=3", "--include_seen") == 0
    expected = diffurec.recommend_users(diffurec.users.tokens, topk=3, exclude_seen=False).to_frame()
    if ending == "parquet":
        table = pd.read_parquet("all.parquet")
    elif ending == "csv":
        table = pd.read_csv("all.csv", dtype={"user": str, "item": str})
    else:
        table = pd.read_json("all.jsonl", lines=True, dtype=False).explode(["items", "scores"])
        table = table.rename(columns={"items": "item", "scores": "score"})
    assert table["user"].tolist() == expected["user"].tolist() and table["item"].tolist() == expected["item"].tolist()
    np.testing.assert_allclose(table["score"].astype(float), expected["score"], atol=1e-5)


def test_an_interrupted_run_leaves_no_file_and_an_older_one_as_it_was(
    ask: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recommending, "CHUNK", 60)
    answer, chunks = recommending._answer, []

    def interrupted(*arguments: Any) -> Any:
        if len(chunks) == 2:
            raise KeyboardInterrupt
        chunks.append(arguments)
        return answer(*arguments)

    monkeypatch.setattr(recommending, "_answer", interrupted)
    Path("old.csv").write_text("old")
    assert ask("--users=all", "--topk=3", "--output=old.csv") == 130
    assert len(chunks) == 2 and os.listdir(".") == ["old.csv"] and Path("old.csv").read_text() == "old"


@pytest.mark.parametrize("output", ["in.jsonl", "./in.jsonl", "link.jsonl"])
def test_the_input_is_not_replaced(ask: Callable[..., int], capsys: pytest.CaptureFixture[str], output: str) -> None:
    Path("in.jsonl").write_text(LINES)
    Path("link.jsonl").symlink_to("in.jsonl")
    assert ask("--input=in.jsonl", f"--output={output}") == 2
    message = f"error: output must be another file than the input, which it would replace, got '{output}'"
    assert capsys.readouterr().err.splitlines() == [message]
    assert Path("in.jsonl").read_text() == LINES


def test_chunks_change_nothing(ask: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--users=all", "--inference_seeds=2", "--topk=3")
    assert ask(*flags, "--output=whole.csv") == 0
    monkeypatch.setattr(recommending, "CHUNK", 60)
    assert ask(*flags, "--output=chunks.csv") == 0
    whole, chunks = (pd.read_csv(name, dtype={"user": str, "item": str}) for name in ("whole.csv", "chunks.csv"))
    pd.testing.assert_frame_equal(whole, chunks, rtol=1e-4)


def test_settings_of_the_inference_change_the_answer(
    ask: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--inference_steps=2", "--inference_seeds=3"]
    assert ask("--history=50", *flags, "--noise_scale=0.1") == 0
    small = capsys.readouterr()
    assert ask("--history=50", *flags, "--noise-scale", "0.9") == 0
    large = capsys.readouterr()
    assert small.err == large.err == "" and small.out != large.out


def test_the_newest_model_of_a_folder_writes_a_file(saved: Callable[..., Saved], ask: Callable[..., int]) -> None:
    assert ask("--history=50", "--output=a.csv") == 0
    assert main(["recommend", f"--checkpoint={saved('DiffuRec').path.parent}", "--history=50", "--output=b.csv"]) == 0
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_read_once(ask: Callable[..., int]) -> None:
    os.mkfifo("pipe")
    writer = threading.Thread(target=lambda: Path("pipe").write_text('["50"]\n["286"]\n'))
    writer.start()
    assert ask("--input=pipe", "--input_format=jsonl", "--output=a.jsonl", "--topk=2") == 0
    writer.join()
    assert [json.loads(line)["user"] for line in Path("a.jsonl").read_text().splitlines()] == ["1", "2"]


def test_any_letter_goes_to_stdout(ask: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("in.jsonl").write_text('{"user": "Zoé", "history": ["50"]}\n', encoding="utf-8")
    Path("mine.csv").write_text("id,what\n" + "".join(f"{item},é\n" for item in range(1700)), encoding="utf-8")
    outputs = []
    for flag in ("--input=in.jsonl", "--history=50"):
        written = io.BytesIO()
        # As Python opens it where the terminal knows ASCII alone.
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
            assert ask("--titles=mine.csv:what", "--topk=1", flag) == 0
            sys.stdout.flush()
            outputs.append(written.getvalue())
    assert json.loads(outputs[0].decode())["user"] == "Zoé" and outputs[1].endswith(b"?\n")


def test_a_json_list_names_ids_with_commas_and_spaces(
    ask: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask('--history=["50", 258]', "--topk=1") == 0
    listed = capsys.readouterr().out
    assert ask("--history=50,258", "--topk=1") == 0
    assert capsys.readouterr().out == listed
    assert ask('--history=["50, 258"]') == 2
    assert "item '50, 258': not among" in capsys.readouterr().err
    assert ask('--users=["a, b", " 1"]') == 2
    err = capsys.readouterr().err
    assert "user 'a, b': not among" in err and "user ' 1': not among" in err


def test_titles_of_no_item_are_refused(ask: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.csv").write_text("what,id\nfilm,50\n")
    assert ask("--history=50", "--titles=mine.csv:what") == 2
    assert "titles must have items of the model in its column of items" in capsys.readouterr().err


def test_titles_of_a_file_of_ones_own(ask: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.csv").write_text("id,what\n" + "".join(f'{item},"film {item}, it is"\n' for item in range(1700)))
    assert ask("--history=50", "--titles=mine.csv:what", "--topk=1") == 0
    assert re.search(r"^(\d+) .*film \1, it is$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--history=50,no such item"], "item 'no such item': not among the "),
        (["--history="], "a history must hold at least one item; it is empty"),
        (["--history=50", "--topk=9999"], "topk must be from 1 to "),
        (["--history=50", "--topk=ten"], "topk must be a whole number, got 'ten'"),
        (["--history=50", "--temperature=loud"], "temperature must be a number, got 'loud'"),
        (["--history=50", "--users=1"], "argument --users: not allowed with argument --history; --help lists"),
        ([], "one of the arguments --history --users --input is required; --help lists the flags"),
        (["--history=50", "--noise_scale"], "--noise_scale must have a value, as in "),
        (
            ["--history=50", "--hidden_size=3"],
            "hidden_size must be one of the settings that may change after training: ",
        ),
        (["--history=50", "--tokp=3"], "--tokp: there is no such flag; did you mean --topk?"),
        (["--history=50", "stray"], "stray: stands alone; settings are written --KEY=VALUE"),
        (["--history=50", "--titles=a.csv"], "titles must be FILE:COLUMN, as in ml-1m.item:movie_title, got 'a.csv'"),
        (["--history=50", "--titles=/dev/null:title"], "/dev/null: there is no column title"),
        (["--history=50", "--titles=a.csv:title"], "a.csv: the titles cannot be read (No such file or directory)"),
        (["--input=absent.csv"], "absent.csv: cannot be read (No such file or directory)"),
        (["--input=in.txt"], "input must end in jsonl or csv, or be given with --input_format, got 'in.txt'"),
        (["--input=-", "--input_format=xls"], "input_format must be jsonl or csv, got 'xls'"),
        (["--history=50", "--output=a.xls"], "output must end in one of csv, jsonl, parquet, or be given with "),
        (["--history=50", "--output_format=xls"], "output_format must be one of csv, jsonl, parquet, got 'xls'"),
        (["--input=absent.csv", "--output=a.csv"], "absent.csv: cannot be read (No such file or directory)"),
        (["--history=50", "--output=/proc/a/b.csv"], "/proc/a/b.csv: cannot be written (No such file or directory)"),
        (["--history=50", "--output=.", "--output_format=csv"], "output must be the name of a file, or - for stdout"),
        (["--users=,"], "users must be users of the dataset, separated by commas, or all, got ','"),
        (["--history=50", "--temperature=inf"], "temperature must be a number, got inf"),
        (["--history=50", "--inference_seeds=0"], "inference_seeds must be from 1 to 10000, got 0"),
    ],
)
def test_mistakes_take_one_line(
    ask: Callable[..., int], flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(*flags) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.startswith(f"error: {message}"), err
    assert os.listdir(".") == []


def test_a_checkpoint_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--checkpoint=absent.pth", "--history=1"]) == 2
    assert capsys.readouterr().err == "error: absent.pth: the checkpoint cannot be read (No such file or directory)\n"
