from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from recbole.model.abstract_recommender import SequentialRecommender
from recbole.utils import argument_list

import recbole_diffusion.model
from recbole_diffusion.common.setting import Setting, table_of
from recbole_diffusion.compare.plan import OWN
from recbole_diffusion.errors import SettingError
from recbole_diffusion.host import table
from recbole_diffusion.host.parsing import read_yaml, typed
from recbole_diffusion.host.registry import PROPERTIES, find_model, our_models, property_files, recbole_folder
from recbole_diffusion.host.table import FINISHED, GENERAL, changeable, is_interval, rename, settings_table

COMMENTED = re.compile(r"^([\w-]+)[ \t]*:[^#\n]*#[ \t]*\(([^)]*)\)", re.MULTILINE)
# RecBole's script and its logging read these, which no yaml of RecBole's has.
WITHOUT_DEFAULT = {"nproc", "world_size", "ip", "port", "offset", "encoding", "loss_type"}


def our_classes() -> dict[str, type]:
    """The classes of all models of ours and of their families, by name."""
    classes = {}
    for file in Path(recbole_diffusion.model.__file__).parent.glob("[!_]*.py"):
        module = importlib.import_module(f"recbole_diffusion.model.{file.stem}")
        classes.update({name: kind for name, kind in vars(module).items() if isinstance(kind, type)})
    return classes


def rows_of(file: Path) -> dict[str, Setting]:
    """The table that a property file of ours is to follow."""
    if file.name == "compare.yaml":
        return OWN
    if file.parent.name not in ("model", "quick_start_config"):
        return GENERAL
    name = re.split(r"_on_|-", file.stem)[0]
    return {**GENERAL, **table_of(our_classes()[name])}


FILES = [file for file in sorted(PROPERTIES.rglob("*.yaml")) if file.parent.name != "tune"]


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_yaml_and_table_say_the_same(file: Path) -> None:
    content, rows = read_yaml(file), rows_of(file)
    comments = dict(COMMENTED.findall(file.read_text(encoding="utf-8")))
    assert comments == {key: rows[key].kind for key in content}
    for key, value in content.items():
        read = typed(key, value, rows[key].kind)
        assert read == value
        rows[key].check(key, read)


def test_every_row_has_a_default() -> None:
    assert read_yaml(PROPERTIES / "compare.yaml").keys() == OWN.keys()
    recboles = [recbole_folder() / "properties" / name for name in ("overall.yaml", "dataset/sample.yaml")]
    general = {key for file in (*recboles, PROPERTIES / "overall.yaml") for key in read_yaml(file)}
    assert general | WITHOUT_DEFAULT == GENERAL.keys()
    for name in our_models():
        model = find_model(name)
        given = {key for file in property_files(model, "any") for key in read_yaml(file)}
        assert table_of(model).keys() <= given


def test_general_table_knows_what_recbole_calls_its_settings() -> None:
    names = {
        name
        for category in ("general", "training", "evaluation", "dataset")
        for name in getattr(argument_list, f"{category}_arguments")
    }
    assert names <= {*GENERAL, *table.NAMES}


def test_spaces_of_tuning_have_known_settings() -> None:
    for file in (PROPERTIES / "tune").glob("*.yaml"):
        model = find_model(file.stem)
        defaults = [read_yaml(file) for file in (recbole_folder() / "properties" / "model").glob(f"{file.stem}.yaml")]
        assert yaml.safe_load(file.read_text(encoding="utf-8")).keys() <= settings_table(model, defaults).keys()


def test_a_key_without_a_row_has_the_type_of_its_default() -> None:
    class Mine(SequentialRecommender):
        settings: ClassVar[dict[str, Setting]] = {"width": Setting("int or ~")}

    rows = settings_table(Mine, [{"width": 3, "depth": 1, "reg_weight": 2}, {"depth": None, "epochs": 3}])
    kinds = {key: rows[key].kind for key in ("width", "depth", "reg_weight", "epochs")}
    assert kinds == {
        "width": "int or ~",
        "depth": "int or ~",
        "reg_weight": "float or list of float",
        "epochs": "int",
    }


@pytest.mark.parametrize(
    ("value", "holds"),
    [
        ("[5,inf)", True),
        ("(1,2];[4,5]", True),
        ("[5,", False),
        ("5", False),
        ("[5,2]", False),
        ("[a,b]", False),
        ("[nan,5)", False),
    ],
)
def test_intervals(value: str, holds: bool) -> None:
    assert is_interval(value) is holds


def test_what_may_change() -> None:
    model = find_model("DiffuRec")
    on_resume, with_weights = changeable(model, resume=True), changeable(model, resume=False)
    assert {"epochs", "learning_rate", "gpu_id", "topk", "inference_steps", "resume"} <= on_resume
    assert not on_resume & {"seed", "eval_args", "user_inter_num_interval", "hidden_size", "MAX_ITEM_LIST_LENGTH"}
    assert with_weights - on_resume >= {"seed", "eval_args", "user_inter_num_interval"}
    assert not with_weights & {"hidden_size", "MAX_ITEM_LIST_LENGTH", "loss_type"}


class TestRename:
    class Mine(SequentialRecommender):
        aliases: ClassVar[dict[str, str]] = {"old_width": "width"}

    class Derived(Mine):
        aliases: ClassVar[dict[str, str]] = {"old_depth": "depth"}

    def test_an_old_name_is_read_as_the_new_one(self) -> None:
        given = {"old_width": 3, "old_depth": 2, "seed": 5}
        settings, warnings = rename(given, self.Derived, {"width", "depth", "seed"})
        assert settings == {"width": 3, "depth": 2, "seed": 5}
        assert warnings == {
            "old_width": "old_width is called width now",
            "old_depth": "old_depth is called depth now",
        }
        assert given.keys() == {"old_width", "old_depth", "seed"}

    def test_names_of_another_model_are_left(self) -> None:
        assert rename({"old_width": 3}, SequentialRecommender, ()) == ({"old_width": 3}, {})

    def test_both_names_are_refused(self) -> None:
        with pytest.raises(SettingError, match="old_width must be left out, as width is given"):
            rename({"old_width": 3, "width": 4}, self.Mine, {"width"})

    @pytest.mark.parametrize("key", FINISHED)
    def test_a_finished_switch_may_have_the_value_that_is_left(self, key: str) -> None:
        settings, warnings = rename({key: str(FINISHED[key])}, self.Mine, ())
        assert settings == {} and warnings == {key: f"the setting {key} is gone; it is always {FINISHED[key]}"}

    @pytest.mark.parametrize(("key", "value"), [("positions_from", "oldest"), ("embedding_noise_at_inference", True)])
    def test_a_finished_switch_may_have_no_other(self, key: str, value: Any) -> None:
        with pytest.raises(SettingError, match=f"{key} must be {FINISHED[key]}, which is all that is left of it"):
            rename({key: value}, self.Mine, ())
