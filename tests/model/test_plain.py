"""What every baseline of the package must be able to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from small_plans import SMALL as COMPARED
from small_plans import InThisProcess

from recbole_diffusion.cli.main import main
from recbole_diffusion.compare import local, study
from recbole_diffusion.errors import SettingError
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.inference import Recommender
from recbole_diffusion.training.run import Prepared, prepare, train_and_test

MODELS = ["BSARec", "LastItem", "SASRecPlus"]
SMALL: dict[str, Any] = {
    "user_inter_num_interval": "[0,30]",
    "hidden_size": 16,
    "MAX_ITEM_LIST_LENGTH": 10,
    "show_progress": False,
    "log_dir": None,
    "tensorboard_dir": None,
}
every_model = pytest.mark.parametrize("model", MODELS)


def prepared(model: str, **changes: Any) -> Prepared:
    return prepare(load_config(model, "ml-100k", None, {**SMALL, **changes}))


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A trained model's file."""
    done: dict[str, Path] = {}

    def train(model: str) -> Path:
        if model not in done:
            folder = str(tmp_path_factory.mktemp(model))
            settings = {**SMALL, "epochs": 1, "checkpoint_dir": folder}
            file = train_and_test(model, "ml-100k", config_dict=settings).model_file
            assert file is not None
            done[model] = file
        return done[model]

    return train


@pytest.mark.parametrize("model", ["BSARec", "LastItem"])
def test_the_loss_is_the_cross_entropy_over_all_items_but_the_padding(model: str) -> None:
    made = prepared(model)
    network = made.model.eval()
    batch = next(iter(made.train_data))
    scores = network.full_sort_predict(batch)
    assert scores.shape == (len(batch), network.n_items)
    expected = F.cross_entropy(scores[:, 1:], batch["item_id"] - 1)
    torch.testing.assert_close(network.calculate_loss(batch), expected)
    one_each = scores.gather(1, batch["item_id"][:, None])[:, 0]
    torch.testing.assert_close(network.predict(batch), one_each)


@every_model
def test_every_weight_is_trained(model: str) -> None:
    made = prepared(model)
    made.model.calculate_loss(next(iter(made.train_data))).backward()
    for name, parameter in made.model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@every_model
@torch.no_grad()
def test_scores_do_not_depend_on_the_batch(model: str) -> None:
    made = prepared(model)
    network = made.model.eval()
    batch = next(iter(made.valid_data))[0][:6]
    together = network.full_sort_predict(batch)
    alone = torch.cat([network.full_sort_predict(batch[[row]]) for row in range(6)])
    torch.testing.assert_close(alone, together, atol=1e-6, rtol=1e-5)


@every_model
def test_it_learns_and_resumes_exactly(model: str, tmp_path: Path) -> None:
    def run(**changes: Any) -> Any:
        settings = {**SMALL, "checkpoint_dir": str(tmp_path), "learning_rate": 0.01, **changes}
        return train_and_test(model, "ml-100k", config_dict=settings)

    whole, first = run(epochs=4), run(epochs=1)
    resumed = run(epochs=4, resume=str(first.model_file.with_suffix(".last.pth")))
    assert resumed.result == whole.result
    assert whole.result["best_valid_score"] > 2 * 0.003  # NDCG@10 of a random order of some 1,500 items


@every_model
def test_it_recommends_as_it_was_tested(model: str, checkpoint_of: Callable[[str], Path]) -> None:
    recommender = Recommender.load(checkpoint_of(model), device="cpu")
    users = recommender.users
    given = recommender.recommend([recommender.vocabulary.tokens[users.row(row)] for row in range(3)], topk=5)
    alone = recommender.recommend(recommender.vocabulary.tokens[users.row(1)], topk=5)
    assert given.items.shape == (3, 5)
    np.testing.assert_allclose(alone.scores[0], given.scores[1], rtol=1e-5)


@every_model
def test_it_has_no_reverse_process_to_explain(
    model: str, checkpoint_of: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", f"--checkpoint={checkpoint_of(model)}", "--history=50,172,1"]) == 2
    assert f"{model} has no reverse process to explain" in capsys.readouterr().err


def test_they_are_compared_without_an_off_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "start_process", InThisProcess)
    small = [f"--{key}={value}" for key, value in {**COMPARED, "epochs": "1"}.items()]
    models = ",".join(["Pop", *MODELS])
    argv = [f"--model_list={models}", "--seeds=1", f"--output={tmp_path / 'out'}", *small]
    assert main(["compare", "--dataset=ml-100k", *argv]) == 0
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert all(name in report for name in ("Pop", *MODELS)) and "-off" not in report


@every_model
def test_it_is_tuned(model: str) -> None:
    small = [f"--{key}={value}" for key, value in {**COMPARED, "epochs": "1"}.items()]
    assert main(["tune", "--dataset=ml-100k", f"--model_list={model}", "--trials=1", *small]) == 0
    best = yaml.safe_load(Path("tune", "ml-100k", model, "best.yaml").read_text(encoding="utf-8"))
    assert best.keys() == study.read_space(model).keys()


@pytest.mark.parametrize(
    ("model", "key", "value", "must"),
    [
        ("LastItem", "hidden_size", 0, "be positive"),
        ("LastItem", "embedding_dropout_prob", 1.0, "be from 0 to below 1"),
        ("LastItem", "shared_vectors", "maybe", "be True or False"),
    ],
)
def test_mistakes_are_named(model: str, key: str, value: Any, must: str) -> None:
    with pytest.raises(SettingError, match=f"{key} must {must}, got"):
        load_config(model, "ml-100k", None, {key: value})
