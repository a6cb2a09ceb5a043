from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import Run, last_file, make

from recbole_diffusion.errors import UserError
from recbole_diffusion.training import checkpoint


def by_token(run: Run) -> dict[str, torch.Tensor]:
    dataset = run.train._dataset
    names = [str(token) for token in dataset.field2id_token[dataset.iid_field]]
    return dict(zip(names, run.trainer.model.item_embedding.weight.detach().clone(), strict=False))


@pytest.fixture
def other(tmp_path: Path) -> Run:
    """A SASRec of RecBole's on fewer users, and hence on other items with other numbers."""
    run = make(tmp_path / "other", epochs=1, user_inter_num_interval="[27,28]")
    run.fit()
    return run


def test_items_start_from_the_embedding_of_their_token(
    tmp_path: Path, other: Run, caplog: pytest.LogCaptureFixture
) -> None:
    run = make(tmp_path, "DiffuRec", pretrained_embeddings=other.trainer.saved_model_file)
    before, given = by_token(run), by_token(other)
    shared = [token for token in before if token in given and token != "[PAD]"]
    assert 100 < len(shared) < len(before) - 1
    with caplog.at_level("INFO"):
        run.trainer.take_embeddings(run.train)
    after = by_token(run)
    for token, embedding in after.items():
        assert torch.equal(embedding, given[token] if token in shared else before[token])
    unknown = len(before) - 1 - len(shared)
    assert f"{len(shared)} of {len(before) - 1} items are in {other.trainer.saved_model_file}" in caplog.text
    assert f"{unknown} are unknown there and keep their start" in caplog.text


def test_training_starts_from_them_once(tmp_path: Path, other: Run) -> None:
    run = make(tmp_path, pretrained_embeddings=str(tmp_path / "other"), learning_rate=1e-12, epochs=1, ema_decay=0.5)
    run.fit()
    given, after = by_token(other), by_token(run)
    averaged = run.trainer.steps.average.state["item_embedding.weight"]
    shared = [token for token in after if token in given and token != "[PAD]"]
    for token in shared:
        torch.testing.assert_close(after[token], given[token], atol=1e-6, rtol=0)
    torch.testing.assert_close(averaged, run.trainer.model.item_embedding.weight, atol=1e-6, rtol=0)
    trained = run.trainer.model.item_embedding.weight.detach().clone()
    run.trainer.take_embeddings(run.train)
    assert torch.equal(run.trainer.model.item_embedding.weight, trained)


def test_a_resumed_run_does_not_read_them_again(tmp_path: Path, other: Run) -> None:
    path = Path(other.trainer.saved_model_file)
    straight = make(tmp_path, epochs=4, pretrained_embeddings=str(path))
    expected = straight.fit()
    broken = make(tmp_path, epochs=2, pretrained_embeddings=str(path))
    broken.fit()
    path.unlink()
    resumed = make(tmp_path, epochs=4, pretrained_embeddings=str(path))
    resumed.trainer.resume_checkpoint(last_file(broken.trainer), resumed.train)
    assert resumed.fit() == expected
    assert resumed.trainer.train_loss_dict == straight.trainer.train_loss_dict


def test_a_resumed_run_is_not_given_others(tmp_path: Path, other: Run) -> None:
    path = other.trainer.saved_model_file
    broken = make(tmp_path, epochs=1)
    broken.fit()
    last = last_file(broken.trainer)
    resumed = make(tmp_path, pretrained_embeddings=path)
    with pytest.raises(UserError, match=rf"pretrained_embeddings must be None, as in {last}, or ~: .*, got '{path}'"):
        resumed.trainer.resume_checkpoint(last, resumed.train)


def test_a_resumed_run_need_not_name_them(tmp_path: Path, other: Run, caplog: pytest.LogCaptureFixture) -> None:
    broken = make(tmp_path, epochs=1, pretrained_embeddings=other.trainer.saved_model_file)
    broken.fit()
    resumed = make(tmp_path)
    caplog.clear()
    resumed.trainer.resume_checkpoint(last_file(broken.trainer), resumed.train)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("SASRec", {"hidden_size": 32}, "hidden_size must be 16, the size in {file}, got 32"),
        ("GRU4Rec", {"embedding_size": 8}, "embedding_size must be 16, the size in {file}, got 8"),
        ("Pop", {}, "pretrained_embeddings must be ~, as Pop has no item_embedding, got '{file}'"),
    ],
)
def test_a_model_that_they_do_not_fit_is_refused(
    tmp_path: Path, other: Run, model: str, settings: dict[str, Any], message: str
) -> None:
    file = other.trainer.saved_model_file
    run = make(tmp_path, model, pretrained_embeddings=file, **settings)
    with pytest.raises(UserError, match=re.escape(message.format(file=file))) as error:
        run.fit()
    assert "\n" not in str(error.value)


def test_a_checkpoint_without_item_embeddings_is_refused(tmp_path: Path) -> None:
    pop = make(tmp_path, "Pop", epochs=1)
    pop.fit()
    run = make(tmp_path, pretrained_embeddings=pop.trainer.saved_model_file)
    with pytest.raises(UserError, match="must be of a model with an item_embedding; Pop has none"):
        run.trainer.take_embeddings(run.train)
    checkpoint.load(pop.trainer.saved_model_file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    run = make(tmp_path, pretrained_embeddings=str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match=r"none\.pth: the checkpoint cannot be read"):
        run.fit()
