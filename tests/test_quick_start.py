"""Scripts written for RecBole, with their imports changed and nothing else."""

from __future__ import annotations

import queue
import sys
from collections.abc import Iterator
from logging import getLogger
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from made_data import SMALL_RUN
from recbole.data.transform import construct_transform
from recbole.trainer import HyperTuning
from recbole.utils.case_study import full_sort_scores, full_sort_topk

from recbole_diffusion.config import Config
from recbole_diffusion.errors import UserError
from recbole_diffusion.quick_start import load_data_and_model, objective_function, run, run_recbole_diffusion
from recbole_diffusion.utils import (
    create_dataset,
    data_preparation,
    get_flops,
    get_model,
    get_trainer,
    init_logger,
    init_seed,
)

KEYS = {"best_valid_score", "valid_score_bigger", "best_valid_result", "test_result"}
SETTINGS = {**SMALL_RUN, "epochs": 1, "show_progress": False}
MODELS = ("DiffuRec", "SASRec", "BPR")


def settings(model: str, **changes: Any) -> dict[str, Any]:
    """A run on ml-100k that takes a second, by settings that the model reads."""
    networks = ("hidden_size", "inner_size", "n_layers", "n_heads")
    return {key: value for key, value in {**SETTINGS, **changes}.items() if model != "BPR" or key not in networks}


@pytest.fixture(autouse=True)
def command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py"])


@pytest.fixture(autouse=True)
def logging_as_found() -> Iterator[None]:
    root = getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in root.handlers[:]:
        if handler not in handlers:
            root.removeHandler(handler)
    root.setLevel(level)


def script(model: str, **changes: Any) -> tuple[Any, Any, float, dict[str, float], dict[str, float]]:
    """The custom training of RecBole's documentation."""
    config = Config(model=model, dataset="ml-100k", config_dict=settings(model, **changes))
    init_seed(config["seed"], config["reproducibility"])
    init_logger(config)
    logger = getLogger()
    logger.info(config)

    dataset = create_dataset(config)
    logger.info(dataset)
    train_data, valid_data, test_data = data_preparation(config, dataset)

    init_seed(config["seed"], config["reproducibility"])
    model = get_model(config["model"])(config, train_data.dataset).to(config["device"])
    logger.info(model)

    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    best_valid_score, best_valid_result = trainer.fit(train_data, valid_data, show_progress=config["show_progress"])
    return config, trainer, best_valid_score, best_valid_result, trainer.evaluate(test_data)


@pytest.mark.parametrize("model", MODELS)
def test_a_script_written_for_recbole_gives_what_our_own_run_gives(model: str) -> None:
    _, trainer, score, valid, test = script(model, log_dir="log")
    assert Path(trainer.saved_model_file).is_file()
    ours = run(model, "ml-100k", config_dict=settings(model))
    assert (score, valid, test) == (ours["best_valid_score"], ours["best_valid_result"], ours["test_result"])
    (log,) = Path("log", model).iterdir()
    assert "user_inter_num_interval = [27,30]" in log.read_text()


def test_flags_of_the_script_are_stronger_than_what_it_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["script.py", "--hidden_size=8", "--topk=3,10", "--mine=4"])
    config, _, _, valid, _ = script("DiffuRec")
    assert (config["hidden_size"], config["topk"], config["mine"]) == (8, [3, 10], None)
    assert {key for key in valid if key.startswith("hit")} == {"hit@3", "hit@10"}


def test_run_recbole_diffusion_returns_what_recbole_returns() -> None:
    results: queue.Queue[dict[str, Any]] = queue.Queue()
    result = run_recbole_diffusion("SASRec", "ml-100k", config_dict=settings("SASRec"), saved=False, queue=results)
    assert set(result) == KEYS
    assert results.get_nowait() == result
    assert not list(Path().rglob("*.pth"))


def test_a_trial_names_model_and_dataset_in_its_settings() -> None:
    Path("fixed.yaml").write_text(yaml.safe_dump({"dataset": "ml-100k", **settings("DiffuRec")}))
    result = objective_function({"model": "DiffuRec", "learning_rate": 0.01}, ["fixed.yaml"], saved=False)
    assert set(result) == {"model", *KEYS}
    assert result["model"] == "DiffuRec"
    assert result["best_valid_score"] == result["best_valid_result"]["ndcg@10"]


def test_recboles_search_runs_our_trials() -> None:
    pytest.importorskip("hyperopt", reason="RecBole's HyperTuning needs hyperopt")
    Path("fixed.yaml").write_text(yaml.safe_dump({"model": "DiffuRec", "dataset": "ml-100k", **settings("DiffuRec")}))
    space = {"choice": {"learning_rate": [0.0001, 0.01], "n_layers": [1, 2]}}
    # Its exhaustive search is of an older hyperopt.
    search = HyperTuning(
        objective_function, params_dict=space, fixed_config_file_list=["fixed.yaml"], algo="random", max_evals=3
    )
    search.run()
    assert 1 <= len(search.params2result) <= 3
    assert search.best_score == max(result["best_valid_score"] for result in search.params2result.values())


@pytest.mark.parametrize("model", MODELS)
def test_a_saved_model_comes_back_with_its_data(model: str, saved: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path, test_result = saved(model)
    monkeypatch.setattr(sys, "argv", ["script.py", "--embedding_size=8", "--hidden_size=8"])
    handlers = list(getLogger().handlers)
    config, loaded, dataset, train_data, _, test_data = load_data_and_model(path.parent)
    assert getLogger().handlers == handlers
    assert type(loaded) is get_model(model)
    assert (config["model"], dataset.dataset_name) == (model, "ml-100k")
    assert len(train_data.dataset) > len(test_data.dataset) > 0
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, loaded)
    assert trainer.evaluate(test_data, load_best_model=False) == test_result


@pytest.mark.parametrize("model", MODELS)
def test_recboles_case_study_works_on_a_saved_model(model: str, saved: Any) -> None:
    config, loaded, dataset, _, _, test_data = load_data_and_model(saved(model).path)
    users = test_data.dataset.inter_feat[dataset.uid_field][:3].numpy()
    scores = full_sort_scores(users, loaded, test_data, device=config["device"])
    assert scores.shape == (3, dataset.item_num)
    assert torch.isneginf(scores[:, 0]).all()
    best, items = full_sort_topk(users, loaded, test_data, k=10, device=config["device"])
    assert torch.equal(best, scores.topk(10).values)
    assert torch.equal(scores.gather(1, items), best)
    tokens = dataset.id2token(dataset.iid_field, items.numpy())
    assert tokens.shape == (3, 10)

    # As the evaluation ranks: the first three test rows.
    loaded.eval()
    rows = torch.isin(test_data.dataset.inter_feat[dataset.uid_field], torch.as_tensor(users)).nonzero()[:, 0]
    with torch.no_grad():
        ranked = loaded.full_sort_predict(test_data.dataset[rows].to(config["device"])).view(3, -1)
    known = scores.isfinite()
    torch.testing.assert_close(ranked[known], scores[known])


def test_a_saved_model_is_not_loaded_as_another(saved: Any) -> None:
    path = saved("DiffuRec").path
    with pytest.raises(UserError, match=f"^model='SASRec': {path} is of the model DiffuRec$"):
        load_data_and_model(path, "SASRec")


def test_a_model_of_the_users_own_is_loaded_by_its_file() -> None:
    Path("own.py").write_text(
        "from recbole_diffusion.model.diffurec import DiffuRec\n\n\nclass Own(DiffuRec):\n    pass\n"
    )
    result = run("own.py:Own", "ml-100k", config_dict=settings("Own", checkpoint_dir="own"))
    with pytest.raises(UserError, match="Own"):
        load_data_and_model("own")
    config, loaded, *_, test_data = load_data_and_model("own", model="own.py:Own")
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, loaded)
    assert trainer.evaluate(test_data, load_best_model=False) == result["test_result"]


def test_a_checkpoint_of_other_data_is_refused(atomic: Any) -> None:
    header = "user_id:token\titem_id:token\ttimestamp:float\n"
    rows = [f"u{user}\ti{(user + place) % 9}\t{place}" for user in range(6) for place in range(6)]
    data_path = atomic(inter=header + "\n".join(rows))
    changes = {"data_path": data_path, "user_inter_num_interval": None, "topk": [5], "valid_metric": "NDCG@5"}
    run("SASRec", "made", config_dict=settings("SASRec", checkpoint_dir="saved", **changes))
    atomic(inter=header + "\n".join([*rows, "u1\ti99\t99"]))
    with pytest.raises(UserError, match=r"of another catalogue: it knows 9 items, not the 10"):
        load_data_and_model("saved")


@pytest.mark.parametrize("model", MODELS)
def test_flops_are_counted_where_thop_is_there(model: str) -> None:
    pytest.importorskip("thop.profile", reason="RecBole counts with thop")
    config = Config(model, "ml-100k", config_dict=settings(model))
    dataset = create_dataset(config)
    train_data, _, _ = data_preparation(config, dataset)
    built = get_model(model)(config, train_data.dataset)
    counted = get_flops(built, dataset, config["device"], getLogger(), construct_transform(config))
    assert counted > 0


def test_flops_without_thop_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "thop.profile", None)
    config = Config("BPR", "ml-100k", config_dict=settings("BPR"))
    dataset = create_dataset(config)
    train_data, _, _ = data_preparation(config, dataset)
    built = get_model("BPR")(config, train_data.dataset)
    with pytest.raises(UserError, match="get_flops needs the packages thop and setuptools"):
        get_flops(built, dataset, config["device"], getLogger(), construct_transform(config))
