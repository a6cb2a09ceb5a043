from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import yaml
from small_plans import SMALL, InThisProcess

from recbole_diffusion.compare import local, tune
from recbole_diffusion.compare import study as studies
from recbole_diffusion.compare import trial as trials
from recbole_diffusion.compare.plan import Request, Variant, make_variants, read_request
from recbole_diffusion.errors import OutOfTime, UserError
from recbole_diffusion.training.trainer import TrainingError

DEFAULT = 0.001  # SASRec's learning rate


def request(trials: int, models: str = "SASRec", **settings: str) -> Request:
    return read_request({**SMALL, "model_list": models, "trials": str(trials), **settings}, [], "ml-100k")


class Scores(list[float]):
    """Stands in for training: the learning rate is the score; notes it."""

    error: BaseException | None = None

    def __call__(self, trial: optuna.Trial, model: str, dataset: str, settings: Any, *rest: Any) -> float:
        self.append(settings["learning_rate"])
        if self.error is not None:
            raise self.error
        return self[-1]


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> Scores:
    scores = Scores()
    monkeypatch.setattr(trials, "train", scores)
    return scores


def trials_of(model: str = "SASRec") -> pd.DataFrame:
    return pd.read_csv(Path("tune", "ml-100k", model, "trials.csv"), converters={"params_learning_rate": float})


def study_of(model: str = "SASRec") -> optuna.Study:
    storage = studies.JournalStorage(studies.JournalFileBackend(f"tune/ml-100k/{model}/study.journal"))
    return optuna.load_study(study_name=model, storage=storage)


def test_every_model_has_its_trials_beginning_with_the_defaults(scores: Scores) -> None:
    table = tune.tune_all(request(4, "SASRec,BERT4Rec"))
    assert len(scores) == 8 and scores[0] == scores[4] == DEFAULT
    for model in ("SASRec", "BERT4Rec"):
        trials = trials_of(model)
        assert trials["state"].tolist() == ["COMPLETE"] * 4
        space = studies.read_space(model)["learning_rate"]
        assert trials["params_learning_rate"].between(space["low"], space["high"]).all()
        assert trials["params_learning_rate"].nunique() == 4
        # A file to be shown around names no machine.
        assert not [column for column in trials if column.startswith("user_attrs")]
        best = yaml.safe_load(Path("tune", "ml-100k", model, "best.yaml").read_text())
        assert best["learning_rate"] == trials["params_learning_rate"].max()
        assert set(best) == set(studies.read_space(model))
    assert "--tuned=tune/ml-100k" in table


def test_a_line_that_was_not_written_whole_costs_no_more_than_itself(scores: Scores) -> None:
    tune.tune_all(request(2))
    journal = Path("tune", "ml-100k", "SASRec", "study.journal")
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":4,"wor')
    tune.tune_all(request(3))
    tune.tune_all(request(3))
    assert len(scores) == 3 and trials_of()["state"].tolist() == ["COMPLETE"] * 3
    assert journal.read_bytes().startswith(whole + b"{")


def test_what_was_tuned_on_another_dataset_or_of_another_model_is_told(scores: Scores) -> None:
    tune.tune_all(request(1))

    def rows(models: str, dataset: str) -> list[Variant]:
        settings = {**SMALL, "model_list": models, "tuned": "tune/ml-100k"}
        return make_variants(read_request(settings, [], dataset))

    told = "SASRec has settings that were tuned on ml-100k, not on other"
    assert told in rows("SASRec", "other")[0].warnings
    assert not any("tuned" in warning for warning in rows("SASRec", "ml-100k")[0].warnings)
    message = (
        r"tuned must hold settings of BERT4Rec for SASRec; those of tune/ml-100k/SASRec/best\.yaml are of SASRec, got"
    )
    with pytest.raises(UserError, match=message):
        rows("SASRec=BERT4Rec", "ml-100k")
    # Earlier versions did not note what a study is of.
    Path("tune/ml-100k/SASRec/study.json").unlink()
    assert not any("tuned" in warning for warning in rows("SASRec", "other")[0].warnings)


@pytest.mark.parametrize("spoilt", ["no journal\n", '{"op_code": 99}\n', "[]\n", '{"op_code": 0, "worker_id": "x"}\n'])
def test_a_damaged_journal_is_named_in_one_line(scores: Scores, spoilt: str) -> None:
    tune.tune_all(request(1))
    journal = Path("tune", "ml-100k", "SASRec", "study.journal")
    journal.write_text(spoilt + journal.read_text())
    with pytest.raises(UserError, match=r"study\.journal: the trials cannot be read \(") as error:
        tune.tune_all(request(2))
    assert "\n" not in str(error.value) and len(scores) == 1


def test_the_same_command_does_what_is_left(scores: Scores) -> None:
    tune.tune_all(request(2))
    tune.tune_all(request(2))
    assert len(scores) == 2
    tune.tune_all(request(3))
    assert len(scores) == 3


def test_the_trials_do_not_depend_on_being_broken_off(scores: Scores) -> None:
    tune.tune_all(request(3, output="whole"))
    whole = list(scores)
    scores.clear()
    tune.tune_all(request(2))
    scores.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        tune.tune_all(request(3))
    scores.error = None
    tune.tune_all(request(3))
    assert len(scores) == 4 and scores[:3] == whole
    # The one that was broken off is done again.
    assert scores[3] == scores[2]
    assert trials_of()["state"].tolist() == ["COMPLETE", "COMPLETE", "FAIL", "COMPLETE"]


def test_a_tuning_ends_before_its_deadline_and_goes_on(scores: Scores) -> None:
    tune.tune_all(request(3, output="whole"))
    whole = list(scores)
    scores.clear()
    # Minutes from the start of this process.
    with pytest.raises(OutOfTime, match="deadline: no time is left; the same command goes on with the trials"):
        tune.tune_all(request(3, deadline="1e-6"))
    assert scores == []
    scores.error = OutOfTime("deadline: 3 s are left, and the next epoch takes 4 s")
    with pytest.raises(OutOfTime, match="4 s; the same command goes on"):
        tune.tune_all(request(3, deadline="1e6"))
    scores.error = None
    tune.tune_all(request(3))
    assert scores == [whole[0], *whole] and trials_of()["state"].tolist() == ["FAIL", *["COMPLETE"] * 3]


def test_a_trial_whose_process_is_gone_is_done_again(scores: Scores) -> None:
    tune.tune_all(request(1))
    trial = study_of().ask()
    trial.set_user_attr("host", trials.socket.gethostname())
    trial.set_user_attr("pid", 2**22 + 1)  # above any that Linux gives
    point = studies.suggest(trial, studies.read_space("SASRec"))
    tune.tune_all(request(2))
    assert scores == [DEFAULT, point["learning_rate"]]


def test_a_trial_at_work_elsewhere_counts(scores: Scores) -> None:
    tune.tune_all(request(1))
    trial = study_of().ask()
    trial.set_user_attr("host", "another machine")
    tune.tune_all(request(2))
    assert len(scores) == 1


def test_a_trial_that_fails_is_recorded_and_counts(scores: Scores) -> None:
    scores.error = TrainingError("the loss is nan")
    table = tune.tune_all(request(2))
    trials = trials_of()
    assert trials["state"].tolist() == ["FAIL"] * 2 and set(trials["user_attrs_error"]) == {"the loss is nan"}
    assert "none" in table and not Path("tune/ml-100k/SASRec/best.yaml").exists()


def test_what_is_no_result_of_the_search_ends_it_and_is_tried_again(scores: Scores) -> None:
    scores.error = UserError("there are no data")
    with pytest.raises(UserError, match="no data"):
        tune.tune_all(request(2))
    scores.error = None
    tune.tune_all(request(2))
    assert scores[:2] == [DEFAULT, DEFAULT] and len(scores) == 3


def test_the_best_stands_only_when_all_trials_are_done(scores: Scores) -> None:
    best = Path("tune/ml-100k/SASRec/best.yaml")
    tune.tune_all(request(1))
    assert best.is_file()
    scores.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        tune.tune_all(request(2))
    assert not best.exists()
    scores.error = None
    tune.tune_all(request(2))
    assert best.is_file()


def test_processes_that_begin_at_once_draw_different_points(scores: Scores, monkeypatch: pytest.MonkeyPatch) -> None:
    tune.tune_all(request(1))
    ask, others = optuna.Study.ask, []

    def other_first(study: optuna.Study) -> optuna.Trial:
        # Another process asks in the same moment.
        if not others:
            others.append(ask(study))
            others[0].set_user_attr("host", "another machine")
        return ask(study)

    monkeypatch.setattr(optuna.Study, "ask", other_first)
    tune.tune_all(request(3))
    monkeypatch.undo()
    seed = request(3).own["seeds"][0]
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(n_startup_trials=4, seed=seed + 2))
    assert scores[1] == studies.suggest(study.ask(), studies.read_space("SASRec"))["learning_rate"]


def test_another_program_may_have_the_number_of_a_process_by_now(scores: Scores) -> None:
    tune.tune_all(request(1))
    trial = study_of().ask()
    for key, value in (("pid", trials.os.getpid()), ("started", 0.0), ("host", trials.socket.gethostname())):
        trial.set_user_attr(key, value)
    tune.tune_all(request(2))
    assert len(scores) == 2


def test_other_settings_are_refused_in_the_same_folder(scores: Scores) -> None:
    tune.tune_all(request(1))
    for other, message in (
        ({"seeds": "7"}, r"seeds=\[2024\] there, not \[7\]"),
        ({"trial_minutes": "5"}, "trial_minutes=None"),
        ({"pruner": "none"}, "pruner='halving' there, not 'none'"),
        ({"min_epochs": "3"}, "min_epochs=10 there, not 3"),
    ):
        with pytest.raises(UserError, match=message):
            tune.tune_all(request(1, **other))
    with pytest.raises(UserError, match="output=tune/ml-100k: SASRec was tuned with n_layers=1 there, not 2"):
        tune.tune_all(request(1, n_layers="2"))


@pytest.mark.parametrize(
    ("trials", "models", "settings", "message"),
    [
        (0, "SASRec", {}, "trials must be positive, got 0"),
        (1, "SASRec", {"pruner": "median"}, "pruner must be one of halving, none, got 'median'"),
        (1, "SASRec", {"min_epochs": "0"}, "min_epochs must be positive, got 0"),
        (1, "SASRec", {"reduction_factor": "1"}, "reduction_factor must be at least 2, got 1"),
        (1, "SASRec,Pop", {}, "model_list must have its search space in .*Pop.yaml, got 'Pop'"),
        (1, "SASRec", {"space": "nowhere"}, "model_list must have its search space in nowhere/SASRec.yaml"),
        (
            1,
            "SASRec,BERT4Rec",
            {"BERT4Rec.mask_ration": "0.2"},
            "mask_ration must be the name of a setting",
        ),
        (1, "SASRec", {"study_storage": "here"}, "study_storage must be a URL such as .*, got 'here'"),
        (1, "SASRec", {"cluster": "pbs"}, "cluster must be slurm, got 'pbs'"),
        (
            1,
            "SASRec,DiffuRec",
            {"DiffuRec.initializer_range": "0.3"},
            "initializer_range must be one of 0.02, 1.0, as .*DiffuRec.yaml has it .*, got 0.3",
        ),
        (
            1,
            "DiffuRec",
            {"attention_mask": "reference"},
            "attention_mask must be one of keys, counted, as .*got 'reference'",
        ),
        (1, "SASRec", {"hidden_dropout_prob": "0.9"}, "hidden_dropout_prob must be from 0.* to 0.*, as .*SASRec.yaml"),
        (1, "SASRec,BERT4Rec", {"BERT4Rec.stopping_step": "9"}, "BERT4Rec.stopping_step must be 3"),
    ],
)
def test_mistakes_are_told_before_anything_runs(
    scores: Scores, trials: int, models: str, settings: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        tune.tune_all(request(trials, models, **settings))
    # Nothing is left in the way of the next command.
    assert scores == [] and not list(Path().rglob("*.journal"))


def test_a_space_of_ones_own_is_searched_from_what_was_found_before(scores: Scores, tmp_path: Path) -> None:
    (tmp_path / "SASRec.yaml").write_text("n_layers: [1, 2]\n")
    (tmp_path / "SASRec").mkdir()
    (tmp_path / "SASRec" / "best.yaml").write_text("learning_rate: 0.004\n")
    tune.tune_all(request(3, space=str(tmp_path), tuned=str(tmp_path), output="own"))
    assert scores == [0.004] * 3
    trials = pd.read_csv("own/SASRec/trials.csv")
    assert trials["params_n_layers"].iloc[0] == int(SMALL["n_layers"]) and set(trials["params_n_layers"]) <= {1, 2}


def test_pruned_trials_and_the_epochs_of_all_are_recorded() -> None:
    settings = {"min_epochs": "1", "reduction_factor": "2", "epochs": "3", "stopping_step": "10"}
    table = tune.tune_all(request(4, **settings))
    trials = trials_of()
    pruned = trials["state"] == "PRUNED"
    assert pruned.any() and not pruned[0]
    epochs = trials["user_attrs_epochs"]
    assert (epochs[pruned] < 3).all() and (epochs[~pruned] == 3).all()
    best = Path("tune/ml-100k/SASRec/best.yaml").read_text(encoding="utf-8")
    assert best.startswith(f"# The best of 4 trials of {epochs.sum()} epochs in all, number ")
    assert str(epochs.sum()) in table.splitlines()[2]
    # A second call finds all done, and says the same.
    assert tune.tune_all(request(4, **settings)) == table


def test_trials_in_processes_of_their_own(scores: Scores, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = tune.tune_all(request(3, output="alone"))
    found = list(scores)
    scores.clear()
    monkeypatch.setattr(local, "start_process", InThisProcess)
    table = tune.tune_all(request(3, jobs="2"))
    # One after the other here, so that each knows those before it.
    assert scores == found and table == alone.replace("=alone", "=tune/ml-100k")
    assert trials_of()["state"].tolist() == ["COMPLETE"] * 3
    tune.tune_all(request(3, jobs="2"))
    assert len(scores) == 3


def test_processes_that_fail_are_told(scores: Scores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "start_process", InThisProcess)
    scores.error = UserError("there are no data")
    with pytest.raises(UserError, match="2 of 2 trials failed; the first is SASRec, trial 1: there are no data"):
        tune.tune_all(request(2, jobs="2"))
    scores.error = None
    tune.tune_all(request(2, jobs="2"))
    assert trials_of()["state"].tolist().count("COMPLETE") == 2


@pytest.mark.filterwarnings("error")
def test_a_trial_in_a_database_without_a_sign_of_life_is_taken_up(
    scores: Scores, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.setattr(studies, "SIGN_EVERY", 1)
    monkeypatch.setattr(studies, "SECONDS_TO_STALE", 1)
    monkeypatch.setattr(trials, "LOOK_EVERY", 0.2)
    url = "sqlite:///trials.db"
    tune.tune_all(request(1, study_storage=url))
    study = optuna.load_study(study_name="tune/ml-100k/SASRec", storage=url)
    dead = study.ask()
    dead.set_user_attr("host", "another machine")
    point = studies.suggest(dead, studies.read_space("SASRec"))
    study._storage.record_heartbeat(dead._trial_id)  # type: ignore[attr-defined]
    # It counts, and is waited for until its time is over.
    tune.tune_all(request(2, study_storage=url))
    assert scores == [DEFAULT, point["learning_rate"]]
    assert trials_of()["state"].tolist() == ["COMPLETE", "FAIL", "COMPLETE"]


def test_a_database_that_cannot_be_reached(scores: Scores) -> None:
    for url in ("sqlite:////nowhere/at/all.db", "nobase://x"):
        with pytest.raises(UserError, match="study_storage must be the URL of a database that can be reached"):
            tune.tune_all(request(1, study_storage=url))
