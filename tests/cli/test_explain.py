from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from saved_models import Saved

from recbole_diffusion.cli.main import main
from recbole_diffusion.inference import Recommender
from recbole_diffusion.training import checkpoint


def test_a_table_and_a_picture(
    saved: Callable[..., Saved], diffurec: Recommender, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--history=50,258", "--inference_steps=4", "--topk=2", "--output=why.png"]
    assert main(["explain", f"--checkpoint={saved('DiffuRec').path}", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:7]] == ["31", "21", "10", "0", "x_0"]
    titles = diffurec.recommend(["50", "258"], topk=2, inference_steps=4).titles
    assert titles is not None and all(title in lines[6] for title in titles[0])
    assert "4 reverse steps; recommending takes 1." in lines[-2] and lines[-1] == "picture: why.png"
    assert os.listdir(".") == ["why.png"]


def test_a_long_history_is_cut_and_that_is_said(
    saved: Callable[..., Saved], diffurec: Recommender, capsys: pytest.CaptureFixture[str]
) -> None:
    long = ",".join(diffurec.vocabulary.tokens[1 : diffurec.model.max_seq_length + 4])
    assert main(["explain", f"--checkpoint={saved('DiffuRec').path}", f"--history={long}", "--topk=1"]) == 0
    assert capsys.readouterr().err.startswith("histories are cut to their newest ")


@pytest.mark.parametrize(("factor", "code"), [(0.0, 0), (-1.0, 0), (1e30, 2)])
def test_odd_weights_are_explained_or_refused_in_one_line(
    saved: Callable[..., Saved], factor: float, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    state = checkpoint.load(saved("DiffuRec").path)
    odd = {name: tensor * factor for name, tensor in state["state_dict"].items()}
    checkpoint.save("odd.pth", {**state, "state_dict": odd})
    capsys.readouterr()
    assert main(["explain", "--checkpoint=odd.pth", "--history=50", "--topk=1", "--output=why.png"]) == code
    out, err = capsys.readouterr()
    assert "nan" not in out and len(err.splitlines()) == (code == 2)
    assert err.startswith("error: the reverse process ends in NaN or infinity" if code else "")


@pytest.mark.parametrize(
    ("model", "flags", "message"),
    [
        ("DiffuRec", ["--history=no such item"], "item 'no such item': not among the "),
        (
            "DiffuRec",
            ["--history=50", "--inference_steps=99"],
            "inference_steps must be from 1 to 32",
        ),
        ("DiffuRec", ["--history=50", "--topk=0"], "topk must be from 1 to "),
        ("DiffuRec", ["--history=50", "--output=."], ".: cannot be written ("),
        ("DiffuRec", ["--history=50", "--output=why.docx"], "why.docx: the picture cannot be written (Format 'docx'"),
        (
            "DiffuRec",
            ["--history=50", "--temperature=1e300"],
            "the reverse process ends in NaN or infinity: the weights are damaged, or a setting such as temperature",
        ),
        ("DiffuRec", [], "the following arguments are required: --history"),
        ("SASRec", ["--history=50"], "SASRec has no reverse process to explain"),
    ],
)
def test_mistakes_take_one_line(
    saved: Callable[..., Saved], model: str, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = saved(model).path
    # The log of the training is no part of it.
    capsys.readouterr()
    assert main(["explain", f"--checkpoint={checkpoint}", *flags]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and err.startswith(f"error: {message}")
