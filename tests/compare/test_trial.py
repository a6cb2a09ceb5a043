from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from unittest.mock import Mock

import optuna
import pytest
from optuna.trial import TrialState
from small_plans import SMALL

from recbole_diffusion.common.deadline import Deadline
from recbole_diffusion.common.files import read_json, write_json
from recbole_diffusion.compare import trial as trials
from recbole_diffusion.compare.plan import make_variants, read_request
from recbole_diffusion.compare.study import epochs_of
from recbole_diffusion.compare.trial import Search
from recbole_diffusion.errors import OutOfTime, SettingError, UserError
from recbole_diffusion.host.registry import PROPERTIES


def test_training_is_pruned_and_stopped_by_the_clock() -> None:
    settings = {**SMALL, "epochs": "4"}
    study = optuna.create_study(
        direction="maximize", pruner=optuna.pruners.ThresholdPruner(lower=2.0, n_warmup_steps=2)
    )
    with pytest.raises(optuna.TrialPruned):
        trials.train(study.ask(), "SASRec", "ml-100k", settings, None, Path("kept"))
    pruned = study.trials[0]
    assert list(pruned.intermediate_values) == [1, 2] and pruned.user_attrs["epochs"] == 2
    unpruned = optuna.create_study(direction="maximize")
    score = trials.train(unpruned.ask(), "SASRec", "ml-100k", settings, 0.0, Path("others"))
    stopped = unpruned.trials[0]
    assert stopped.intermediate_values == {1: score} and stopped.user_attrs["stopped"].startswith("after 0 minutes")
    assert score == pruned.intermediate_values[1]
    assert unpruned.trials[0].state == TrialState.RUNNING


def study_in(folder: Path, **settings: str) -> Search:
    request = read_request({**SMALL, "model_list": "SASRec", "trials": "1", **settings}, [], "ml-100k")
    (variant,) = make_variants(request._replace(own={**request.own, "off_switch": False}))
    return Search.open(variant, request, folder)


@pytest.mark.parametrize("model", sorted(space.stem for space in (PROPERTIES / "tune").iterdir()))
def test_every_model_is_trained_at_its_defaults_and_at_a_point_of_its_space(model: str) -> None:
    few = {"user_inter_num_interval": "[0,22]", "epochs": "1", "n_layers": "2"}
    search = study_in(Path(), model_list=model, trials="2", **few)
    assert (search.do_next(), search.do_next(), search.do_next()) == (0, 1, None)
    defaults, drawn = search.study.trials
    assert defaults.params == {key: search.variant.config[key] for key in search.space}
    assert drawn.params.keys() == search.space.keys() and drawn.params != defaults.params
    for trial in (defaults, drawn):
        assert trial.state == TrialState.COMPLETE and list(trial.intermediate_values) == [1]
        assert trial.value == trial.intermediate_values[1]


def test_a_trial_that_is_broken_off_goes_on_from_its_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = study_in(Path("whole"), epochs="4")
    assert whole.do_next() == 0
    search = study_in(Path("stopped"), epochs="4")
    left = iter([100.0] * 4 + [1e-6])
    with monkeypatch.context() as patch, pytest.raises(OutOfTime):
        patch.setattr(Deadline, "left", lambda self: next(left))
        search.do_next()
    assert len(list(search.folder.rglob("*.last.pth"))) == 1
    assert search.do_next() == 1
    stopped, again = search.study.trials
    alone = whole.study.trials[0]
    assert (stopped.state, again.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert (again.value, again.intermediate_values) == (alone.value, alone.intermediate_values)
    # All epochs were trained once.
    assert again.user_attrs["resumed_after"] == stopped.user_attrs["epochs"] > 0
    assert epochs_of(search.study) == epochs_of(whole.study) == 4
    # Nothing is left of a trial but its scores.
    assert not list(Path().rglob("*.pth"))


def test_no_other_trial_is_repeated_where_the_next_one_cannot_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    search = study_in(Path(), trials="2")
    search.study.tell(search.study.ask(), 0.5)
    monkeypatch.setattr(search.study, "ask", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        search.do_next()
    assert [trial.state for trial in search.study.trials] == [TrialState.COMPLETE]


def test_a_space_must_name_settings_of_the_model() -> None:
    Path("SASRec.yaml").write_text("learning_rat: [0.001]")
    with pytest.raises(
        SettingError, match=r"learning_rat=.*: SASRec has no such setting; did you mean learning_rate\?"
    ):
        study_in(Path(), space=".")


def test_a_folder_that_cannot_be_made_is_named() -> None:
    Path("file").touch()
    with pytest.raises(UserError, match=r"output=file: cannot be written to \(Not a directory\)"):
        study_in(Path("file"))


def test_a_trial_in_a_process_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    search = study_in(tmp_path, study_storage=f"sqlite:///{tmp_path}/trials.db", trials="2")
    wanted = {"dataset": "ml-100k", "own": search.own, "variant": asdict(search.variant), "root": str(tmp_path)}
    for number in range(3):
        job = tmp_path / str(number)
        write_json(job / "trial.json", wanted)
        assert trials.main(job) == 0, capsys.readouterr().err
    records = [read_json(tmp_path / str(number) / "record.json") for number in range(3)]
    assert [record["trial"] for record in records] == [0, 1, None]
    assert records[0]["ended"] == "complete" and len(records[0]["epochs"]) == 2
    assert records[0]["best_valid_score"] == search.study.trials[0].value
    write_json(tmp_path / "bad" / "trial.json", {**wanted, "own": {**search.own, "space": "nowhere"}})
    assert trials.main(tmp_path / "bad") == 1
    assert "nowhere/SASRec.yaml" in read_json(tmp_path / "bad" / "failed.json")["error"]
