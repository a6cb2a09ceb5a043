"""A user's mistakes, through the script's entry point: one line on stderr, exit code 2, no stack."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from recbole_diffusion.cli.main import main as command
from recbole_diffusion.cli.train import main

SMALL = ["--user_inter_num_interval=[0,25]", "--epochs=1", "--hidden_size=16", "--n_layers=1", "--show_progress=False"]


def one_line(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run the script, and give the one line that it ends with, which may stand below those of its log."""
    assert main([*argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if " INFO  " not in line]
    assert len(lines) == 1, captured.err
    return lines[0]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--model=DifuRec"], "model='DifuRec': there is no such model; did you mean DiffuRec?"),
        (["--difusion_steps=8"], "difusion_steps must be the name of a setting, such as diffusion_steps, got '8'"),
        (["--hidden_size=65"], "hidden_size must be even and positive, got 65"),
        (["--hidden_size=66"], "hidden_size must be a multiple of n_heads=4, got 66"),
        (["--diffusion_steps=0"], "diffusion_steps must be positive and at most 100000, got 0"),
        (["--diffusion_steps=ten"], "diffusion_steps must be a whole number, got 'ten'"),
        (["--inference_steps=33"], "inference_steps must be from 1 to diffusion_steps=32, got 33"),
        (["--noise_schedule=linear", "--diffusion_steps=16"], "noise_schedule='linear': "),
        (["--noise_schedule=pw_lin", "--diffusion_steps=10"], "noise_schedule='pw_lin': "),
        (["--loss_type=MSE"], "loss_type must be one of CE, BPR, got 'MSE'"),
        (["--model=DiffRec", "--rounding=nearest"], "rounding must be one of tied, linear, got 'nearest'"),
        (["--topk=5,2000", "--valid_metric=NDCG@5"], "topk must hold numbers of at most 1682"),
        (["--dataset=no-such-data"], "dataset=no-such-data: "),
        (["--config_files=absent.yaml"], "absent.yaml: cannot be read"),
        (["--nproc=2", "--world_size=3"], "port must be given, the same on each machine, got None"),
        (["--nproc=2", "--world_size=1"], "world_size must be at least nproc + group_offset = 2, got 1"),
        (["--resume=absent.pth"], "resume must be a checkpoint that exists, got 'absent.pth'"),
        (["--user_inter_num_interval=[0,1]"], "dataset=ml-100k: "),
        (["--user_inter_num_interval=0,40"], "user_inter_num_interval must be an interval such as [5,inf)"),
        (["--item_inter_num_interval=[9,5]"], "item_inter_num_interval must be an interval such as [5,inf)"),
        (
            ["--val_interval={rating: '3'}"],
            "val_interval must hold intervals such as '[3,inf)', or lists of values to keep, got {'rating': '3'}",
        ),
        (["--eval_args={mode: uni5000}"], "eval_args.mode must sample at most 1681 "),
        (["--eval_args={mode: labeled}"], "eval_args.mode must be full, uniN or popN for ranking"),
        (["--transform=crop_itemseq"], "transform must be given together with eta, got 'crop_itemseq'"),
        (["--topk=5"], "valid_metric must be one of Hit@5, NDCG@5, MRR@5, which metrics and topk=[5] give"),
        (["--model=SASRec", "--hidden_size=63"], "model=SASRec: The hidden size (63) is not a multiple of"),
        (["--learner=sparse_adam"], "learner must be one of adam, adamw, sgd, adagrad, rmsprop, got 'sparse_adam'"),
        (["--hidden_size=1000000000000"], "hidden_size must be at most "),
        (["--model=LastItem", "--hidden_size=1000000000000"], "hidden_size must be at most "),
        (["--model=SASRec", "--hidden_size=1000000000000"], "there is not enough memory: take smaller sizes"),
        (["--diffusion_steps=100000000"], "diffusion_steps must be positive and at most 100000, got 100000000"),
        (["--n_layers=100000000"], "n_layers must be at most 1000, got 100000000"),
        (["--model=GRU4Rec", "--num_layers=100000000"], "num_layers must be at most 1000, got 100000000"),
        (["--inference_seeds=100000000"], "inference_seeds must be from 1 to 10000, got 100000000"),
        (["--train_batch_size=1" + 30 * "0"], "train_batch_size must be between -2**63 and 2**63, got '1000"),
        (["--seed=1" + 30 * "0"], "seed must be "),
        (["--encoding=klingon"], "encoding must be an encoding that Python knows, such as utf-8 or latin-1"),
        (["--field_separator="], "field_separator must be characters within a line, got ''"),
        (["--seq_separator="], "seq_separator must be characters within a line, got ''"),
        (["--field_separator=\x85"], "field_separator must be "),
        (["--epochs=\x85"], "epochs must be a whole number, got '\\x85'"),
        (["--field_separator=,"], "field_separator must be '\\t', which stands in the header of "),
        (["--data_path=no/such/folder"], "data_path must be a folder that exists, got 'no/such/folder'"),
        (["--checkpoint_dir=a\0b"], "'--checkpoint_dir=a\\x00b': a NUL stands in no name and no value"),
        (
            ["--val_interval={rating: '[9,inf)'}"],
            "dataset=ml-100k: no interaction is left by the filters: 0 after ",
        ),
        (
            ["--model=SASRecF", "--selected_features=[nosuch]"],
            "selected_features must name columns that load_col reads, as with load_col={item: [item",
        ),
        (["--model=S3Rec", "--train_stage=finetune"], "pre_model_path must be a model that train_stage=pretrain has "),
        (["--learning_rate=__import__('os').getcwd()"], "learning_rate must be a number, got "),
    ],
)
def test_settings(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert one_line(capsys, *argv).startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "holds no settings"), ("a: [1,\nb: 2", "no valid yaml"), ("- 1\n- 2\n", "must be a mapping")],
)
def test_yaml_files(text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(text)
    line = one_line(capsys, "--config_files=mine.yaml")
    assert line.startswith("error: mine.yaml") and message in line


HEADER = "user_id:token\titem_id:token\ttimestamp:float\n"


@pytest.mark.parametrize(
    ("inter", "message"),
    [
        ("", "the file is empty"),
        (HEADER, "no row below it"),
        ("user_id:token\titem_id:token\ttimestamps:float\nu\ti\t1\n", "did you mean timestamps?"),
        ("user_id:token\titem_id:token\nu\ti\n", "there is no column timestamp"),
        (HEADER + "u\t\t1\nu\tj\t2\n", "column item_id is empty in line 2"),
        (HEADER + "u\ti\t1\nu\tj\t\n", "column timestamp is empty in line 3"),
        (HEADER + "u\ti\t1\nu\tj\n", "column timestamp is empty in line 3"),
        (HEADER + "u\ti\tnoon\n", "no number in line 2 ('noon')"),
        (HEADER + "".join(f"u{n}\ti{n}\t1\n" for n in range(9)), "a user needs 2 interactions"),
        (HEADER + "".join(f"u{n}\ti{m}\t{m}\n" for n in range(9) for m in range(2)), "a user needs"),
    ],
)
def test_atomic_files(inter: str, message: str, atomic: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    path = atomic("toy", inter=inter)
    line = one_line(capsys, "--dataset=toy", f"--data_path={path}", "--topk=1", "--valid_metric=NDCG@1")
    assert message in line


def test_checkpoints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "--model=DiffuRec"]) == 0
    saved = next(Path("saved").glob("*.last.pth"))
    Path("cut.pth").write_bytes(saved.read_bytes()[:1000])
    Path("foreign.pth").write_text("no checkpoint")
    capsys.readouterr()
    for file in ("cut.pth", "foreign.pth"):
        assert f"{file}: not a checkpoint" in one_line(capsys, *SMALL, f"--resume={file}")
    assert "model must be DiffuRec, as in " in one_line(capsys, *SMALL, "--model=DiffRec", f"--resume={saved}")
    other = [*SMALL[1:], "--user_inter_num_interval=[0,30]"]
    assert "of another catalogue" in one_line(capsys, *other, f"--resume={saved}")
    sized = [*SMALL, "--hidden_size=32"]
    sized.remove("--hidden_size=16")
    assert "hidden_size must be 16, as in " in one_line(capsys, *sized, f"--resume={saved}")


def test_loss_that_is_not_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--show_progress=False", "--user_inter_num_interval=[0,25]", "--hidden_size=16", "--n_layers=1"]
    assert main([*arguments, "--epochs=1"]) == 0
    capsys.readouterr()
    last = next(Path("saved").glob("*.last.pth"))
    assert main([*arguments, "--epochs=3", "--learning_rate=1e30", f"--resume={last}"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and "epoch 1, batch" in line and "learning_rate=1e+30" in line
    assert f"the last good checkpoint is {Path('saved')}" in line


def test_debug_shows_the_stack(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--debug", "--model=DifuRec"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_model_whose_package_is_missing_is_refused_before_it_trains(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert main(["--model=NCL", "--user_inter_num_interval=[0,25]"]) == 2
    assert "error: NCL needs the package faiss, which is not installed" in capsys.readouterr().err


def test_data_without_times_or_in_utf_16(atomic: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    path = atomic("toy", inter="user_id:token\titem_id:token\nu\ti\n")
    line = one_line(capsys, "--model=BPR", "--dataset=toy", f"--data_path={path}")
    assert "there is no column timestamp" in line and "a general model takes eval_args={order: RO}" in line
    (Path(path) / "toy" / "toy.inter").write_text(f"{HEADER}u\ti\t1\n", encoding="utf-16")
    assert "written in UTF-16; set encoding=utf-16" in one_line(capsys, "--dataset=toy", f"--data_path={path}")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--model=SASRecF"],
            "selected_features must name columns that load_col reads, as with load_col={item: [item_id",
        ),
        (["--model=FDSA"], "selected_features must name columns that load_col reads"),
        (["--model=GRU4RecF"], "selected_features must name columns that load_col reads"),
        (["--model=S3Rec"], "item_attribute must name a column that load_col reads, as with load_col={item: [item_id"),
        (
            ["--model=SASRecF", "--selected_features=[price]", "--load_col={item: [item_id, price]}"],
            "selected_features must hold a column of tokens; SASRecF has no embedding for numbers alone, got ['price']",
        ),
    ],
)
def test_features_that_a_model_needs(
    flags: list[str], message: str, atomic: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = "".join(f"u{user}\ti{item}\t{item}\n" for user in range(4) for item in range(6))
    items = "item_id:token\tprice:float\n" + "".join(f"i{item}\t{item}\n" for item in range(6))
    path = atomic("toy", inter=HEADER + rows, item=items)
    few = ["--dataset=toy", f"--data_path={path}", "--topk=5", "--valid_metric=NDCG@5"]
    assert one_line(capsys, *few, *flags).startswith(f"error: {message}")


def test_plain_files_are_no_pre_split_histories(atomic: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    path = atomic("toy")
    for part in ("train", "valid", "test"):
        (Path(path) / "toy" / f"toy.{part}.inter").write_text(f"{HEADER}u\ti\t1\n")
    line = one_line(capsys, "--dataset=toy", f"--data_path={path}", "--benchmark_filename=[train,valid,test]")
    assert "with benchmark_filename a row is a history and the next item" in line
    assert f"put the rows of all files into {path}/toy/toy.inter, leave benchmark_filename out" in line
    assert "by eval_args={split: {LS: valid_and_test}}" in line and "{split: {GTS: [0.8, 0.9]}}" in line


def test_a_user_who_has_seen_all_items(atomic: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    rows = "".join(f"u{user}\ti{item}\t{item}\n" for user in range(4) for item in range(6 if user else 9))
    flags = ["--dataset=toy", f"--data_path={atomic('toy', inter=HEADER + rows)}", "--topk=5", "--valid_metric=NDCG@5"]
    assert main([*SMALL[1:], *flags, "--model=DiffuRec"]) == 0
    capsys.readouterr()
    assert command(["recommend", "--checkpoint=saved", "--users=u0,u1", "--topk=2"]) == 0
    first, second = capsys.readouterr().out.split("user u1\n")
    assert "no item is left: the history holds all of them" in first and "i" in second
    line = one_line(capsys, *flags, "--model=BPR", "--repeatable=False")
    assert "dataset=toy: Some users have interacted with all items" in line


def test_pre_split_files_under_another_name_of_the_items(
    atomic: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = atomic("toy")
    header = "user_id:token\tp_id_list:token_seq\tp_id:token\n"
    rows = "".join(f"u{user}\tp{user} p2\tp{user + 1}\n" for user in range(9))
    for part in ("train", "valid", "test"):
        (Path(path) / "toy" / f"toy.{part}.inter").write_text(header + rows)
    flags = ["--dataset=toy", f"--data_path={path}", "--benchmark_filename=[train,valid,test]", "--ITEM_ID_FIELD=p_id"]
    assert main([*SMALL[1:], *flags, "--topk=5", "--valid_metric=NDCG@5"]) == 0


def test_an_error_in_a_model_of_the_users_own_names_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "from recbole_diffusion.model.lastitem import LastItem\n\n\nclass Mine(LastItem):\n    pass\n"
    file = tmp_path / "mine.py"
    for method in ("__init__(self, config, dataset)", "calculate_loss(self, interaction)"):
        file.write_text(text.replace("    pass", f"    def {method}:\n        self.nosuch.part"))
        line = one_line(capsys, *SMALL[:2], f"--model={file}:Mine")
        assert line.startswith(f"error: {file}, line 6: AttributeError: 'Mine' object has no attribute 'nosuch'")
        assert line.endswith("; --debug shows the stack")


def test_a_setting_that_a_model_of_the_users_own_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "from recbole_diffusion.model.lastitem import LastItem\n\n\nclass Mine(LastItem):\n"
    text += "    def __init__(self, config, dataset):\n        super().__init__(config, dataset)\n"
    (tmp_path / "mine.py").write_text(f'{text}        print("read", config["seeds_of"], config["num_layers"])\n')
    given = ["--seeds_of=3", "--num_layers=2"]
    assert main([*SMALL[:2], f"--model={tmp_path / 'mine.py'}:Mine", *given]) == 0
    captured = capsys.readouterr()
    assert "read 3 2\n" in captured.out and "WARNING" not in captured.err
