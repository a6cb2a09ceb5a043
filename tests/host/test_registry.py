from __future__ import annotations

import sys
from pathlib import Path

import pytest
from recbole.model.general_recommender import DiffRec as RecBoleDiffRec
from recbole.model.sequential_recommender import SASRec

from recbole_diffusion.errors import UserError
from recbole_diffusion.host.registry import (
    PROPERTIES,
    find_model,
    is_recboles,
    model_name,
    our_models,
    property_files,
    recbole_models,
)

MODEL = """
from recbole.model.abstract_recommender import SequentialRecommender


class Mine(SequentialRecommender):
    pass


class Other:
    pass
"""


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(MODEL)
    return file


@pytest.mark.parametrize("name", ["DiffuRec", "DiffRec", "Pop"])
def test_ours_come_first(name: str) -> None:
    model = find_model(name)
    assert model.__name__ == name and model.__module__.startswith("recbole_diffusion.")
    assert name in our_models() and name not in recbole_models()


def test_diffrec_is_not_recboles() -> None:
    assert find_model("DiffRec") is not RecBoleDiffRec
    assert model_name(find_model("DiffRec")) == "DiffRec"


@pytest.mark.parametrize("name", ["DiffRec", "Pop"])
def test_recboles_models_of_our_names_have_names_of_their_own(name: str) -> None:
    theirs = find_model(f"RecBole-{name}")
    assert theirs.__name__ == name and is_recboles(theirs)
    assert model_name(theirs) == f"RecBole-{name}" and f"RecBole-{name}" in recbole_models()
    assert model_name(find_model("SASRec")) == "SASRec" and find_model("RecBole-SASRec") is find_model("SASRec")
    with pytest.raises(UserError, match="model='RecBole-DiffuRec': there is no such model"):
        find_model("RecBole-DiffuRec")


@pytest.mark.parametrize("name", ["SASRec", "BERT4Rec", "GRU4Rec", "BPR", "FM", "KGAT"])
def test_recboles_models_are_found(name: str) -> None:
    model = find_model(name)
    assert model.__module__.startswith("recbole.model.") and is_recboles(model)
    assert name in recbole_models()


@pytest.mark.parametrize(
    ("name", "near"),
    [("DifuRec", "DiffuRec"), ("diffurec", "DiffuRec"), ("sasrec", "SASRec"), ("Bert4rec", "BERT4Rec")],
)
def test_unknown_model_is_told_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UserError) as caught:
        find_model(name)
    assert str(caught.value) == f"model={name!r}: there is no such model; did you mean {near}?"


def test_model_like_no_other_is_told_ours() -> None:
    with pytest.raises(UserError, match=r"model='qqqqqq': there is no such model; ours are .*DiffRec, DiffuRec, "):
        find_model("qqqqqq")


@pytest.mark.parametrize("name", ["XGBoost", "LightGBM"])
def test_decision_trees_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"model='{name}': decision trees"):
        find_model(name)


def test_model_whose_packages_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "recbole.model.sequential_recommender.narm", None)
    with pytest.raises(UserError, match=r"model='NARM': RecBole's model cannot be imported: .*narm"):
        find_model("NARM")


def test_class_is_handed_through() -> None:
    assert find_model(SASRec) is SASRec


def test_class_that_is_no_model_is_refused() -> None:
    with pytest.raises(UserError, match="model must be a class derived from one of RecBole's recommenders"):
        find_model(dict)


def test_model_in_a_file(model_file: Path) -> None:
    model = find_model(f"{model_file}:Mine")
    assert model.__name__ == "Mine" and not is_recboles(model) and not model.__module__.startswith("recbole_diffusion.")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.py:Mine", "model='absent.py:Mine': there is no file absent.py"),
        ("mine.py:Yours", "model='mine.py:Yours': mine.py holds no class 'Yours'"),
        ("mine.py:Other", "model must be a class derived from one of RecBole's recommenders, got 'mine.py:Other'"),
        ("broken.py:Mine", "model='broken.py:Mine': broken.py fails with ZeroDivisionError: division by zero"),
    ],
)
def test_mistakes_in_a_model_file(model_file: Path, name: str, message: str) -> None:
    model_file.with_name("broken.py").write_text("1 / 0\n")
    with pytest.raises(UserError) as caught:
        find_model(name)
    assert str(caught.value) == message


def test_properties_of_a_model_of_ours() -> None:
    files = property_files(find_model("DiffuRec"), "ml-100k")
    lineage = ["DiffusionRecommender.yaml", "GaussianRecommender.yaml", "DiffuRec.yaml"]
    assert files[:4] == [PROPERTIES / "overall.yaml", *(PROPERTIES / "model" / name for name in lineage)]
    assert all(file.is_file() for file in files)


def test_properties_rise_from_general_to_special(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["overall.yaml", "model/SASRec.yaml", "dataset/toy.yaml", "quick_start_config/SASRec_on_toy.yaml"]
    for name in [*names, "model/GRU4Rec.yaml", "quick_start_config/SASRec_on_other.yaml"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    monkeypatch.setattr("recbole_diffusion.host.registry.PROPERTIES", tmp_path)
    assert property_files(SASRec, "toy") == [tmp_path / name for name in names]


def test_yaml_of_a_users_model_stands_beside_it(model_file: Path) -> None:
    beside = model_file.with_name("Mine.yaml")
    beside.write_text("hidden_size: 8\n")
    assert property_files(find_model(f"{model_file}:Mine"), "toy") == [PROPERTIES / "overall.yaml", beside]


def test_derived_model_inherits_its_bases_settings() -> None:
    class Mine(find_model("DiffuRec")):  # type: ignore[misc]
        pass

    assert PROPERTIES / "model" / "DiffuRec.yaml" in property_files(Mine, "toy")


def test_a_namesake_of_recboles_gets_nothing_of_ours() -> None:
    from recbole.model.general_recommender.diffrec import DiffRec
    from recbole.model.general_recommender.ldiffrec import LDiffRec

    for model in (DiffRec, LDiffRec):
        assert not [file for file in property_files(model, "ml-100k") if "DiffRec" in file.name]
