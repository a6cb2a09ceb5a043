"""Training steps and evaluations of a trainer, RecBole's or ours, by the clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from statistics import median
from time import perf_counter
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from recbole.data.dataloader import FullSortEvalDataLoader
from tqdm import tqdm

from benchmarks.machine import synchronise
from recbole_diffusion.common.log import shows_progress
from recbole_diffusion.errors import SettingError
from recbole_diffusion.host.loaders import epoch_rows, trains_on

FEWEST_STEPS = 10
# Steps between two looks at the clock where the host runs ahead of the device.
STEPS_AHEAD = 10
# An evaluation that takes less is repeated.
SHORT_EVALUATION = 10.0
EVALUATION_REPEATS = 3


class TrainingTimes(NamedTuple):
    """Time of a sample of an epoch's batches.

    seconds : float
        Sum over the batches of the sample, of each its median.
    lengths, targets : int [n]
        History length and number of targets of each row of the sample: all places of a row for a model that trains on
        sequences, the masked ones for one that masks, else 1.
    rows : int
        Of the whole epoch.
    """

    seconds: float
    lengths: NDArray[np.int64]
    targets: NDArray[np.int64]
    rows: int

    @property
    def samples_per_s(self) -> float:
        """Rows a second."""
        return len(self.lengths) / self.seconds

    @property
    def targets_per_s(self) -> float:
        """Targets a second."""
        return float(self.targets.sum()) / self.seconds

    @property
    def tokens_per_s(self) -> float:
        """Real items of the histories a second."""
        return float(self.lengths.sum()) / self.seconds

    @property
    def epoch_s(self) -> float:
        """Seconds of the whole epoch."""
        return self.rows / self.samples_per_s


class _Again:
    """Gives one batch of a loader, fetched anew each time."""

    def __init__(self, loader: Any, index: Any, times: int) -> None:
        self.loader, self.index, self.times = loader, index, times
        self.batch: Any = None

    def __len__(self) -> int:
        return self.times

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.times):
            self.batch = self.loader.collate_fn(self.index)
            yield self.batch


def row_lengths(dataset: Any) -> NDArray[np.int64]:
    """History length of each row of a sequential dataset."""
    return dataset.inter_feat[dataset.item_list_length_field].numpy()


def spread(count: int, parts: int) -> NDArray[np.int64]:
    """The middles of `parts` equal parts of the numbers below `count`; all numbers where there are fewer."""
    return np.unique(((np.arange(parts) + 0.5) * count / parts).astype(np.int64))


def spread_batches(loader: Any, parts: int) -> list[NDArray[np.int64]]:
    """Row numbers of batches at evenly spaced quantiles of an epoch's, ordered by the length of their histories."""
    lengths = row_lengths(loader._dataset)
    batches = [np.asarray(index) for index in loader._index_sampler]
    batches.sort(key=lambda index: float(lengths[index].mean()))
    return [batches[number] for number in spread(len(batches), parts)]


def median_seconds(action: Callable[[], Any], rounds: int, device: Any) -> float:
    """Median time of an action after one untimed round."""
    seconds = []
    for _ in range(rounds + 1):
        synchronise(device)
        begin = perf_counter()
        action()
        synchronise(device)
        seconds.append(perf_counter() - begin)
    return median(seconds[1:])


def time_training(trainer: Any, loader: Any, batches: int, rounds: int) -> TrainingTimes:
    """Time training steps, fetching included, as the trainer takes them.

    Parameters
    ----------
    trainer : recbole Trainer
        RecBole's or ours.
    loader : recbole TrainDataLoader
        Of a sequential dataset.
    batches : int
        Size of the sample.
    rounds : int
        How often each batch is timed, after a round that is not; more where there are few batches.
    """
    length_field = loader._dataset.item_list_length_field
    times = STEPS_AHEAD if trainer.device.type == "cuda" else 1
    sample = [_Again(loader, index, times) for index in spread_batches(loader, batches)]
    rounds = max(rounds, ceil(FEWEST_STEPS / len(sample)))
    seconds = np.empty((rounds + 1, len(sample)))
    # Round by round, so that a disturbance of the machine does not meet one batch alone.
    bar = tqdm(total=seconds.size, desc="Train", ncols=100, leave=False, disable=not shows_progress())
    with bar, _memory_kept_between_epochs(trainer):
        for step in np.ndindex(seconds.shape):
            synchronise(trainer.device)
            begin = perf_counter()
            trainer._train_epoch(sample[step[1]], 0)
            synchronise(trainer.device)
            seconds[step] = (perf_counter() - begin) / times
            bar.update()
    lengths = [again.batch[length_field].cpu().numpy() for again in sample]
    everywhere = trains_on(loader._dataset.config.model_class) == "sequences"
    targets = lengths if everywhere else [_masked(again.batch) for again in sample]
    total = float(np.median(seconds[1:], axis=0).sum())
    return TrainingTimes(total, np.concatenate(lengths), np.concatenate(targets), epoch_rows(loader))


@contextmanager
def _memory_kept_between_epochs(trainer: Any) -> Iterator[None]:
    """An epoch of ours begins by giving free memory back, for which steps that are timed one by one would all pay."""
    freed = getattr(trainer, "freed_memory", None)
    if freed is None:
        yield
        return
    trainer.freed_memory = SimpleNamespace(give_back=lambda: None, after_step=freed.after_step)
    try:
        yield
    finally:
        trainer.freed_memory = freed


def _masked(batch: Any) -> NDArray[np.int64]:
    if "MASK_INDEX" not in batch:
        return np.ones(len(batch), dtype=np.int64)
    return (batch["MASK_INDEX"] > 0).sum(dim=1).cpu().numpy()


def some_users(config: Any, loader: Any, users: int | None) -> Any:
    """The loader, or one of at least `users` of its rows in whole batches spread over it.

    Raises
    ------
    SettingError
        Where evaluation does not rank the full catalogue.
    """
    if not isinstance(loader, FullSortEvalDataLoader):
        raise SettingError("eval_args.mode", config["eval_args"]["mode"], must="be full: full ranking is measured")
    dataset = loader._dataset
    batches = np.array_split(np.arange(len(dataset)), range(loader.step, len(dataset), loader.step))
    if users is None or users >= len(dataset):
        return loader
    rows = np.concatenate([batches[number] for number in spread(len(batches), ceil(users / loader.step))])
    return type(loader)(config, dataset.copy(dataset.inter_feat[rows]), loader._sampler)


def time_evaluation(trainer: Any, loader: Any) -> float:
    """Seconds of an evaluation; the median of some where one is short."""

    def evaluate() -> None:
        trainer.evaluate(loader, load_best_model=False, show_progress=shows_progress())

    begin = perf_counter()
    evaluate()
    once = perf_counter() - begin
    if once > SHORT_EVALUATION:
        return once
    return median_seconds(evaluate, EVALUATION_REPEATS, trainer.device)
