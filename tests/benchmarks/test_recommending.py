from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import recommending
from recbole_diffusion.cli.exit_codes import run_command
from recbole_diffusion.inference import Recommender
from recbole_diffusion.training.run import train_and_test

SMALL = {
    "user_inter_num_interval": "[0,24]",
    "epochs": 1,
    "hidden_size": 16,
    "inner_size": 32,
    "n_layers": 1,
    "n_heads": 2,
    "checkpoint_dir": "saved",
    "log_dir": None,
    "tensorboard_dir": None,
    "gpu_id": "",
}


@pytest.mark.parametrize("model", ["DiffuRec", "SASRec"])
def test_one_json_object(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    train_and_test(model, "ml-100k", config_dict=SMALL)
    capsys.readouterr()
    monkeypatch.setattr(recommending, "MADE_UP_ITEMS", 3000)
    asked = []
    recommend_ids = Recommender.recommend_ids

    def spy(self: Recommender, users: Any, histories: Any, options: Any) -> Any:
        asked.append((len(self.vocabulary), self.model.item_embedding.embedding_dim, len(users)))
        return recommend_ids(self, users, histories, options)

    monkeypatch.setattr(Recommender, "recommend_ids", spy)
    assert run_command(lambda: recommending.run(["--checkpoint=saved", "--device=cpu", "--timed_users=7"])) == 0
    out, err = capsys.readouterr()
    figures = json.loads(out)
    recommender = Recommender.load("saved", device="cpu")
    here = {"items": len(recommender.vocabulary), "users": len(recommender.users)}
    assert {key: figures[key] for key in here} == here
    assert (figures["model"], figures["dataset"], figures["eval_steps"], figures["timed_users"]) == (
        model,
        "ml-100k",
        1,
        7,
    )
    assert figures["settings"]["hidden_size"] == 16 and figures["peak_rss_mb"] > 50
    assert figures["made_up"].pop("one_user_ms") > 0
    assert figures["made_up"] == {"items": 3000, "hidden_size": 64, "inner_size": 256}
    assert min(figures[key] for key in ("load_s", "one_user_ms", "read_users_s", "all_users_s")) > 0
    # Seven users and the warm-ups one by one, then all at once, then the same number of the made-up catalogue.
    assert asked == [(here["items"], 16, 1)] * 12 + [(here["items"], 16, here["users"])] + [(3000, 64, 1)] * 12
    assert "internal" not in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--timed_users=0"], "timed_users must be a positive whole number, got 0"),
        ([], "absent.pth: the checkpoint cannot be read"),
    ],
)
def test_mistakes_are_one_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: recommending.run(["--checkpoint=absent.pth", *flags])) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and message in err
    assert list(Path().iterdir()) == []
