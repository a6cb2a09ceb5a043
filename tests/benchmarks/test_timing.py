from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recbole.data import create_dataset, data_preparation

from benchmarks import timing
from recbole_diffusion.errors import SettingError
from recbole_diffusion.host.dataset import build_dataset
from recbole_diffusion.host.loaders import build_loaders
from recbole_diffusion.host.settings import load_config

SMALL = {
    "user_inter_num_interval": "[20,40]",
    "MAX_ITEM_LIST_LENGTH": 20,
    "train_batch_size": 64,
    "eval_batch_size": 32,
    "gpu_id": "",
}


def config_of(model: str = "SASRec", **settings: Any) -> Any:
    return load_config(model, "ml-100k", None, {**SMALL, **settings})


class Clock:
    """Time that passes only as a trainer says, a millisecond a batch of the shortest histories and more for longer."""

    def __init__(self) -> None:
        self.now = 0.0
        self.epochs = 0

    def trainer(self, disturbed: range = range(0)) -> Any:
        def train_epoch(batches: Any, epoch: int) -> None:
            for batch in batches:
                self.now += float(batch["item_length"].double().mean()) / 1000
            self.now += 100 if self.epochs in disturbed else 0
            self.epochs += 1

        return SimpleNamespace(device=torch.device("cpu"), _train_epoch=train_epoch)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(timing, "perf_counter", lambda: made.now)
    return made


@given(st.integers(1, 500), st.integers(1, 50))
def test_spread_numbers_stand_for_all(count: int, parts: int) -> None:
    numbers = timing.spread(count, parts)
    assert len(numbers) == min(count, parts)
    assert numbers[0] >= 0 and numbers[-1] < count
    # As far from the first as from the last, to one place.
    assert abs(numbers[0] - (count - 1 - numbers[-1])) <= 1


@pytest.mark.parametrize("recboles", [False, True])
def test_a_sample_of_batches_estimates_the_epoch(clock: Clock, recboles: bool) -> None:
    config = config_of(length_batching=not recboles)
    train = (
        data_preparation(config, create_dataset(config)) if recboles else build_loaders(config, build_dataset(config))
    )[0]
    lengths = timing.row_lengths(train._dataset)
    # The clock's time for a whole epoch, which is known.
    epoch = sum(float(lengths[np.asarray(index)].mean()) / 1000 for index in train._index_sampler)
    times = timing.time_training(clock.trainer(), train, 12, 3)
    assert times.rows == len(lengths)
    assert times.epoch_s == pytest.approx(epoch, rel=0.05)
    assert times.tokens_per_s == pytest.approx(lengths.sum() / epoch, rel=0.05)
    assert times.lengths.mean() == pytest.approx(lengths.mean(), rel=0.05)
    assert (times.targets == 1).all()


def test_warming_up_and_a_disturbance_do_not_count(clock: Clock) -> None:
    config = config_of(length_batching=True)
    train = build_loaders(config, build_dataset(config))[0]
    calm = timing.time_training(clock.trainer(), train, 4, 3).seconds
    clock.epochs = 0
    # The round before the timed ones, and half of a timed one.
    assert timing.time_training(clock.trainer(disturbed=range(6)), train, 4, 3).seconds == pytest.approx(calm, rel=0.05)
    clock.epochs = 0
    assert timing.time_training(clock.trainer(disturbed=range(1000)), train, 4, 3).seconds > calm + 100


def test_steps_do_not_pay_for_what_an_epoch_does_once(clock: Clock) -> None:
    config = config_of(length_batching=True)
    train = build_loaders(config, build_dataset(config))[0]
    calls: list[str] = []
    trainer = clock.trainer()
    of_the_clock = trainer._train_epoch

    def train_epoch(batches: Any, epoch: int) -> None:
        trainer.freed_memory.give_back()
        of_the_clock(batches, epoch)
        trainer.freed_memory.after_step()

    own = SimpleNamespace(give_back=lambda: calls.append("given back"), after_step=lambda: calls.append("step"))
    trainer._train_epoch, trainer.freed_memory = train_epoch, own
    timing.time_training(trainer, train, 4, 3)
    assert set(calls) == {"step"} and trainer.freed_memory is own


def test_at_least_ten_steps_are_timed(clock: Clock) -> None:
    config = config_of(length_batching=True, train_batch_size=4096)
    train = build_loaders(config, build_dataset(config))[0]
    batches = len(train)
    assert batches < 5
    timing.time_training(clock.trainer(), train, 12, 1)
    assert clock.epochs - batches >= timing.FEWEST_STEPS


def test_masked_positions_are_counted(clock: Clock) -> None:
    config = config_of("BERT4Rec", mask_ratio=0.5)
    train = build_loaders(config, build_dataset(config))[0]
    times = timing.time_training(clock.trainer(), train, 3, 1)
    assert 0 < times.targets.mean() < times.lengths.mean()


@pytest.mark.parametrize("length_batching", [True, False])
def test_rows_and_targets_of_a_model_that_trains_on_sequences(clock: Clock, length_batching: bool) -> None:
    config = config_of("ADRec", length_batching=length_batching)
    dataset = build_dataset(config)
    train = build_loaders(config, dataset)[0]
    rows = sum(len(batch) for batch in train)
    times = timing.time_training(clock.trainer(), train, len(train), 1)
    assert times.rows == len(times.lengths) == rows < len(train._dataset)
    # Each interaction of the training part but a user's first is a target once.
    assert times.targets.sum() == len(train._dataset)
    assert times.targets_per_s == times.tokens_per_s > times.samples_per_s


@pytest.mark.parametrize("length_batching", [True, False])
def test_some_users_stand_for_all(length_batching: bool) -> None:
    config = config_of(length_batching=length_batching)
    test = build_loaders(config, build_dataset(config))[2]
    everyone = timing.row_lengths(test._dataset)
    some = timing.some_users(config, test, 100)
    lengths = timing.row_lengths(some._dataset)
    assert 100 <= len(lengths) < len(everyone)
    assert lengths.mean() == pytest.approx(everyone.mean(), rel=0.1)
    assert sum(len(batch[0]) for batch in some) == len(lengths)
    assert timing.some_users(config, test, None) is test
    assert timing.some_users(config, test, 10**6) is test


def test_sampled_evaluation_is_refused() -> None:
    config = config_of(eval_args={"mode": "uni20"})
    test = build_loaders(config, build_dataset(config))[2]
    with pytest.raises(SettingError, match=r"eval_args.mode must be full: full ranking is measured"):
        timing.some_users(config, test, None)


def test_a_long_evaluation_is_not_repeated(clock: Clock) -> None:
    calls = []

    def evaluate(seconds: float) -> Any:
        def act(loader: Any, **options: Any) -> None:
            calls.append(options["load_best_model"])
            clock.now += seconds

        return SimpleNamespace(device=torch.device("cpu"), evaluate=act)

    assert timing.time_evaluation(evaluate(60.0), None) == pytest.approx(60.0)
    assert calls == [False]
    assert timing.time_evaluation(evaluate(0.5), None) == pytest.approx(0.5)
    assert len(calls) == 1 + 2 + timing.EVALUATION_REPEATS
