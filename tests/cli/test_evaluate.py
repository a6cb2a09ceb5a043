from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from saved_models import Saved

from recbole_diffusion.cli.main import main
from recbole_diffusion.evaluation.ranks import load_ranks


def test_a_table_as_training_prints_it(saved: Callable[..., Saved], capsys: pytest.CaptureFixture[str]) -> None:
    trained = saved("DiffuRec")
    capsys.readouterr()
    assert main(["evaluate", f"--checkpoint={trained.path.parent}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("DiffuRec on ml-100k, seed 2020, ") and lines[-1] == f"model: {trained.path}"
    (ndcg,) = [line.split() for line in lines if line.startswith("ndcg@10")]
    assert float(ndcg[2]) == pytest.approx(trained.test_result["ndcg@10"], abs=5e-5)


def test_both_rankings_apart_ranks_and_json(saved: Callable[..., Saved], capsys: pytest.CaptureFixture[str]) -> None:
    trained = saved("DiffuRec")
    capsys.readouterr()
    flags = ["--history-in-ranking", "both", "--ranks=r.npz", "--output=out.json", "--inference_steps=4"]
    assert main(["evaluate", f"--checkpoint={trained.path}", *flags]) == 0
    out, err = capsys.readouterr()
    assert "history in the ranking\n" in out and "history out of the ranking\n" in out
    assert out.splitlines()[-2:] == ["ranks: r.npz", "output: out.json"]
    assert err == ""
    written = json.loads(Path("out.json").read_text())
    assert written["checkpoint"] == str(trained.path) and written["settings"]["inference_steps"] == 4
    assert set(written["test"]) == {"in", "out"} and set(written["test"]["out"]) == set(trained.test_result)
    assert load_ranks(Path("r.npz")).rank_out is not None


def test_json_alone_on_stdout(saved: Callable[..., Saved], capsys: pytest.CaptureFixture[str]) -> None:
    trained = saved("SASRec")
    capsys.readouterr()
    assert main(["evaluate", f"--checkpoint={trained.path}", "--output=-"]) == 0
    assert json.loads(capsys.readouterr().out)["test"] == {"in": trained.test_result}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "the following arguments are required: --checkpoint"),
        (["--checkpoint=nowhere.pth"], "nowhere.pth: the checkpoint cannot be read (No such file or directory)"),
        (["--checkpoint=damaged.pth"], "damaged.pth: not a checkpoint of recbole-diffusion, or a truncated one"),
        (["--checkpoint=GOOD", "--n_layers=3"], "n_layers must be left out, as the weights depend on it or nothing"),
        (["--checkpoint=GOOD", "--inference_steps=2"], "inference_steps must be left out"),
        (["--checkpoint=GOOD", "--output=no/such/"], "no/such: cannot be written"),
        (["--checkpoint=GOOD", "--model=SASRec", "stray"], "stray: stands alone"),
    ],
)
def test_mistakes_take_one_line(
    saved: Callable[..., Saved], flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good = saved("SASRec").path
    Path("damaged.pth").write_bytes(good.read_bytes()[:-1000])
    Path("no").write_text("a file")
    capsys.readouterr()
    assert main(["evaluate", *(flag.replace("GOOD", str(good)) for flag in flags)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.startswith(f"error: {message}")
