"""How time and memory grow with the data, the histories, the catalogue and the reverse steps, on made-up data."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from math import inf, log, nan
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction
from recbole.utils import ModelType, init_seed
from tabulate import tabulate
from tqdm import tqdm

from benchmarks.machine import device_name, peak_rss_mb, rss_mb
from benchmarks.timing import median_seconds
from recbole_diffusion.common.extras import require_extra
from recbole_diffusion.common.log import shows_progress
from recbole_diffusion.errors import SettingError
from recbole_diffusion.host.dataset import build_dataset
from recbole_diffusion.host.loaders import build_loaders
from recbole_diffusion.host.settings import DiffusionConfig, load_config
from recbole_diffusion.inference.restoring import DatasetSizes
from recbole_diffusion.training.run import build_model
from recbole_diffusion.training.trainer import build_trainer

logger = logging.getLogger(__name__)

DATASET = "made-up"
ITEMS = 12_000
ROWS = 512
# The mean of histories on amazon-beauty.
LENGTH = 8
ROUNDS = 3

Point = Callable[[dict[str, Any], int], dict[str, float]]


class Section(NamedTuple):
    """One way of growing.

    name : str
        What grows.
    points, quick : tuple of int
        Sizes, and those of a quick look.
    measure : callable
        (settings, size) -> column -> value.
    """

    name: str
    points: tuple[int, ...]
    quick: tuple[int, ...]
    measure: Point


def interactions_point(settings: dict[str, Any], count: int) -> dict[str, float]:
    """Load made-up data of `count` interactions, build what training and evaluation read, and load once more.

    The first time the text is parsed and its columns are kept, the second time they are read from there.
    """
    with TemporaryDirectory() as folder:
        write_long_tailed(Path(folder), count)
        config = load_config(None, None, None, {**settings, "data_path": folder})
        begin = perf_counter()
        dataset = build_dataset(config)
        loaded, memory, peak = perf_counter(), rss_mb(), peak_rss_mb()
        loaders = build_loaders(config, dataset)
        built = perf_counter()
        assert len(loaders) == 3
        point = {
            "loading (s)": loaded - begin,
            "building (s)": built - loaded,
            "memory built (MB)": rss_mb() - memory,
            "peak above loading (MB)": peak_rss_mb() - peak,
        }
        del dataset, loaders
        begin = perf_counter()
        build_dataset(config)
        return {**point, "loading again (s)": perf_counter() - begin}


def length_point(settings: dict[str, Any], length: int) -> dict[str, float]:
    """A training step on histories that all have `length` items."""
    config = load_config(None, None, None, {**settings, "MAX_ITEM_LIST_LENGTH": length})
    return {"step (s)": _step_seconds(config, ITEMS, np.full(ROWS, length)), **_peak(config)}


def catalogue_point(settings: dict[str, Any], items: int) -> dict[str, float]:
    """A training step over a catalogue of `items` items."""
    size = {"hidden_size": 64, "inner_size": 256}
    config = load_config(None, None, None, {**settings, **size})
    return {"step (s)": _step_seconds(config, items, np.full(ROWS, LENGTH)), **_peak(config)}


def steps_point(settings: dict[str, Any], steps: int) -> dict[str, float]:
    """Scores of all items after `steps` steps of the reverse chain."""
    config = load_config(None, None, None, {**settings, "inference_steps": steps})
    model = build_model(config, catalogue(config, ITEMS)).eval()
    batch = made_up_batch(config, ITEMS, np.full(ROWS, LENGTH)).to(config["device"])
    with torch.no_grad():
        seconds = median_seconds(lambda: model.full_sort_predict(batch), ROUNDS, config["device"])
    return {"batch (s)": seconds, "a user (s)": seconds / ROWS, **_peak(config)}


def _peak(config: DiffusionConfig) -> dict[str, float]:
    """The most memory that this process has held: on a GPU, of it."""
    device = config["device"]
    return {"peak (MB)": torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else peak_rss_mb()}


SECTIONS = (
    Section("interactions", (10**5, 10**6, 10**7, 5 * 10**7), (2_000, 8_000), interactions_point),
    Section("history length", (5, 10, 20, 50, 100, 200, 500), (5, 20), length_point),
    Section("catalogue", (10**4, 10**5, 3 * 10**5, 10**6, 4 * 10**6), (1_000, 4_000), catalogue_point),
    Section("inference steps", (1, 2, 4, 8, 16, 32), (1, 2), steps_point),
)


def write_long_tailed(folder: Path, count: int) -> None:
    """Atomic files of `count` interactions, of users with few to thousands, on items of uneven popularity."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(3 + rng.pareto(1.3, size=count // 3) * 6, 5_000).astype(np.int64)
    users = np.repeat(np.arange(len(lengths)), lengths)[:count]
    items = (rng.random(count) ** 3 * min(10**5, max(100, count // 10))).astype(np.int64)
    target = folder / DATASET
    target.mkdir()
    columns = {"user_id:token": users, "item_id:token": items, "timestamp:float": np.arange(count)}
    pd.DataFrame(columns).to_csv(target / f"{DATASET}.inter", sep="\t", index=False)


def catalogue(config: DiffusionConfig, items: int) -> DatasetSizes:
    """A dataset of `items` items without interactions."""
    return DatasetSizes(1, items + 1, config["ITEM_ID_FIELD"])


def made_up_batch(config: DiffusionConfig, items: int, lengths: np.ndarray) -> Interaction:
    """Random histories of these lengths [B], and a random next item for each."""
    rng = np.random.default_rng(0)
    histories = rng.integers(1, items + 1, size=(len(lengths), lengths.max()))
    histories[np.arange(lengths.max()) >= lengths[:, None]] = 0
    item = config["ITEM_ID_FIELD"]
    columns = {
        item + config["LIST_SUFFIX"]: histories,
        config["ITEM_LIST_LENGTH_FIELD"]: lengths,
        item: rng.integers(1, items + 1, size=len(lengths)),
        config["NEG_PREFIX"] + item: rng.integers(1, items + 1, size=len(lengths)),
    }
    return Interaction({name: torch.from_numpy(column) for name, column in columns.items()})


def _step_seconds(config: DiffusionConfig, items: int, lengths: np.ndarray) -> float:
    trainer = build_trainer(config, build_model(config, catalogue(config, items)))
    batch = made_up_batch(config, items, lengths)
    return median_seconds(lambda: trainer._train_epoch([batch], 0), ROUNDS, config["device"])


def measure_growth(config_files: Sequence[str], settings: Mapping[str, Any], output: Path, quick: bool = False) -> str:
    """Measure all points, and draw them.

    Parameters
    ----------
    config_files : sequence of str
    settings : mapping
        `model` among them, unless a file names it; the data are made up.
    output : Path
        Folder of the plot, `scale.png`.
    quick : bool
        Whether to take few and small points.

    Returns
    -------
    str
        Tables in markdown, each with the exponent of its growth.

    Raises
    ------
    UserError
        Before anything is measured, where settings, `output` or a missing package forbid it.
    """
    draw = _plotter()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingError("output", str(output), must=f"be a folder ({error.strerror})") from error
    with TemporaryDirectory() as folder:
        nowhere = {"checkpoint_dir": folder, "log_dir": None, "tensorboard_dir": None, "log_wandb": False}
        chosen = {**settings, "dataset": DATASET, **nowhere}
        config = load_config(None, None, config_files, chosen)
        if config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
            raise SettingError("model", config["model"], must="be sequential")
        if config["model"] == "BERT4Rec":
            raise SettingError("model", "BERT4Rec", "it reads masked histories, which are not made up here")
        # Plain data, so that a process of its own can have them.
        plain = {**config.given, "model": settings.get("model", config["model"]), "dataset": DATASET}
        init_seed(config["seed"], config["reproducibility"])
        tables = _measure_all(config, plain, quick)
    draw(tables, f"{config['model']}, {device_name(config['device'])}", output / "scale.png")
    parts = [f"{config['model']} on made-up data, {device_name(config['device'])}"]
    for rows in tables.values():
        parts += [tabulate(rows, headers="keys", tablefmt="github", floatfmt=".4g", intfmt=","), exponents(rows)]
    return "\n\n".join(parts)


def exponents(rows: Sequence[Mapping[str, float]]) -> str:
    """How fast each column grows from the last point but one to the last: with the size to the power of this."""
    (size, *columns), last = rows[-1], rows[-1]
    # Of a point that was killed there is nothing.
    before = next((row for row in rows[-2::-1] if "killed" not in row), None)
    if before is None or "killed" in last:
        return "exponent of growth: too few points"
    growth = {
        column: log(last[column] / before[column]) / log(last[size] / before[size])
        for column in columns
        if last[column] > 0 and before[column] > 0
    }
    found = ", ".join(f"{column.rpartition(' ')[0]} {exponent:.2f}" for column, exponent in growth.items())
    return f"exponent of growth from {before[size]:,} to {last[size]:,}: {found}"


def _measure_all(config: DiffusionConfig, settings: dict[str, Any], quick: bool) -> dict[str, list[dict[str, float]]]:
    # Without a number of its own, as in a flow, a chain may have any.
    longest = (config["diffusion_steps"] or inf) if config["inference_steps"] else 0
    planned = [
        (section, size)
        for section in SECTIONS
        for size in (section.quick if quick else section.points)
        if section.measure is not steps_point or size <= longest
    ]
    tables: dict[str, list[dict[str, float]]] = {}
    bar = tqdm(planned, "Points", ncols=100, leave=False, disable=not shows_progress())
    for section, size in bar:
        bar.set_postfix_str(f"{section.name} {size:,}")
        tables.setdefault(section.name, []).append({section.name: size, **_alone(section, settings, size)})
    return tables


def _alone(section: Section, settings: dict[str, Any], size: int) -> dict[str, float]:
    """Measure a point in a new process, so that the memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(section.measure, settings, size).result()
        except BrokenProcessPool:
            logger.warning("%s %d: the process was killed, probably for want of memory", section.name, size)
            return {"killed": nan}


def _plotter() -> Callable[[dict[str, list[dict[str, float]]], str, Path], None]:
    require_extra("compare", "the plot of --scale")
    from matplotlib.figure import Figure

    def draw(tables: dict[str, list[dict[str, float]]], title: str, path: Path) -> None:
        figure = Figure(figsize=(11, 8), layout="constrained")
        figure.suptitle(title, fontsize=9)
        for axis, (name, rows) in zip(figure.subplots(2, 2).flat, tables.items(), strict=False):
            table = pd.DataFrame(rows).set_index(name).drop(columns="killed", errors="ignore")
            memory = [column for column in table if column.endswith("(MB)")]
            # Growth of nothing, where memory was there already, cannot stand on a logarithmic axis.
            table = table.where(table > 0)
            table.drop(columns=memory).plot(ax=axis, marker="o", loglog=True, ylabel="time", legend=False)
            axes = [axis]
            if memory:
                axes.append(axis.twinx())
                colours = ["tab:green", "tab:red"][: len(memory)]
                looks = {"marker": "s", "style": "--", "color": colours}
                table[memory].plot(ax=axes[1], loglog=True, ylabel="memory", legend=False, **looks)
            curves = [curve for each in axes for curve in each.get_lines()]
            axis.legend(curves, [curve.get_label() for curve in curves], fontsize=8)
            axis.grid(True, which="major", alpha=0.3)
        unfinished = path.with_name(f"{path.name}.part")
        figure.savefig(unfinished, format="png", dpi=120)
        unfinished.replace(path)

    return draw
