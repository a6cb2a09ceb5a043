"""What every model of the family must be able to do, by four models that nobody foresaw and by those of the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_plans import InThisProcess

from recbole_diffusion.cli.main import main
from recbole_diffusion.compare import local
from recbole_diffusion.diffusion.noise import GivenNoise
from recbole_diffusion.errors import SettingError
from recbole_diffusion.host.settings import load_config
from recbole_diffusion.inference import Recommender
from recbole_diffusion.training.checkpoint import load
from recbole_diffusion.training.run import prepare, train_and_test

EXAMPLES = Path(__file__).parent
EXAMPLE_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "GuidedMLP": ("guided_mlp.py", {"guidance_scale": 3.0}),
    "PredictsNoise": ("predicts_noise.py", {"inference_steps": 16}),
    "EveryPlace": ("every_place.py", {"noise_scale": 2.0}),
    "MaskedItem": ("masked_item.py", {"inference_steps": 2}),
}
# What may change on a trained model, by which its answers change.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **EXAMPLE_MODELS,
    "ADRec": ("", {"noise_scale": 2.0}),
    "BBDRec": ("", {"noise_scale": 2.0}),
    "FMRec": ("", {"noise_scale": 2.0, "inference_steps": 3}),
    "PreferGrow": ("", {"guidance_scale": 5.0}),
    "RFMRec": ("", {"inference_steps": 1}),
    "DreamRec": ("", {"guidance_scale": 0.5}),
    "PreferDiff": ("", {"guidance_scale": 6.0, "ddim_stride": 100}),
}
SMALL = {
    "user_inter_num_interval": "[0,22]",
    "hidden_size": 16,
    "show_progress": False,
    "log_dir": None,
    "tensorboard_dir": None,
}


def path_of(model: str) -> str:
    file = MODELS[model][0]
    return f"{EXAMPLES / file}:{model}" if file else model


def run(model: str, folder: Path | str, **changes: Any) -> Any:
    settings = {**SMALL, "epochs": 1, "checkpoint_dir": str(folder), **changes}
    return train_and_test(path_of(model), "ml-100k", config_dict=settings)


@pytest.fixture(scope="session")
def checkpoint_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The checkpoint of an example, trained for an epoch once a session."""
    done: dict[str, Path] = {}

    def train(model: str) -> Path:
        if model not in done:
            done[model] = run(model, tmp_path_factory.mktemp(model)).model_file
        return done[model]

    return train


def test_a_target_at_every_place_has_no_negative_of_its_own() -> None:
    with pytest.raises(SettingError, match=r"^loss_type must be CE, as EveryPlace trains every place, got 'BPR'$"):
        load_config(path_of("EveryPlace"), "ml-100k", None, {**SMALL, "loss_type": "BPR"})


@pytest.mark.parametrize("model", EXAMPLE_MODELS)
def test_it_is_short_and_its_yaml_holds_its_own_keys(model: str) -> None:
    file = EXAMPLES / MODELS[model][0]
    assert len(file.read_text().splitlines()) <= 80
    keys = (EXAMPLES / f"{model}.yaml").read_text().splitlines()
    assert 2 <= len(keys) <= 6


@pytest.mark.parametrize("model", MODELS)
def test_it_resumes_exactly(model: str, tmp_path: Path) -> None:
    whole = run(model, tmp_path, epochs=2)
    first = run(model, tmp_path, epochs=1)
    last = str(first.model_file.with_suffix(".last.pth"))
    resumed = run(model, tmp_path, epochs=2, resume=last)
    assert resumed.result == whole.result
    # The result is that of the best epoch, which may be the first.
    ends = [load(one.model_file.with_suffix(".last.pth")) for one in (whole, resumed)]
    assert ends[0]["epoch"] == ends[1]["epoch"] == 1
    torch.testing.assert_close(ends[1]["state_dict"], ends[0]["state_dict"], atol=0, rtol=0)


@pytest.mark.parametrize("model", MODELS)
def test_the_off_switch_lets_no_noise_through(model: str) -> None:
    config = load_config(path_of(model), "ml-100k", None, {**SMALL, "diffusion": False})
    prepared = prepare(config)
    batch = next(iter(prepared.train_data))
    rows = len(batch)
    # Only what a row may lose is drawn, and what a decoder of the history learns; there is no number for x_t, its step
    # or the chain.
    places = prepared.model.history(batch).items.numel()
    silent = GivenNoise({"guidance_drop": torch.ones(rows, 1), "history_zeros": torch.rand(places)})
    assert prepared.model.calculate_loss(batch, silent).isfinite()
    prepared.model.eval()
    with torch.no_grad():
        scores = prepared.model.full_sort_predict(batch, GivenNoise({}))
    assert scores.shape == (rows, prepared.model.n_items) and scores[:, 1:].isfinite().all()


def test_all_of_them_have_an_off_row_in_a_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "start_process", InThisProcess)
    models = ",".join(f"{model}={path_of(model)}" for model in MODELS)
    small = [f"--{key}={'~' if value is None else value}" for key, value in SMALL.items()]
    argv = [f"--model_list={models}", "--seeds=1", "--epochs=1", f"--output={tmp_path / 'out'}", *small]
    assert main(["compare", "--dataset=ml-100k", *argv]) == 0
    report = (tmp_path / "out" / "report.md").read_text()
    assert all(f"{model}-off" in report for model in MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_it_is_evaluated_by_samples(model: str, tmp_path: Path) -> None:
    result = run(model, tmp_path, eval_args={"mode": "uni100"}).result
    assert 0 <= result["test_result"]["ndcg@10"] <= 1


@pytest.mark.parametrize("model", MODELS)
def test_it_recommends_and_what_may_change_can_be_swept(
    model: str, checkpoint_of: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    shared = [f"--checkpoint={checkpoint_of(model)}", f"--model={path_of(model)}", "--history=50,172,1", "--topk=5"]
    changes = [f"--{key}={value}" for key, value in MODELS[model][1].items()]
    answers = []
    for flags in ([], [], changes):
        assert main(["recommend", *shared, *flags]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] and answers[0] != answers[2]
    assert len(answers[0].splitlines()) >= 7


@pytest.mark.parametrize("model", MODELS)
def test_several_noises_tell_how_sure_it_is(model: str, checkpoint_of: Callable[[str], Path]) -> None:
    recommender = Recommender.load(checkpoint_of(model), device="cpu", model=path_of(model))
    sure = recommender.recommend(["50", "172", "1"], inference_seeds=4).certainty
    assert sure is not None and sure.distance.shape == (1,) and (sure.distance >= 0).all()
    assert ((sure.share >= 0) & (sure.share <= 1)).all()


@pytest.mark.parametrize("model", MODELS)
def test_its_reverse_process_is_explained(
    model: str, checkpoint_of: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = [f"--checkpoint={checkpoint_of(model)}", f"--model={path_of(model)}", "--history=50,172,1"]
    assert main(["explain", *shared, f"--output={tmp_path / 'why.png'}", "--inference_steps=3"]) == 0
    table = capsys.readouterr().out
    assert "x_0" in table and (tmp_path / "why.png").stat().st_size > 1000


@pytest.mark.parametrize("model", MODELS)
@torch.no_grad()
def test_scores_do_not_depend_on_the_batch(model: str) -> None:
    prepared = prepare(load_config(path_of(model), "ml-100k", None, {**SMALL}))
    network = prepared.model.eval()
    batch = next(iter(prepared.valid_data))[0][:6]
    together = network.full_sort_predict(batch)
    alone = torch.cat([network.full_sort_predict(batch[[row]]) for row in range(6)])
    torch.testing.assert_close(alone[:, 1:], together[:, 1:], atol=1e-4, rtol=0)
