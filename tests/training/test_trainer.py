from __future__ import annotations

import errno
import math
import os
import random
import sys
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from killing import workers
from recbole.utils import init_seed
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recbole_diffusion.common import log
from recbole_diffusion.common.deadline import Deadline
from recbole_diffusion.errors import SettingError, UserError
from recbole_diffusion.host.dataset import build_dataset
from recbole_diffusion.host.loaders import build_loaders
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.training import checkpoint, trainer
from recbole_diffusion.training.trainer import Epoch, Trainer, TrainingError, build_trainer

SMALL = {
    "user_inter_num_interval": "[27,30]",
    "MAX_ITEM_LIST_LENGTH": 10,
    "train_batch_size": 200,
    "eval_batch_size": 512,
    "metric_decimal_place": 8,
    "log_dir": None,
    "tensorboard_dir": None,
    "gpu_id": "",
}
TRANSFORMER = {"hidden_size": 16, "inner_size": 32, "n_layers": 1, "n_heads": 2}
SIZES = {
    "SASRec": TRANSFORMER,
    "DiffuRec": {**TRANSFORMER, "diffusion_steps": 12},
    "DiffRec": {**TRANSFORMER, "diffusion_steps": 12},
    "GRU4Rec": {"hidden_size": 16, "embedding_size": 16},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads cost more than they give at these sizes, most of all where other processes want the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Stopped(Exception):
    """Stands for whatever ends a run in the middle."""


class Run(SimpleNamespace):
    trainer: Trainer
    train: Any
    valid: Any
    test: Any

    def fit(self, **options: Any) -> Any:
        return self.trainer.fit(self.train, self.valid, **options)


def make(folder: Path, model: str | type = "SASRec", **settings: Any) -> Run:
    """Build everything anew, as a new process does."""
    sizes = SIZES.get(model if isinstance(model, str) else model.__name__, {})
    config = load_config(
        model, "ml-100k", None, {**SMALL, **sizes, "checkpoint_dir": str(folder), "epochs": 2, **settings}
    )
    init_seed(config["seed"], config["reproducibility"])
    train, valid, test = build_loaders(config, build_dataset(config))
    network = config.model_class(config, train._dataset).to(config["device"])
    return Run(trainer=build_trainer(config, network), train=train, valid=valid, test=test)


def stop_after(epoch: int) -> Any:
    def stop(at: int, score: float) -> None:
        if at == epoch:
            raise Stopped

    return stop


def last_file(trainer: Trainer) -> Path:
    return checkpoint.last_path(trainer.saved_model_file)


def give_scores(monkeypatch: pytest.MonkeyPatch, trainer: Trainer, scores: list[float]) -> None:
    given = iter(scores)
    monkeypatch.setattr(trainer, "_valid_epoch", lambda *a, **k: ((s := next(given)), {"ndcg@10": s}))


def test_training_leaves_best_and_last_and_returns_plain_floats(tmp_path: Path) -> None:
    run = make(tmp_path)
    score, result = run.fit()
    assert sorted(tmp_path.iterdir()) == sorted([Path(run.trainer.saved_model_file), last_file(run.trainer)])
    assert type(score) is float
    assert score == result["ndcg@10"] > 0

    in_memory = run.trainer.evaluate(run.test)
    assert {type(value) for value in in_memory.values()} == {float}
    other = make(tmp_path)
    from_file = other.trainer.evaluate(other.test, model_file=run.trainer.saved_model_file)
    assert from_file == in_memory
    assert other.trainer.evaluate(other.test, load_best_model=False) == in_memory


def test_what_follows_the_training_must_fit_before_the_deadline_where_an_epoch_may_be_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path, epochs=5, stopping_step=1)
    give_scores(monkeypatch, run.trainer, [0.1, 0.2, 0.1, 0.3, 0.4])
    required: list[float] = []
    monkeypatch.setattr(Deadline, "require", lambda self, seconds, what: required.append(seconds))
    run.trainer.validations_after = 1e12
    run.fit(saved=False)
    # One more miss would end it after the third, and the fifth is the last.
    assert [seconds > 1e3 for seconds in required] == [False, False, False, True, True]
    # The first epoch takes nobody knows how long.
    assert required[0] == 0 < min(required[1:])


def test_training_learns(tmp_path: Path) -> None:
    run = make(tmp_path, epochs=4)
    run.fit(saved=False)
    losses = list(run.trainer.train_loss_dict.values())
    assert losses == sorted(losses, reverse=True)
    assert list(tmp_path.glob("*.pth")) == []


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("SASRec", {}),
        ("SASRec", {"length_batching": True, "lr_step_size": 2, "learner": "adamw", "weight_decay": 0.01}),
        ("SASRec", {"loss_type": "BPR", "eval_args": {"mode": "uni20"}}),
        ("BERT4Rec", TRANSFORMER),
        ("DiffuRec", {"step_sampler": "lossaware"}),
        ("DiffRec", {"step_sampler": "lossaware"}),
        ("RecVAE", {"hidden_dimension": 16, "latent_dimension": 8, "n_enc_epochs": 2}),
        ("SASRec", {"ema_decay": 0.9}),
        ("SASRec", {"warmup_steps": 30, "lr_step_size": 3}),
        ("SASRec", {"lr_cosine_epochs": 4, "warmup_steps": 30}),
        ("SASRec", {"frozen_epochs": 3, "learner": "adamw", "weight_decay": 0.1}),
        ("DiffuRec", {"ema_decay": 0.9, "warmup_steps": 30, "frozen_epochs": 1, "frozen": ["item_embedding"]}),
    ],
)
def test_a_resumed_run_reaches_what_the_unbroken_one_reaches(
    tmp_path: Path, model: str, settings: dict[str, Any]
) -> None:
    straight = make(tmp_path, model, epochs=4, **settings)
    expected = straight.fit()

    broken = make(tmp_path, model, epochs=4, **settings)
    with pytest.raises(Stopped):
        broken.fit(callback_fn=stop_after(1))
    # A new process does not start from the random state in which the broken one ended.
    init_seed(99, True)
    resumed = make(tmp_path, model, epochs=4, **settings)
    torch.rand(7), np.random.rand(7), random.random()
    resumed.trainer.resume_checkpoint(last_file(broken.trainer), resumed.train)
    assert resumed.fit() == expected
    assert resumed.trainer.train_loss_dict == straight.trainer.train_loss_dict
    assert resumed.trainer.evaluate(resumed.test) == straight.trainer.evaluate(straight.test)
    assert resumed.trainer.saved_model_file != broken.trainer.saved_model_file
    for there, here in zip(
        straight.trainer.model.state_dict().values(), resumed.trainer.model.state_dict().values(), strict=True
    ):
        assert torch.equal(there, here)
    # And so are the last states, whose weights are not those of the best.
    last = [checkpoint.load(last_file(run.trainer)) for run in (straight, resumed)]
    assert last[0]["steps"] == last[1]["steps"] >= 4 * len(straight.train)
    for part in ("state_dict", "average"):
        for name, tensor in (last[0][part] or {}).items():
            assert torch.equal(tensor, last[1][part][name])


def test_a_resumed_run_keeps_the_best_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = make(tmp_path, epochs=3)
    give_scores(monkeypatch, broken.trainer, [0.5, 0.1])
    with pytest.raises(Stopped):
        broken.fit(callback_fn=stop_after(1))
    best = checkpoint.load(broken.trainer.saved_model_file)
    assert (best["epoch"], best["best_state_dict"]) == (0, None)
    last = checkpoint.load(last_file(broken.trainer))
    assert (last["epoch"], last["best_epoch"], last["cur_step"]) == (1, 0, 1)

    resumed = make(tmp_path, epochs=3)
    resumed.trainer.resume_checkpoint(last_file(broken.trainer))
    give_scores(monkeypatch, resumed.trainer, [0.2])
    assert resumed.fit() == (0.5, {"ndcg@10": 0.5})
    kept = checkpoint.load(resumed.trainer.saved_model_file)
    assert resumed.trainer.cur_step == 2
    monkeypatch.undo()
    resumed.trainer.evaluate(resumed.test)
    for name, tensor in resumed.trainer.model.state_dict().items():
        assert torch.equal(tensor, best["state_dict"][name])
        assert torch.equal(tensor, checkpoint.best_weights(kept)["state_dict"][name])
    assert not torch.equal(last["state_dict"]["item_embedding.weight"], tensor_of(best))


def tensor_of(state: dict[str, Any]) -> torch.Tensor:
    return state["state_dict"]["item_embedding.weight"]


def test_a_best_checkpoint_can_be_resumed_with_more_epochs(tmp_path: Path) -> None:
    straight = make(tmp_path, epochs=3)
    expected = straight.fit()
    short = make(tmp_path, epochs=1)
    short.fit()
    resumed = make(tmp_path, epochs=3)
    resumed.trainer.resume_checkpoint(short.trainer.saved_model_file)
    assert resumed.fit() == expected


def test_a_finished_run_is_not_trained_further_but_evaluated(tmp_path: Path) -> None:
    run = make(tmp_path)
    expected = run.fit()
    resumed = make(tmp_path)
    resumed.trainer.resume_checkpoint(last_file(run.trainer), resumed.train)
    assert resumed.fit() == expected
    assert resumed.trainer.evaluate(resumed.test) == run.trainer.evaluate(run.test)
    assert Path(resumed.trainer.saved_model_file).exists()


def test_a_run_that_stopped_early_does_not_go_on_when_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path, epochs=9, stopping_step=1)
    give_scores(monkeypatch, run.trainer, [0.5, 0.1, 0.1])
    run.fit()
    resumed = make(tmp_path, epochs=9, stopping_step=1)
    resumed.trainer.resume_checkpoint(last_file(run.trainer))
    assert resumed.fit() == (0.5, {"ndcg@10": 0.5})
    assert sorted(resumed.trainer.train_loss_dict) == [0, 1, 2]


def test_no_epoch_means_no_training(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.trainer.epochs = 0
    before = tensor_of(checkpoint.weights(run.trainer.model)).clone()
    assert run.fit() == (-math.inf, None)
    assert torch.equal(tensor_of(checkpoint.load(run.trainer.saved_model_file)), before)
    assert run.trainer.evaluate(run.test)["hit@10"] >= 0


@pytest.mark.parametrize("miss", [0.1, math.nan])
def test_early_stopping_takes_one_miss_more_than_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, miss: float
) -> None:
    run = make(tmp_path, epochs=20, stopping_step=2)
    give_scores(monkeypatch, run.trainer, [0.1, 0.3, miss, 0.3, miss, miss, miss])
    assert run.fit() == (0.3, {"ndcg@10": 0.3})
    assert sorted(run.trainer.train_loss_dict) == list(range(7))
    assert checkpoint.load(run.trainer.saved_model_file)["epoch"] == 3


def test_where_every_score_is_nan_the_last_state_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path, epochs=2)
    give_scores(monkeypatch, run.trainer, [math.nan, math.nan])
    assert run.fit() == (-math.inf, None)
    monkeypatch.undo()
    assert checkpoint.load(run.trainer.saved_model_file)["epoch"] == 1
    assert run.trainer.evaluate(run.test)["hit@10"] >= 0


def test_without_validation_the_last_state_is_the_best(tmp_path: Path) -> None:
    run = make(tmp_path)
    assert run.trainer.fit(run.train) == (-math.inf, None)
    assert checkpoint.load(run.trainer.saved_model_file)["epoch"] == 1


def test_validation_every_second_epoch(tmp_path: Path) -> None:
    seen: list[int] = []
    run = make(tmp_path, epochs=4, eval_step=2)
    run.fit(callback_fn=lambda epoch, score: seen.append(epoch))
    assert seen == [1, 3]


def test_the_callback_gets_every_epoch_before_its_checkpoints_are_written(tmp_path: Path) -> None:
    seen: list[Epoch] = []
    run = make(tmp_path, epochs=4, eval_step=2)

    def note(epoch: Epoch) -> None:
        seen.append(epoch)
        if epoch.number:
            assert checkpoint.load(last_file(run.trainer))["epoch"] == epoch.number - 1

    run.fit(on_epoch_end=note)
    assert [epoch.number for epoch in seen] == [0, 1, 2, 3]
    assert [epoch.loss * len(run.train) for epoch in seen] == pytest.approx(list(run.trainer.train_loss_dict.values()))
    assert all(epoch.seconds > 0 for epoch in seen)
    assert [epoch.valid_score is None for epoch in seen] == [True, False, True, False]
    assert max(seen[1].valid_score or 0, seen[3].valid_score or 0) == run.trainer.best_valid_score
    assert seen[1].valid_seconds is not None and seen[1].valid_seconds > 0


def test_the_learning_rate_falls_by_steps(tmp_path: Path) -> None:
    rates: list[float] = []
    run = make(tmp_path, epochs=5, lr_step_size=2, lr_gamma=0.1, learning_rate=0.01)
    run.fit(saved=False, callback_fn=lambda *_: rates.append(run.trainer.optimizer.param_groups[0]["lr"]))
    assert rates == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4])


def test_the_learning_rate_of_a_resumed_run_is_that_of_its_settings(tmp_path: Path) -> None:
    run = make(tmp_path, epochs=1, learning_rate=0.01)
    run.fit()
    resumed = make(tmp_path, epochs=2, learning_rate=0.002)
    resumed.trainer.resume_checkpoint(last_file(run.trainer))
    assert resumed.trainer.optimizer.param_groups[0]["lr"] == 0.002
    there, here = run.trainer.optimizer.state_dict(), resumed.trainer.optimizer.state_dict()
    assert torch.equal(there["state"][0]["exp_avg"], here["state"][0]["exp_avg"])


def test_a_resumed_run_tells_each_setting_that_has_changed_and_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make(tmp_path, epochs=1, model="DiffuRec", learning_rate=0.01)
    run.fit()
    path = last_file(run.trainer)
    # More epochs, and what is told of them, change nothing in how it is trained.
    other = {"learning_rate": 0.002, "inference_steps": 3, "train_batch_size": 100}
    resumed = make(tmp_path, epochs=2, model="DiffuRec", topk=[5, 10], loss_decimal_place=2, threads=1, **other)
    caplog.clear()
    resumed.trainer.resume_checkpoint(path, resumed.train)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert sorted(told) == [
        f"inference_steps is 3 from here on; {path} was trained with 1",
        f"learning_rate is 0.002 from here on; {path} was trained with 0.01",
        f"train_batch_size is 100 from here on; {path} was trained with 200",
    ]


def spoil(monkeypatch: pytest.MonkeyPatch, run: Run, batch: int, value: float = math.nan) -> None:
    """Let the loss of one batch, counted from the start of the run, be `value`."""
    numbers, calculate = count(1), run.trainer.model.calculate_loss
    monkeypatch.setattr(
        run.trainer.model,
        "calculate_loss",
        lambda data: calculate(data) * (value if next(numbers) == batch else 1),
    )


def finite(path: Path | str) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in checkpoint.load(path)["state_dict"].values())


@pytest.mark.parametrize(("value", "settings"), [(math.nan, {}), (math.inf, {"length_batching": True})])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, settings: dict[str, Any]
) -> None:
    run = make(tmp_path, epochs=3, train_batch_size=16, **settings)
    batches = len(run.train)
    assert batches > 60
    spoil(monkeypatch, run, batches + 57, value)
    with pytest.raises(TrainingError) as error:
        run.fit()
    message = str(error.value)
    assert f"loss is {value} at epoch 1, batch 57 of {batches}" in message
    assert "learning_rate=0.001" in message
    assert str(last_file(run.trainer)) in message
    assert "\n" not in message
    assert checkpoint.load(last_file(run.trainer))["epoch"] == 0
    assert finite(last_file(run.trainer))
    assert finite(run.trainer.saved_model_file)


def test_a_learning_rate_far_too_high_is_named(tmp_path: Path) -> None:
    run = make(tmp_path, learner="sgd", learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"learning_rate=1e\+30 is probably too high; no checkpoint was saved yet"):
        run.fit()
    assert list(tmp_path.glob("*.pth")) == []


def test_nan_before_any_step_points_to_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path)
    spoil(monkeypatch, run, 1)
    with pytest.raises(TrainingError, match="a setting is far out of range, or the data hold NaN or infinity"):
        run.fit()


def test_weights_spoilt_by_the_last_step_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path, epochs=3)
    train = run.trainer._train_epoch

    def spoilt(data: Any, epoch: int, **options: Any) -> Any:
        losses = train(data, epoch, **options)
        if epoch == 1:
            with torch.no_grad():
                run.trainer.model.item_embedding.weight[3, 2] = math.nan
        return losses

    monkeypatch.setattr(run.trainer, "_train_epoch", spoilt)
    with pytest.raises(TrainingError, match=r"item_embedding\.weight is not finite at the end of epoch 1"):
        run.fit()
    assert finite(last_file(run.trainer))
    assert finite(run.trainer.saved_model_file)
    with pytest.raises(TrainingError):
        run.trainer._save_checkpoint(1)
    assert finite(run.trainer.saved_model_file)


def test_a_failure_that_follows_from_nan_is_reported_as_nan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path)
    numbers, calculate = count(1), run.trainer.model.calculate_loss

    def calculate_loss(data: Any) -> Any:
        number = next(numbers)
        if number == 5:
            raise RuntimeError("probability tensor contains either inf, nan or element < 0")
        return calculate(data) * (math.nan if number == 3 else 1)

    monkeypatch.setattr(run.trainer.model, "calculate_loss", calculate_loss)
    with pytest.raises(TrainingError, match="batch 3 of"):
        run.fit()


def test_a_failure_of_the_models_own_is_raised_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path)

    def fails(data: Any) -> Any:
        raise RuntimeError("shapes")

    monkeypatch.setattr(run.trainer.model, "calculate_loss", fails)
    with pytest.raises(RuntimeError, match="shapes"):
        run.fit()


def test_parts_of_a_loss_are_summed_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path, epochs=1)
    calculate = run.trainer.model.calculate_loss
    monkeypatch.setattr(run.trainer.model, "calculate_loss", lambda data: (calculate(data), torch.tensor(0.5)))
    losses = run.trainer._train_epoch(run.train, 0)
    plain = make(tmp_path, epochs=1)
    assert losses == (plain.trainer._train_epoch(plain.train, 0), 0.5 * len(run.train))


def test_half_precision_and_clipping_train(tmp_path: Path) -> None:
    clip = {"max_norm": 1e-3, "norm_type": 2}
    run = make(tmp_path, epochs=1, enable_amp=True, clip_grad_norm=clip, learner="sgd", learning_rate=0.5)
    before = checkpoint.weights_copy(run.trainer.model)["state_dict"]
    run.fit(saved=False)
    after = run.trainer.model.state_dict()
    moved = math.sqrt(sum(float((after[name] - before[name]).square().sum()) for name in after))
    assert 0 < moved <= 1.001 * 0.5 * 1e-3 * len(run.train)


def test_topk_above_the_catalogue_is_refused_before_training(tmp_path: Path) -> None:
    run = make(tmp_path, topk=[5, 5000], valid_metric="NDCG@5")
    items = run.train._dataset.item_num - 1
    with pytest.raises(SettingError, match=rf"topk must hold numbers of at most {items}.*, got \[5, 5000\]"):
        run.fit()
    assert run.trainer.train_loss_dict == {}


@pytest.mark.parametrize("mode", ["full", "uni20"])
def test_evaluation_leaves_the_random_state_of_training_alone(tmp_path: Path, mode: str) -> None:
    run = make(tmp_path, eval_args={"mode": mode})
    before = checkpoint.random_state()
    first = run.trainer.evaluate(run.valid, load_best_model=False)
    after = checkpoint.random_state()
    assert after["python"] == before["python"]
    assert torch.equal(after["torch"], before["torch"])
    assert (after["numpy"][1] == before["numpy"][1]).all()
    assert after["numpy"][2:] == before["numpy"][2:]
    assert run.trainer.evaluate(run.valid, load_best_model=False) == first


def test_evaluation_that_draws_leaves_the_random_state_alone_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make(tmp_path)
    predict = run.trainer.model.full_sort_predict

    def noisy(data: Any) -> Any:
        return predict(data) + torch.randn(()) + np.random.rand() + random.random()

    monkeypatch.setattr(run.trainer.model, "full_sort_predict", noisy)
    init_seed(7, True)
    expected = (torch.rand(3).tolist(), np.random.rand(), random.random())
    init_seed(7, True)
    run.trainer.evaluate(run.valid, load_best_model=False)
    assert (torch.rand(3).tolist(), np.random.rand(), random.random()) == expected


@pytest.mark.parametrize("nothing", [None, []])
def test_nothing_to_evaluate_gives_no_metrics(tmp_path: Path, nothing: Any) -> None:
    assert make(tmp_path).trainer.evaluate(nothing) == {}


@pytest.mark.parametrize(("whole", "calls"), [(True, 1), (False, 3)])
def test_only_a_model_that_asks_for_it_is_given_whole_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool, calls: int
) -> None:
    run = make(tmp_path)
    batch = next(iter(run.train))
    rows = len(batch)
    run.trainer.test_batch_size = -(-rows // 3)
    run.trainer.model.eval()
    expected = run.trainer.model.predict(batch)
    predict, sizes = run.trainer.model.predict, []
    monkeypatch.setattr(run.trainer.model, "predicts_whole_batches", whole, raising=False)
    monkeypatch.setattr(run.trainer.model, "predict", lambda data: (sizes.append(len(data)), predict(data))[1])
    torch.testing.assert_close(run.trainer._spilt_predict(batch, rows), expected)
    assert len(sizes) == calls
    assert sum(sizes) == rows


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("GRU4Rec", {}, "model must be SASRec, as in .*, got 'GRU4Rec'"),
        ("SASRec", {"hidden_size": 32, "hidden_dropout_prob": 0.1}, "hidden_size must be 16, as in .*, got 32"),
        ("SASRec", {"n_layers": 2}, "n_layers must be 1, as in .*, got 2"),
        # Tensors of the same shapes, and yet another model, other data or other noise:
        ("SASRec", {"n_heads": 4}, "n_heads must be 2, as in .*, got 4"),
        ("SASRec", {"seed": 7}, "seed must be 2020, as in .*, got 7"),
        ("SASRec", {"eval_args": {"split": {"LS": "test_only"}}}, "eval_args must be .*, as in "),
        ("SASRec", {"MAX_ITEM_LIST_LENGTH": 12}, "MAX_ITEM_LIST_LENGTH must be 10, as in .*, got 12"),
        (
            "SASRec",
            {"user_inter_num_interval": "[27,29]"},
            r"of another catalogue: it knows 503 items, not the",
        ),
        ("SASRec", {"learner": "sgd"}, "learner must be adam to resume .*, got 'sgd'"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    tmp_path: Path, model: str, settings: dict[str, Any], message: str
) -> None:
    run = make(tmp_path, epochs=1)
    run.fit()
    path = last_file(run.trainer)
    other = make(tmp_path, model, **settings)
    before = {name: tensor.clone() for name, tensor in other.trainer.model.state_dict().items()}
    with pytest.raises(UserError, match=message) as error:
        other.trainer.resume_checkpoint(path, other.train)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    for name, tensor in other.trainer.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    if not settings.keys() & {"learner", "seed", "eval_args"}:  # what weights alone do not depend on
        with pytest.raises(UserError, match=message):
            other.trainer.evaluate(other.test, model_file=path)


def test_a_damaged_checkpoint_is_not_resumed(tmp_path: Path) -> None:
    run = make(tmp_path, epochs=1)
    run.fit()
    state = checkpoint.load(last_file(run.trainer))
    missing = [{name: part for name, part in state.items() if name != key} for key in checkpoint.TRAINING_FORM]
    other = [{**state, key: "x"} for key in checkpoint.TRAINING_FORM]
    moments = {**state["optimizer"]["optimizer"], "state": {0: {"exp_avg": torch.zeros(3)}}}
    inside = [{"optimizer": {}}, {"optimizer": {"optimizer": moments}}, {"attributes": {"nosuch.part": 3}}]
    inside += [{"epoch": -5}, {"random": {}}, {"loader_random": []}]
    resumed, path = make(tmp_path), tmp_path / "odd.pth"
    for changed in (*missing, *other, *({**state, **part} for part in inside)):
        checkpoint.save(path, changed)
        with pytest.raises(UserError, match="is damaged") as error:
            resumed.trainer.resume_checkpoint(path, resumed.train)
            resumed.fit()
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_another_catalogue_of_the_same_size_is_refused_when_training_starts(tmp_path: Path) -> None:
    run = make(tmp_path, epochs=1)
    run.fit()
    state = checkpoint.load(last_file(run.trainer))
    state["item_tokens"][1], state["item_tokens"][2] = state["item_tokens"][2], state["item_tokens"][1]
    checkpoint.save(tmp_path / "other.pth", state)
    resumed = make(tmp_path)
    resumed.trainer.resume_checkpoint(tmp_path / "other.pth")
    with pytest.raises(UserError, match="it knows 503 items, others than the 503 of this dataset"):
        resumed.fit()


@pytest.mark.parametrize(
    ("model", "settings", "kind"),
    [
        ("Pop", {}, "Trainer"),
        ("EASE", {}, "TraditionalTrainer"),
        ("ItemKNN", {}, "TraditionalTrainer"),
        ("DMF", {"user_hidden_size_list": [8], "item_hidden_size_list": [8]}, "Trainer"),
        ("SASRecF", {**TRANSFORMER, "selected_features": ["class"], "load_col": None}, "Trainer"),
        ("RecVAE", {"hidden_dimension": 16, "latent_dimension": 8}, "RecVAETrainer"),
        ("CKE", {"embedding_size": 8, "kg_embedding_size": 8, "load_col": None}, "KGTrainer"),
    ],
)
def test_recboles_models_are_trained_saved_and_read_again(
    tmp_path: Path, model: str, settings: dict[str, Any], kind: str
) -> None:
    run = make(tmp_path, model, epochs=1, eval_step=5, **settings)
    assert type(run.trainer).__name__ == kind
    assert isinstance(run.trainer, Trainer)
    run.fit()
    expected = run.trainer.evaluate(run.test)
    other = make(tmp_path, model, epochs=1, **settings)
    assert other.trainer.evaluate(other.test, model_file=run.trainer.saved_model_file) == expected


def test_pretraining_saves_what_fine_tuning_reads(tmp_path: Path) -> None:
    settings = {
        **TRANSFORMER,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]},
        "item_attribute": "class",
        "pretrain_epochs": 1,
        "train_batch_size": 200,
    }
    run = make(tmp_path, "S3Rec", **settings, train_stage="pretrain")
    assert type(run.trainer).__name__ == "S3RecTrainer"
    epochs: list[Epoch] = []
    assert run.fit(on_epoch_end=epochs.append) == (-math.inf, None)
    assert [epoch.number for epoch in epochs] == [0]
    tuned = make(tmp_path, "S3Rec", **settings, train_stage="finetune", pre_model_path=run.trainer.saved_model_file)
    assert torch.equal(
        tensor_of(checkpoint.weights(tuned.trainer.model)),
        tensor_of(checkpoint.load(run.trainer.saved_model_file)),
    )
    assert tuned.fit()[0] > 0


def test_a_model_is_known_by_its_class_not_by_its_name(tmp_path: Path) -> None:
    from recbole.model.sequential_recommender import SASRec

    class RecVAE(SASRec):
        pass

    run = make(tmp_path, RecVAE, **TRANSFORMER)
    assert type(run.trainer) is Trainer


def test_dynamic_negatives_are_scored_by_the_model(tmp_path: Path) -> None:
    run = make(
        tmp_path,
        epochs=1,
        loss_type="BPR",
        train_neg_sample_args={
            "distribution": "uniform",
            "sample_num": 1,
            "alpha": 1.0,
            "dynamic": True,
            "candidate_num": 2,
        },
    )
    run.fit(saved=False)
    assert run.train.model is run.trainer.model


def test_tensorboard_gets_a_folder_a_run(tmp_path: Path) -> None:
    for _ in range(2):
        run = make(tmp_path / "saved", tensorboard_dir=str(tmp_path / "board"))
        score, _result = run.fit()
    folders = sorted((tmp_path / "board").iterdir())
    assert len(folders) == 2
    assert Path(run.trainer.saved_model_file).stem in {folder.name for folder in folders}
    record = EventAccumulator(str(tmp_path / "board" / Path(run.trainer.saved_model_file).stem)).Reload()
    losses = [event.value for event in record.Scalars("Loss/Train")]
    assert losses == pytest.approx(list(run.trainer.train_loss_dict.values()))
    assert max(event.value for event in record.Scalars("Vaild_score")) == pytest.approx(score)


def test_without_a_tensorboard_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "saved", epochs=1).fit()
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_a_tensorboard_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="tensorboard_dir"):
        make(tmp_path / "saved", tensorboard_dir=str(tmp_path / "file"))


def test_a_full_disk_ends_tensorboards_record_not_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make(tmp_path / "saved", tensorboard_dir=str(tmp_path / "board"))

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    run.trainer.tensorboard._writer.add_scalar = full
    score, _ = run.fit()
    assert score > 0
    assert caplog.text.count("cannot be written to ([Errno 28] No space left on device)") == 1


def test_wandb_gets_recboles_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, Any]] = []
    wandb = SimpleNamespace(
        __spec__=SimpleNamespace(),
        run=SimpleNamespace(summary={}),
        define_metric=lambda *a, **k: None,
        log=lambda metrics, commit: logged.append(metrics),
    )
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    run = make(tmp_path, log_wandb=True)
    run.fit(saved=False)
    assert [entry["train_step"] for entry in logged[::2]] == [0, 1]
    assert [entry["valid_step"] for entry in logged[1::2]] == [0, 1]
    assert logged[0]["train/train_loss"] == run.trainer.train_loss_dict[0]
    assert wandb.run.summary["eval/ndcg@10"] == logged[-1]["valid/ndcg@10"]


def test_without_wandb_its_setting_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="log_wandb=True needs wandb: pip install"):
        make(tmp_path, log_wandb=True)


def test_a_line_is_logged_for_each_epoch(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = make(tmp_path)
    with caplog.at_level("INFO"):
        run.fit()
        lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith("epoch")]
        assert [line.split(":")[0] for line in lines] == ["epoch 0", "epoch 1"]
        assert "ndcg@10 0." in lines[0]
        caplog.clear()
        make(tmp_path).fit(verbose=False)
    assert not [record for record in caplog.records if record.getMessage().startswith("epoch")]


def test_a_bar_is_shown_only_where_it_is_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path).fit(saved=False)
    assert "Train" not in capsys.readouterr().err
    make(tmp_path).fit(saved=False, show_progress=True)
    assert "Train     1" in capsys.readouterr().err


def test_a_line_a_minute_where_no_bar_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        make(tmp_path, epochs=1).fit(saved=False)
        assert "batch" not in caplog.text
        monkeypatch.setattr(log, "SECONDS_BETWEEN_LINES", 0)
        make(tmp_path, epochs=1).fit(saved=False)
    assert "epoch 0: batch 1 of " in caplog.text


KILLED = """
from pathlib import Path
# Which an optimizer would import.
import torch._dynamo
from test_trainer import make
def work(folder):
    make(Path(folder), epochs=10_000, stopping_step=10_000).fit()
"""


def test_a_killed_run_leaves_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    folders = [tmp_path / str(number) for number in range(2)]
    with workers(KILLED, folders) as runs:
        for folder in folders:
            runs.wait_for(lambda folder=folder: list(folder.glob("[!.]*.last.pth")))
            time.sleep(random.uniform(0, 0.5))
            runs.kill()
            # A hidden one is half of a checkpoint.
            epochs = {path: checkpoint.load(path)["epoch"] for path in folder.glob("[!.]*.pth")}
            (last,) = folder.glob("[!.]*.last.pth")
            resumed = make(tmp_path / "resumed")
            resumed.trainer.resume_checkpoint(last, resumed.train)
            assert resumed.trainer.start_epoch == epochs[last] + 1 > 0
            # The best is written just before the last of the same epoch.
            assert max(epochs.values()) <= epochs[last] + 1


@pytest.mark.parametrize("learner", ["adam", "adamw"])
def test_adam_in_one_pass_gives_the_plain_weights(
    tmp_path: Path, learner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = []
    for fuses in (True, False):
        monkeypatch.setattr(trainer, "FUSES", fuses)
        run = make(tmp_path, "DiffuRec", epochs=1, learner=learner, weight_decay=0.01)
        run.fit(saved=False)
        assert run.trainer.optimizer.param_groups[0]["fused"] is (True if fuses else None)
        weights.append(run.trainer.model.item_embedding.weight.detach())
    torch.testing.assert_close(*weights, atol=1e-5, rtol=0)


def test_recboles_models_keep_recboles_optimizer(tmp_path: Path) -> None:
    assert make(tmp_path).trainer.optimizer.param_groups[0]["fused"] is None
