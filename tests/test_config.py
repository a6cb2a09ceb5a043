"""RecBole's `Config` under our name."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import recbole.config

from recbole_diffusion.config import Config, flags_of
from recbole_diffusion.errors import SettingError, UserError
from recbole_diffusion.host.settings import load_config


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set the command line of the script."""

    def given(*words: str, program: str = "script.py") -> None:
        monkeypatch.setattr(sys, "argv", [program, *words])

    given()
    return given


def test_settings_are_ours_and_not_recboles(flags: Any) -> None:
    config = Config("DiffRec", "ml-100k")
    assert isinstance(config, recbole.config.Config)
    assert config.plain() == load_config("DiffRec", "ml-100k").plain()
    assert config.model_class.__module__ == "recbole_diffusion.model.diffrec"


def test_the_stronger_the_later(flags: Any) -> None:
    Path("a.yaml").write_text("model: DiffuRec\ndataset: ml-100k\nepochs: 1\nseed: 1\nlearning_rate: 0.1\n")
    config_dict = {"seed": 2, "learning_rate": 0.2}
    flags("--learning_rate=0.3")
    config = Config(config_file_list=["a.yaml"], config_dict=config_dict)
    assert [config[key] for key in ("epochs", "seed", "learning_rate")] == [1, 2, 0.3]
    assert config_dict == {"seed": 2, "learning_rate": 0.2}


def test_model_and_dataset_may_be_flags_and_arguments_win(flags: Any) -> None:
    flags("--model=SASRec", "--dataset=ml-100k")
    assert Config()["model"] == "SASRec"
    assert Config("DiffuRec")["model"] == "DiffuRec"


def test_a_flag_changes_the_keys_that_it_names_of_a_mapping(flags: Any) -> None:
    flags("--eval_args={mode: uni100}")
    config = Config("DiffuRec", "ml-100k", config_dict={"eval_args": {"split": {"RS": [0.8, 0.1, 0.1]}}})
    assert config["eval_args"]["split"] == {"RS": [0.8, 0.1, 0.1]}
    assert config["eval_args"]["mode"] == {"valid": "uni100", "test": "uni100"}


def test_flags_of_the_script_itself_are_left_to_it(flags: Any) -> None:
    # `--lr` would be a mistake among the settings; here it may be the script's own.
    flags("--lr=0.1", "--verbose", "-n", "3", "--epoch=7", "positional", "--n_mixtures=4")
    config = Config("DiffuRec", "ml-100k")
    assert config["lr"] is None
    assert config.plain() == load_config("DiffuRec", "ml-100k").plain()
    assert config.warnings == [
        "the flag --lr is no setting of DiffuRec and is left to the script",
        "the flag --epoch is no setting of DiffuRec and is left to the script; did you mean epochs?",
        "the flag --n_mixtures is no setting of DiffuRec and is left to the script",
    ]


def test_keys_that_the_script_sets_may_be_flags(flags: Any) -> None:
    flags("--my_own=5")
    assert Config("DiffuRec", "ml-100k", config_dict={"my_own": 1})["my_own"] == 5


def test_a_wrong_value_of_a_flag_is_an_error(flags: Any) -> None:
    flags("--epochs=many")
    with pytest.raises(SettingError, match="epochs"):
        Config("DiffuRec", "ml-100k")


def test_no_flag_is_read_in_a_notebook(flags: Any) -> None:
    flags("--f=/tmp/kernel.json", "--epochs=3", program="/x/ipykernel_launcher.py")
    config = Config("DiffuRec", "ml-100k")
    assert config.warnings == []
    assert config["epochs"] == load_config("DiffuRec", "ml-100k")["epochs"]


def test_flags_of() -> None:
    argv = ["script.py", "--a=1", "--b=x=y", "--c", "d=2", "--=3", "--a=1"]
    assert flags_of(argv) == {"a": "1", "b": "x=y"}
    assert flags_of([]) == {}
    with pytest.raises(SettingError, match="--a must be given once, and was '1' before, got '2'"):
        flags_of(["script.py", "--a=1", "--a=2"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([("epochs", 3)], r"config_dict must be a mapping such as {'epochs': 10}, got [('epochs', 3)]"),
        ({3: 4}, "config_dict: 3 is no name of a setting"),
    ],
)
@pytest.mark.parametrize("config", [Config, load_config])
def test_what_is_no_mapping_of_names_is_refused(config: Any, given: Any, message: str, flags: Any) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        config("SASRec", "toy", config_dict=given)


@pytest.mark.parametrize("config", [Config, load_config])
def test_a_single_file_may_be_a_path(config: Any, tmp_path: Path, flags: Any) -> None:
    (tmp_path / "own.yaml").write_text("epochs: 3\n")
    assert config("SASRec", "toy", tmp_path / "own.yaml")["epochs"] == 3
