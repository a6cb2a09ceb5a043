"""Real processes (gloo): n of them equal one, in loss, gradient, metrics and checkpoints; and how they end."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from made_data import SMALL_RUN
from recbole.data.interaction import Interaction
from recbole.data.transform import construct_transform
from torch import multiprocessing

from recbole_diffusion.errors import SettingError, UserError
from recbole_diffusion.host.dataset import build_dataset
from recbole_diffusion.host.loaders import build_loaders
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.model.base import DiffusionRecommender
from recbole_diffusion.model.sharing import Batch
from recbole_diffusion.training import launch
from recbole_diffusion.training.distributed import Alone, Group, as_present
from recbole_diffusion.training.run import _read, _run, build_model
from recbole_diffusion.training.trainer import build_trainer

NUMBERS = (1, 2, 3)
# A whole batch, one that leaves a process more rows than another, and one with fewer rows than processes.
SIZES = (12, 11, 2)
NO_DROPOUT = dict.fromkeys(("hidden_dropout_prob", "attn_dropout_prob", "embedding_dropout_prob"), 0.0)
SMALL = {**SMALL_RUN, "tensorboard_dir": None, "eval_batch_size": 10, "threads": 1, "epochs": 2}
LOSSES: dict[str, dict[str, Any]] = {
    "DiffuRec": {},
    "DiffuRec lossaware counted": {"step_sampler": "lossaware", "attention_mask": "counted"},
    "DiffuRec BPR": {"loss_type": "BPR"},
    "DiffRec": {},
    "DiffRec truth": {"rounding_reads": "truth", "noise_positions": "all"},
    "ADRec": {},
    "ADRec pcgrad": {"pcgrad": True},
    "ADRec lossaware": {"step_sampler": "lossaware"},
    "BBDRec": {},
    "FMRec": {"n_layers": 2},
    "RFMRec": {},
    "DreamRec": {"consistency_weight": 0.5},
    "PreferDiff": {"preference": "batch"},
    "PreferDiff negh": {"objective": "negh", "preference": "batch"},
    "PreferDiff negatives": {"negatives": 1, "preference": "row"},
    "PreferDiff sdpo": {"objective": "sdpo", "distance": "cosine", "normalize_x_0": True},
    "PreferGrow": {"prior": "adaptive"},
    "DiffuRec off": {"diffusion": False},
    "BSARec": {},
    "LastItem": {},
    "SASRecPlus": {},
    "Pop": {},
    "SASRec": {},
    "SASRec BPR": {"loss_type": "BPR", "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1}},
    "BERT4Rec": {},
}
# Of these, and these, items are split as well.
SPLIT = (
    "DiffuRec lossaware counted",
    "DiffuRec BPR",
    "DiffuRec cosine",
    "DiffRec",
    "ADRec counted",
    "BBDRec",
    "RFMRec",
    "DreamRec",
    "PreferDiff negatives",
)
# Their scores are dot products, and probabilities.
RANKED = ("DiffuRec", "DiffRec")
LOSSES |= {
    "DiffuRec cosine": {"similarity": "cosine", "similarity_temperature": 0.1},
    "ADRec counted": {"attention_mask": "counted"},
}
# What a checkpoint has to hold besides weights.
KEEPS_STATE = {"ema_decay": 0.9, "step_sampler": "lossaware", "warmup_steps": 3}
# Whether the system says which files a process has mapped.
HAS_MAPS = Path("/proc/self/maps").exists()
# What the metrics of n processes are compared in.
EVALUATIONS: dict[str, dict[str, Any]] = {
    "full": {"history_in_ranking": "both", "metrics": ["Hit", "NDCG", "ItemCoverage", "Novelty", "IntraListDiversity"]},
    "uni": {"eval_args": {"mode": "uni20"}},
    # A metric that reads scores.
    "pop": {"eval_args": {"mode": "pop20"}, "metrics": ["GAUC", "NDCG"], "valid_metric": "NDCG@10"},
}


def settings_of(name: str) -> tuple[str, dict[str, Any]]:
    model, *_ = name.split()
    known = {key: value for key, value in {**SMALL, **NO_DROPOUT}.items()}
    return model, {**known, **LOSSES[name]}


def groups(rank: int, store: dist.Store) -> dict[int, Group]:
    """This process in groups of the first n, for each n that it is among."""
    parts = {number: dist.new_group(list(range(number))) for number in NUMBERS}
    return {number: Group(rank, number, store, parts[number]) for number in NUMBERS if rank < number}


def model_and_batches(name: str, dataset: Any) -> tuple[Any, list[Any]]:
    """A model in float64, and batches for it of each of the sizes."""
    model_name, settings = settings_of(name)
    config = load_config(model_name, "ml-100k", None, settings)
    config["reproducibility"] = True
    torch.manual_seed(1)
    random.seed(1)
    # Which tells the model the names of its columns.
    transform = construct_transform(config)
    model = build_model(config, dataset).double().train()
    batches = []
    for begin, size in zip((0, 300, 600), SIZES, strict=True):
        rows = np.arange(begin, begin + size)
        interaction = dataset[rows]
        interaction.update(Interaction({"neg_item_id": interaction["item_id"].flip(0)}))
        batches.append(transform(dataset, interaction))
    return model, batches


def step_of(model: Any, loss_of: Any, interaction: Any, group: Group | None) -> dict[str, torch.Tensor]:
    """What a step gives: loss, gradients, and the history of the step sampler after it."""
    model.zero_grad()
    loss = loss_of(interaction)
    loss.backward()
    total = loss.detach()[None] if group is None else group.add_up(model, loss.detach()[None])
    found = {"loss": total, **{name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}}
    return found | {name: value.clone().double() for name, value in model.named_buffers() if "step_sampler" in name}


@contextmanager
def float64() -> Iterator[None]:
    """RecBole's models make tensors of torch's default type."""
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@float64()
def largest_errors(rank: int, mine: dict[int, Group], dataset: Any) -> dict[str, dict[int, float]]:
    """Model -> n -> the largest difference of n processes from one, over all batches."""
    errors: dict[str, dict[int, float]] = {}
    for name in LOSSES:
        model, batches = model_and_batches(name, dataset)
        begin = {key: value.clone() for key, value in model.state_dict().items()}
        torch.manual_seed(7)
        wholes = [step_of(model, model.calculate_loss, batch, None) for batch in batches]
        for number, group in mine.items():
            model.load_state_dict(begin)
            torch.manual_seed(7)
            group.begin(model)
            worst = 0.0
            for batch, whole in zip(batches, wholes, strict=True):
                found = step_of(model, group.loss(model), batch, group)
                assert found.keys() == whole.keys()
                worst = max([worst, *(float((found[key] - whole[key]).abs().max()) for key in whole)])
            errors.setdefault(name, {})[number] = worst
            if isinstance(model, DiffusionRecommender):
                model.batch_of, model.noise_generator = Batch, None
    return errors


def several(groups: dict[int, Group]) -> dict[int, Group]:
    """The groups of more than one process."""
    return {number: group for number, group in groups.items() if number > 1}


@float64()
def split_errors(mine: dict[int, Group], dataset: Any) -> dict[str, dict[int, float]]:
    """As `largest_errors`, where each process has the embeddings of its items alone."""
    errors: dict[str, dict[int, float]] = {}
    for name in SPLIT:
        whole_model, batches = model_and_batches(name, dataset)
        begin = copy.deepcopy(whole_model)
        torch.manual_seed(7)
        wholes = [step_of(whole_model, whole_model.calculate_loss, batch, None) for batch in batches]
        for number, group in several(mine).items():
            model = copy.deepcopy(begin)
            model.split(group)
            torch.manual_seed(7)
            group.begin(model)
            rows, worst = model.own_items.rows, 0.0
            assert len(model.item_embedding.weight) == rows.stop - rows.start < whole_model.n_items
            for batch, whole in zip(batches, wholes, strict=True):
                found = step_of(model, group.loss(model), batch, group)
                expected = {**whole, "item_embedding.weight": whole["item_embedding.weight"][rows]}
                assert found.keys() == expected.keys()
                worst = max([worst, *(float((found[key] - expected[key]).abs().max()) for key in expected)])
            errors.setdefault(name, {})[number] = worst
    return errors


def metrics_by_number(mine: dict[int, Group]) -> dict[str, dict[int, Any]]:
    """Way of evaluation -> n -> metrics; n = 0 is a process by itself."""
    found: dict[str, dict[int, Any]] = {}
    for name, settings in EVALUATIONS.items():
        config = load_config("DiffuRec", "ml-100k", None, {**SMALL, "noise_scale": 0.1, **settings})
        train_data, _, test_data = build_loaders(config, build_dataset(config))
        torch.manual_seed(1)
        model = build_model(config, train_data._dataset)
        for number, group in {0: Alone(), **mine}.items():
            with as_present(group):
                trainer = build_trainer(config, model)
                trainer.eval_collector.data_collect(train_data)
                found.setdefault(name, {})[number] = dict(trainer.metrics(test_data))
    return found


def split_metrics(mine: dict[int, Group]) -> dict[str, dict[int, Any]]:
    """Model -> n -> metrics where items are split; n = 0 is a process by itself."""
    found: dict[str, dict[int, Any]] = {}
    for name in RANKED:
        settings = {**SMALL, **EVALUATIONS["full"], "noise_scale": 0.1, "inference_seeds": 2, "inference_steps": 3}
        config = load_config(name, "ml-100k", None, settings)
        train_data, _, test_data = build_loaders(config, build_dataset(config))
        torch.manual_seed(1)
        model = build_model(config, train_data._dataset)
        for number, group in {0: Alone(), **several(mine)}.items():
            own = copy.deepcopy(model)
            with as_present(group):
                if number:
                    own.split(group)
                trainer = build_trainer(config, own)
                trainer.eval_collector.data_collect(train_data)
                found.setdefault(name, {})[number] = dict(trainer.metrics(test_data))
    return found


def trainings(rank: int, mine: dict[int, Group], folder: Path) -> dict[str, Any]:
    """What runs of n processes come to, and one that is begun by n and resumed by others."""
    found: dict[str, Any] = {}

    def train(group: Alone, number: int, **settings: Any) -> Any:
        config = load_config(
            "DiffuRec",
            "ml-100k",
            None,
            {**SMALL, **NO_DROPOUT, **KEEPS_STATE, "checkpoint_dir": str(folder / str(number)), **settings},
        )
        with as_present(group):
            return _run(config, True)

    for number, group in mine.items():
        done = train(group, number)
        found[f"whole {number}"] = done.result["test_result"]
    if 3 in mine:
        half = train(mine[3], 30, epochs=1)
        path = str(half.model_file).replace(".pth", ".last.pth")
        found["resumed 3"] = train(mine[3], 33, resume=path).result["test_result"]
        dist.barrier()
        if rank == 0:
            found["resumed 1"] = train(Alone(), 31, resume=path).result["test_result"]
            found["files"] = len(list((folder / "33").iterdir()))
        dist.barrier()
        found["split 3"] = train(mine[3], 43, split_items=True).result["test_result"]
        half = train(mine[3], 40, split_items=True, epochs=1)
        path = str(half.model_file).replace(".pth", ".last.pth")
        if 2 in mine:
            found["split, resumed 2"] = train(mine[2], 42, split_items=True, resume=path).result["test_result"]
        dist.barrier()
        if rank == 0:
            found["split, resumed 1"] = train(Alone(), 41, split_items=True, resume=path).result["test_result"]
            found["split weights"] = largest_difference(*(folder / number for number in ("3", "43")))
            found["split files"] = sorted(file.name.split(".", 1)[1] for file in (folder / "43").iterdir())
        dist.barrier()
    return found


def largest_difference(*folders: Path) -> dict[str, float]:
    """Between the last checkpoints of two runs: of the items' embeddings, their averages, and what Adam knows."""
    one, other = (known_of_items(torch.load(next(folder.glob("*.last.pth")))) for folder in folders)
    assert one.keys() == other.keys()
    return {name: float((other[name] - value).abs().max()) for name, value in one.items()}


def known_of_items(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """All that a checkpoint holds of the items, the best state among it where another epoch was the best."""
    name = "item_embedding.weight"
    parts = ("state_dict", "best_state_dict", "average")
    # The table is the first of the parameters.
    of_adam = state["optimizer"]["optimizer"]["state"][0]
    known = {part: state[part][name] for part in parts if state[part] is not None}
    return known | {key: value for key, value in of_adam.items() if value.dim() == 2}


def places_of_data(group: Group) -> dict[str, list[Any]]:
    """Column -> the file behind it, where in that file it begins, and a sum over it, once a group has read the data."""
    config = load_config("DiffuRec", "ml-100k", None, SMALL)
    with as_present(group):
        whole, parts, _ = group.read(config, lambda: _read(config))
    sequences = parts[0].inter_feat.sequences
    columns = {
        "items": sequences.columns["item_id"],
        "start": sequences.start,
        "rows": parts[0].inter_feat.rows,
        "tokens": torch.from_numpy(whole.field2id_token["item_id"].view(np.int32)),
    }
    return {name: [*place_of(column), int(column.sum())] for name, column in columns.items()}


def place_of(tensor: torch.Tensor) -> tuple[str, int]:
    """Device and inode of the file that is mapped where a tensor stands, and the tensor's offset in it."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, _, offset, device, inode, *_ = line.split()
        begin, end = (int(address, 16) for address in addresses.split("-"))
        if begin <= tensor.data_ptr() < end:
            return f"{device} {inode}", int(offset, 16) + tensor.data_ptr() - begin
    raise AssertionError("the tensor stands nowhere")


def complaints(rank: int, group: Group) -> dict[str, str]:
    """The lines by which a group of three refuses what cannot be."""
    found = {}

    def line(key: str, action: Any) -> None:
        try:
            action()
        except UserError as error:
            found[key] = str(error)

    line("settings", lambda: group.require_alike({"epochs": 3, "learning_rate": 0.1 if rank == 1 else 0.2}))
    line("data", lambda: group.require_alike({"data for test": rank == 2}))
    line("first", lambda: group.first(lambda: (_ for _ in ()).throw(SettingError("a", rank, must="be b"))))
    line("contrastive", lambda: refused_model(group))
    line("reading", lambda: group.read(None, lambda: (_ for _ in ()).throw(UserError(f"no data in process {rank}"))))
    return found


class OfTheBatch(torch.nn.Module):
    """A model whose loss is none of the rows alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def calculate_loss(self, interaction: torch.Tensor) -> torch.Tensor:
        return (self.weight * interaction.sum()).exp()


def refused_model(group: Group) -> None:
    group.loss(OfTheBatch())(torch.arange(7.0))


def check(rank: int, port: int, folder: str) -> None:
    """What each of the three processes does."""
    torch.set_num_threads(1)
    os.chdir(folder)
    store = dist.TCPStore("localhost", port, None, False, wait_for_workers=False)
    dist.init_process_group(
        "gloo", store=dist.PrefixStore("t", store), rank=rank, world_size=3, timeout=timedelta(seconds=300)
    )
    mine = groups(rank, store)
    dataset = build_dataset(load_config("DiffuRec", "ml-100k", None, SMALL)).build()[0]
    found = {
        "errors": largest_errors(rank, mine, dataset),
        "split errors": split_errors(mine, dataset),
        "metrics": metrics_by_number(mine),
        "split metrics": split_metrics(mine),
        "trainings": trainings(rank, mine, Path(folder)),
        "complaints": complaints(rank, mine[3]),
    }
    if HAS_MAPS:
        found["places"] = {number: places_of_data(group) for number, group in mine.items()}
    Path(folder, f"found-{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    """What each of three processes has found."""
    folder = tmp_path_factory.mktemp("processes")
    server = dist.TCPStore("localhost", 0, None, True, wait_for_workers=False)
    multiprocessing.start_processes(check, (server.port, str(folder)), 3, start_method="spawn")
    yield [json.loads((folder / f"found-{rank}.json").read_text()) for rank in range(3)]


@pytest.mark.parametrize("name", LOSSES)
def test_n_processes_have_the_loss_and_the_gradient_of_one(name: str, found: list[dict[str, Any]]) -> None:
    for rank in range(3):
        errors = found[rank]["errors"][name]
        assert list(errors) == [str(number) for number in NUMBERS if rank < number]
        assert max(errors.values()) < 1e-9, errors


@pytest.mark.parametrize("name", EVALUATIONS)
def test_n_processes_have_the_metrics_of_one(name: str, found: list[dict[str, Any]]) -> None:
    alone = found[0]["metrics"][name]["0"]
    assert max(alone.values()) > 0
    for rank in range(3):
        for number, metrics in found[rank]["metrics"][name].items():
            assert metrics == alone, (rank, number)


@pytest.mark.parametrize("name", SPLIT)
def test_split_items_have_the_loss_and_the_gradient_of_whole_ones(name: str, found: list[dict[str, Any]]) -> None:
    for rank in range(3):
        errors = found[rank]["split errors"][name]
        assert list(errors) == [str(number) for number in NUMBERS[1:] if rank < number]
        assert max(errors.values()) < 1e-9, errors


@pytest.mark.parametrize("name", RANKED)
def test_split_items_are_ranked_as_whole_ones(name: str, found: list[dict[str, Any]]) -> None:
    alone = found[0]["split metrics"][name]["0"]
    assert max(alone.values()) > 0
    for rank in range(3):
        for number, metrics in found[rank]["split metrics"][name].items():
            assert metrics == alone, (rank, number)


def test_split_items_are_trained_and_saved_as_whole_ones(found: list[dict[str, Any]]) -> None:
    results = found[0]["trainings"]
    for trained in ("split 3", "split, resumed 2", "split, resumed 1"):
        assert results[trained] == pytest.approx(results["whole 1"], abs=1e-8)
    assert found[2]["trainings"]["split 3"] == results["split 3"]
    differences = results["split weights"]
    assert {"state_dict", "average", "exp_avg", "exp_avg_sq"} <= differences.keys()
    assert max(differences.values()) < 1e-5, differences
    assert results["split files"] == ["last.pth", "pth"]


def test_n_processes_train_what_one_trains(found: list[dict[str, Any]]) -> None:
    results = found[0]["trainings"]
    for number in NUMBERS[1:]:
        assert results[f"whole {number}"] == pytest.approx(results["whole 1"], abs=1e-8)
        assert found[1]["trainings"][f"whole {number}"] == results[f"whole {number}"]


def test_another_number_of_processes_goes_on(found: list[dict[str, Any]]) -> None:
    results = found[0]["trainings"]
    for resumed in ("resumed 1", "resumed 3"):
        assert results[resumed] == pytest.approx(results["whole 1"], abs=1e-8)
    # One writer: the best and the last state.
    assert results["files"] == 2


@pytest.mark.skipif(not HAS_MAPS, reason="the system does not say which files a process has mapped")
def test_the_data_stand_in_memory_once(found: list[dict[str, Any]]) -> None:
    shared = [process["places"]["3"] for process in found]
    assert shared[0] == shared[1] == shared[2]
    alone = found[0]["places"]["1"]
    for name in ("items", "start", "rows", "tokens"):
        file, _, content = shared[0][name]
        # Memory of a process's own is of no file.
        assert file == shared[0]["items"][0] != "00:00 0" == alone[name][0]
        assert content == alone[name][2]


def test_a_group_says_what_cannot_be(found: list[dict[str, Any]]) -> None:
    host = socket.gethostname()
    for rank in range(3):
        said = found[rank]["complaints"]
        place = f"learning_rate must be 0.2 in process 1 on {host}, as in process 0 on {host}, got 0.1"
        assert said["settings"] == place
        assert said["data"] == f"process 2 on {host}: its data for test are others than those of process 0 on {host}"
        assert said["first"] == "a must be b, got 0"
        assert said["reading"] == "no data in process 0"
        assert said["contrastive"].startswith("nproc must be 1 for OfTheBatch: its loss over a batch is ")


def dies(config: Any, saved: bool) -> str:
    """A run whose process 1 is killed after the first one has saved a checkpoint."""
    with launch.joined(config) as group:
        group.first(lambda: group.saved("kept.pth"))
        if group.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        group.first(lambda: time.sleep(60))
    return "all is well"


def test_a_killed_process_ends_the_others() -> None:
    config = load_config("DiffuRec", "ml-100k", None, {**SMALL, "nproc": 2})
    begin = time.monotonic()
    with pytest.raises(UserError) as caught:
        launch.run_processes(config, True, dies)
    assert str(caught.value) == (
        "process 1 of 2 was ended by SIGKILL, as the system does when memory runs out; "
        "run the same with --resume=kept.pth to go on"
    )
    assert time.monotonic() - begin < 60
    assert not multiprocessing.active_children()


class TestMeeting:
    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(launch, "SECONDS_TO_MEET", 1)

    def test_a_port_in_use(self) -> None:
        with socket.socket() as taken:
            taken.bind(("", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(
                SettingError, match=f"port must be a port of this machine that nobody uses .*, got {port}"
            ):
                launch._store("localhost", port, True)

    def test_a_machine_that_does_not_answer(self) -> None:
        with socket.socket() as free:
            free.bind(("", 0))
            port = free.getsockname()[1]
            line = f"ip=localhost, port={port}: the first process of the run cannot be reached within 1 s"
            with pytest.raises(UserError, match=line):
                launch._store("localhost", port, False)

    def test_a_process_that_does_not_come(self) -> None:
        place = launch.Place(0, 3, "localhost", 1234, True, "0")
        store = launch._store("localhost", 0, True)
        store.set("here/2", "elsewhere")
        with pytest.raises(UserError, match="process 1 of 3 has not come to localhost:1234 within 1 s; "):
            launch._meet(place, store)


def test_torchruns_next_attempt_goes_on_from_the_last_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("DiffuRec", "ml-100k", None, {"checkpoint_dir": "saved"})
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a job")
    with pytest.raises(KeyboardInterrupt), launch.joined(config) as processes:
        processes.saved("saved/m.last.pth")
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), launch.joined(config):
        # Another run of the same name.
        assert config["resume"] is None
        raise KeyboardInterrupt
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with launch.joined(config):
        assert config["resume"] == str(Path("saved/m.last.pth").absolute())
    assert list(Path("saved").iterdir()) == []


def test_settings_that_no_processes_can_be_started_with() -> None:
    for settings, line in (
        ({"nproc": 2, "world_size": 1}, "world_size must be at least nproc + group_offset = 2, got 1"),
        ({"nproc": 2, "world_size": 4}, "port must be given, the same on each machine, got None"),
        ({"nproc": 2, "port": "http"}, "port must be a number from 1 to 65535, got 'http'"),
    ):
        with pytest.raises(SettingError) as caught:
            launch.run_processes(load_config("DiffuRec", "ml-100k", None, settings), True, dies)
        assert str(caught.value) == line
