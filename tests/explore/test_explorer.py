from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable

import numpy as np
import pytest
from saved_models import Saved

from recbole_diffusion.cli.main import main
from recbole_diffusion.errors import UserError
from recbole_diffusion.explore.explorer import Explorer
from recbole_diffusion.explore.request import read_request
from recbole_diffusion.inference import Recommender

HISTORY = ["50", "258", "286"]
# What a record of `recommend` has.
RECORD = ("items", "scores", "titles", "share", "mean", "spread", "distance", "entropy")


@pytest.fixture
def explorer(loaded: Callable[[str], Recommender]) -> Explorer:
    return Explorer([loaded("DiffuRec"), loaded("SASRec")])


@pytest.mark.parametrize(
    ("settings", "flags"),
    [
        ({}, []),
        ({"inference_steps": 8, "seed": 5, "temperature": 2}, ["--inference_steps=8", "--seed=5", "--temperature=2"]),
        ({"noise_scale": 1.5}, ["--noise_scale=1.5"]),
        ({"inference_seeds": 4, "noise_scale": 1}, ["--inference_seeds=4", "--noise_scale=1"]),
        (
            {"inference_seeds": 4, "noise_scale": 1, "diversify": True},
            ["--inference_seeds=4", "--noise_scale=1", "--diversify"],
        ),
    ],
)
def test_the_lists_are_those_of_recommend_to_the_digit(
    explorer: Explorer,
    saved: Callable[..., Saved],
    settings: dict[str, object],
    flags: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = explorer.answer(read_request({"history": HISTORY, "topk": 7, "settings": [settings, {}]}, 2))
    for model, given, listed in (("DiffuRec", flags, answer["lists"][0]), ("SASRec", [], answer["lists"][1])):
        words = [
            f"--checkpoint={saved(model).path}",
            f"--history={','.join(HISTORY)}",
            "--topk=7",
            "--output=-",
            *given,
        ]
        capsys.readouterr()
        assert main(["recommend", *words]) == 0
        record = json.loads(capsys.readouterr().out)
        assert {key: listed[key] for key in RECORD if key in listed} == {
            key: record[key] for key in RECORD if key in record
        }


@pytest.mark.parametrize(("steps", "flags"), [(1, []), (4, ["--inference_steps=4"])])
def test_the_process_is_that_of_explain(
    explorer: Explorer, saved: Callable[..., Saved], steps: int, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found, none = explorer.process(read_request({"history": HISTORY, "settings": [{"inference_steps": steps}, {}]}, 2))
    assert none is None and found is not None and found["steps"] == steps
    words = [f"--checkpoint={saved('DiffuRec').path}", f"--history={','.join(HISTORY)}", "--topk=5", *flags]
    capsys.readouterr()
    assert main(["explain", *words]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    for line, timestep, state in zip(lines, found["timesteps"], found["states"], strict=False):
        assert line.split()[0] == ("x_0" if timestep is None else f"{timestep:.4g}")
        assert all(f"{near['title']} ({near['distance']:.3g})" in line for near in state)
    assert len(found["timesteps"]) == len(found["path"]) == len(found["median"]) == len(found["states"])
    # What is nearest at the end are the best items of the list.
    if steps > 1:
        (listed, _) = explorer.answer(
            read_request({"history": HISTORY, "topk": 5, "settings": [{"inference_steps": steps}, {}]}, 2)
        )["lists"]
        assert [near["item"] for near in found["best"]] == listed["items"]
        np.testing.assert_allclose(found["draws"][0], found["path"][-1], atol=1e-3)


def test_of_a_small_catalogue_each_state_has_all_items(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_diffusion.explore.explorer.OF_STATE", 10**6)
    process = explorer.process(read_request({"history": HISTORY, "include_seen": True}, 2))[0]
    assert process is not None
    items = {one["item"] for one in process["states"][0]}
    assert len(items) == explorer.about()["items"] == len(process["states"][-1])


def test_a_held_out_item_has_its_rank_in_each_list(explorer: Explorer) -> None:
    whole = explorer.answer(read_request({"history": HISTORY, "topk": 50}, 2))["lists"]
    for place in (0, 17):
        item = whole[0]["items"][place]
        answer = explorer.answer(read_request({"history": HISTORY, "held_out": item, "topk": 3}, 2))
        assert answer["held_out"]["item"] == item and answer["lists"][0]["rank"] == place + 1
    assert answer["lists"][0]["candidates"] == len(explorer.vocabulary) - 3
    # What is in the history is left out, unless it may come again.
    asked = {"history": HISTORY, "held_out": "258", "topk": 3}
    assert explorer.answer(read_request(asked, 2))["lists"][0]["rank"] == 0
    again = explorer.answer(read_request({**asked, "include_seen": True}, 2))["lists"][0]
    assert again["rank"] > 0 and again["candidates"] == len(explorer.vocabulary)


def test_the_same_model_twice_with_other_settings(loaded: Callable[[str], Recommender]) -> None:
    twice = Explorer([loaded("DiffuRec"), loaded("DiffuRec")])
    assert [about["label"] for about in twice.about()["models"]] == ["A DiffuRec", "B DiffuRec"]
    asked = {"history": HISTORY, "settings": [{}, {"noise_scale": 2.0}]}
    first, second = twice.answer(read_request(asked, 2))["lists"]
    assert first["scores"] != second["scores"]
    assert twice.answer(read_request({"history": HISTORY}, 2))["lists"][1]["scores"] == first["scores"]


def test_the_csv_has_a_row_an_item(explorer: Explorer) -> None:
    asked = read_request({"history": HISTORY, "topk": 4, "settings": [{"inference_seeds": 2}, {}]}, 2)
    rows = list(csv.DictReader(io.StringIO(explorer.csv(asked))))
    lists = explorer.answer(asked)["lists"]
    assert [row["item"] for row in rows] == [*lists[0]["items"], *lists[1]["items"]]
    assert [row["model"] for row in rows] == ["A DiffuRec"] * 4 + ["B SASRec"] * 4
    assert [float(row["score"]) for row in rows] == [*lists[0]["scores"], *lists[1]["scores"]]
    assert [row["title"] for row in rows] == [*lists[0]["titles"], *lists[1]["titles"]]
    assert float(rows[0]["share"]) == lists[0]["share"][0] and rows[4]["share"] == ""


def test_users_come_with_their_last_item_held_out(explorer: Explorer) -> None:
    assert explorer.users("1") == {"users": [], "count": None, "problem": ""}
    with pytest.raises(UserError, match="the users of the dataset are still being read"):
        explorer.user("36")
    explorer.read_users()
    found = explorer.users("3")
    assert found["count"] == len(explorer.recommenders[0].users) and all(one[0] == "3" for one in found["users"])
    token = found["users"][0]
    picked = explorer.user(token)
    ids = explorer.recommenders[0].users.of(token)
    assert explorer.recommenders[0].vocabulary.ids([*picked["history"], picked["held_out"]]).tolist() == ids.tolist()
    assert explorer.user(None)["user"] in explorer.recommenders[0].users.tokens
    with pytest.raises(UserError, match="user 'nobody': not among the"):
        explorer.user("nobody")


def test_data_that_is_not_there_is_said(saved: Callable[..., Saved]) -> None:
    explorer = Explorer([Recommender.load(saved("DiffuRec").path, device="cpu", data_path="nowhere/at/all")])
    explorer.read_users()
    assert "nowhere" in explorer.users("")["problem"]
    with pytest.raises(UserError, match="nowhere"):
        explorer.user(None)


def test_an_error_of_the_program_is_said_too(
    explorer: Explorer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Recommender, "users", property(lambda self: 1 / 0))
    explorer.read_users()
    assert explorer.users("")["problem"] == "ZeroDivisionError: division by zero"
    assert "the users cannot be read" in caplog.text


def test_the_map_has_every_item(explorer: Explorer) -> None:
    for number in range(2):
        ground = explorer.ground(number)
        assert len(ground["names"]) == len(ground["spots"]) == len(explorer.vocabulary)
    spots = explorer.answer(read_request({"history": HISTORY, "held_out": "1", "topk": 2}, 2))["lists"][1]["spots"]
    names = [explorer.item(token)["title"] for token in HISTORY]
    assert spots["history"] == [ground["spots"][ground["names"].index(name)] for name in names]
    assert len(spots["items"]) == 2 and len(spots["held_out"]) == 1
    for number in (2, -1):
        with pytest.raises(UserError, match="model must be the number of a model"):
            explorer.ground(number)


def test_mistakes_are_named(explorer: Explorer) -> None:
    assert explorer.answer(read_request({}, 2)) == {"history": [], "held_out": None, "lists": []}
    for asked, message in (
        ({"history": ["50", "no such item"]}, "item 'no such item': not among the"),
        ({"history": HISTORY, "held_out": "no such item"}, "item 'no such item'"),
        ({"history": HISTORY, "topk": 0}, "topk must be from 1 to"),
        ({"history": HISTORY, "settings": [{"inference_steps": 33}, {}]}, "inference_steps must be from 1 to 32"),
    ):
        with pytest.raises(UserError, match=message):
            explorer.answer(read_request(asked, 2))
    # A refusal leaves no model locked.
    assert explorer.answer(read_request({"history": HISTORY}, 2))["lists"]


def test_models_of_other_items_are_refused(loaded: Callable[[str], Recommender], saved: Callable[..., Saved]) -> None:
    other = Recommender.load(saved("DiffuRec", user_inter_num_interval="[0,25]").path, device="cpu")
    message = "checkpoint must be of a model that knows the items of the first, .* items, .* of the first's"
    with pytest.raises(UserError, match=message):
        Explorer([loaded("SASRec"), other])


def test_titles_of_one_model_serve_both(
    loaded: Callable[[str], Recommender], saved: Callable[..., Saved], caplog: pytest.LogCaptureFixture
) -> None:
    bare = Recommender.load(saved("DiffuRec").path, device="cpu")
    bare.vocabulary.titles = None
    with caplog.at_level(logging.WARNING):
        first, second = Explorer([bare, loaded("SASRec")]).answer(read_request({"history": HISTORY}, 2))["lists"]
    assert first["titles"][0] == loaded("SASRec").vocabulary.names()[bare.vocabulary.ids(first["items"])[0]]
    assert second["titles"][0] != second["items"][0]
