from __future__ import annotations

import copy
import json
import os
import pickle
import re
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from recbole.config import Config
from recbole.model.abstract_recommender import GeneralRecommender, SequentialRecommender
from recbole.utils import InputType

from recbole_diffusion.common.setting import Setting, positive, table_of
from recbole_diffusion.errors import SettingError, UserError
from recbole_diffusion.host.parsing import read_yaml
from recbole_diffusion.host.registry import PROPERTIES, find_model, recbole_models
from recbole_diffusion.host.settings import DiffusionConfig, default_files, load_config, merge, recbole_files

LEAVE_ONE_OUT = {"LS": "valid_and_test"}


class Toy(SequentialRecommender):
    """A model of a user's, whose settings all come from the call."""


def toy(dataset: str = "toy", **settings: Any) -> DiffusionConfig:
    return load_config(Toy, dataset, config_dict={"loss_type": "CE", **settings})


def sasrec(dataset: str = "ml-100k", **settings: Any) -> DiffusionConfig:
    return load_config("SASRec", dataset, config_dict=settings)


@pytest.mark.parametrize("model", ["DiffuRec", "DiffRec", "Pop", "SASRec", "BERT4Rec", "GRU4Rec", "BPR"])
@pytest.mark.parametrize("dataset", ["ml-100k", "toy"])
def test_all_models_are_evaluated_alike(model: str, dataset: str) -> None:
    config = load_config(model, dataset)
    assert config["eval_args"]["split"] == LEAVE_ONE_OUT
    assert config["eval_args"]["order"] == "TO"
    assert config["eval_args"]["mode"] == {"valid": "full", "test": "full"}
    assert (config["metrics"], config["topk"]) == (["Hit", "NDCG", "MRR"], [5, 10, 20])
    assert (config["valid_metric"], config["repeatable"]) == ("NDCG@10", True)


@pytest.mark.parametrize("model", ["FM", "DIN", "KGAT", "NeuMF", "RepeatNet", "SINE", "MultiVAE"])
def test_other_models_of_recboles_need_no_flag(model: str) -> None:
    assert load_config(model, "ml-100k")["model"] == model


def test_models_of_values_keep_their_own_evaluation() -> None:
    config = load_config("FM", "ml-100k")
    assert config["metrics"] == ["AUC", "LogLoss"] and config["eval_args"]["mode"]["valid"] == "labeled"


def test_recboles_yaml_of_the_same_name_does_not_leak() -> None:
    config = load_config("DiffRec", "ml-100k")
    assert "reweight" not in config and "mlp_act_func" not in config


def test_users_model_does_not_inherit_from_a_namesake() -> None:
    mine = type("BERT4Rec", (SequentialRecommender,), {"__module__": "elsewhere"})
    assert "mask_ratio" not in load_config(mine, "toy", config_dict={"loss_type": "CE"})


def test_derived_class_of_recboles_model_keeps_its_settings() -> None:
    mine = type("Mine", (find_model("BERT4Rec"),), {"__module__": "elsewhere"})
    config = load_config(mine, "toy")
    assert config["mask_ratio"] == 0.2 and config["model"] == "Mine" and config.model_class is mine


def test_layers_from_weak_to_strong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ["seed", "epochs", "stopping_step", "eval_step", "worker", "train_batch_size", "eval_batch_size"]
    files = ["overall.yaml", "model/SASRec.yaml", "dataset/toy.yaml", "quick_start_config/SASRec_on_toy.yaml"]
    ours = yaml.safe_load((PROPERTIES / "overall.yaml").read_text(encoding="utf-8"))
    for level, name in enumerate(files):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        content = {**(ours if level == 0 else {}), **dict.fromkeys(keys[level:], level)}
        (tmp_path / name).write_text(yaml.safe_dump(content))
    monkeypatch.setattr("recbole_diffusion.host.registry.PROPERTIES", tmp_path)
    for level, name in enumerate(["first.yaml", "second.yaml"], start=4):
        Path(name).write_text(yaml.safe_dump(dict.fromkeys(keys[level:], level)))
    config = load_config("SASRec", "toy", ["first.yaml", Path("second.yaml")], {"eval_batch_size": 6})
    assert [config[key] for key in keys] == list(range(7))


def test_what_is_done_to_one_config_does_not_reach_the_next() -> None:
    def spoil(value: Any) -> None:
        for part in value.values() if isinstance(value, dict) else value:
            if isinstance(part, (dict, list)):
                spoil(part)
        value.clear()

    first, second = sasrec(), sasrec()
    for name, value in first.final_config_dict.items():
        if isinstance(value, (dict, list)):
            spoil(value)
            assert second[name] == sasrec()[name]
    assert sasrec().plain() == second.plain() != first.plain()


def test_a_property_file_that_has_changed_is_read_anew(tmp_path: Path) -> None:
    code = "from recbole_diffusion.model.diffurec import DiffuRec\nclass Mine(DiffuRec): ...\n"
    (tmp_path / "mine.py").write_text(code)
    for size in (4, 16, 128):
        (tmp_path / "Mine.yaml").write_text(f"hidden_size: {size}\n")
        assert load_config(f"{tmp_path / 'mine.py'}:Mine", "toy")["hidden_size"] == size


def test_our_general_defaults_stand_below_recboles_special_ones() -> None:
    names = [f"{file.parent.name}/{file.name}" for file in default_files(find_model("SASRec"), "ml-100k")]
    assert names[:6] == [
        "properties/overall.yaml",
        "dataset/sample.yaml",
        "properties/overall.yaml",
        "dataset/ml-100k.yaml",
        "model/SASRec.yaml",
        "quick_start_config/sequential.yaml",
    ]


@pytest.mark.parametrize("dataset", ["ml-100k", "toy"])
def test_recboles_files_are_those_of_its_own_look_up(dataset: str) -> None:
    class LookUp(Config):
        def __init__(self, name: str, model: type) -> None:
            self.files: list[Path] = []
            self.parameters: dict[str, list[str]] = {"Dataset": []}
            self._load_internal_config_dict(name, model, dataset)

        def _update_internal_config_dict(self, file: str) -> dict[str, Any]:
            self.files.append(Path(file).resolve())
            return {}

    for name in recbole_models():
        if name not in ("XGBoost", "LightGBM"):
            model = find_model(name)
            looked_up = LookUp(model.__name__, model).files
            assert sorted(file.resolve() for file in recbole_files(model, dataset)) == sorted(looked_up)


def test_config_behaves_as_recboles() -> None:
    config = sasrec(epochs=3)
    assert isinstance(config, Config) and config["epochs"] == config.epochs == 3
    assert config["absent"] is None and "absent" not in config and "epochs" in config
    config["absent"] = 1
    assert config["absent"] == config.final_config_dict["absent"] == 1
    assert re.search(r"Training Hyper Parameters:.*epochs.* = ?.*3.*Evaluation Hyper", str(config), re.DOTALL)
    with pytest.raises(AttributeError, match="no attribute 'missing'"):
        _ = config.missing


@pytest.mark.parametrize(
    ("given", "mode"),
    [
        ({"mode": "uni100"}, {"valid": "uni100", "test": "uni100"}),
        ("{mode: uni100}", {"valid": "uni100", "test": "uni100"}),
        ("{'mode': 'pop50'}", {"valid": "pop50", "test": "pop50"}),
        ({"mode": {"valid": "uni100"}}, {"valid": "uni100", "test": "full"}),
        ({"group_by": "user"}, {"valid": "full", "test": "full"}),
    ],
)
def test_eval_args_merge_deeply(given: Any, mode: dict[str, str]) -> None:
    args = sasrec(eval_args=given)["eval_args"]
    assert args == {"split": LEAVE_ONE_OUT, "order": "TO", "group_by": "user", "mode": mode}


def test_a_split_replaces_the_other_one() -> None:
    args = sasrec(eval_args={"split": {"RS": [0.6, 0.2, 0.2]}})["eval_args"]
    assert args["split"] == {"RS": [0.6, 0.2, 0.2]} and args["order"] == "TO"


def test_files_and_call_merge_too(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("eval_args:\n  mode: uni100\n  split: {TS: [8, 1, 1]}\n")
    args = load_config("SASRec", "ml-100k", "mine.yaml", {"eval_args": "{mode: {test: pop100}}"})["eval_args"]
    assert args["mode"] == {"valid": "uni100", "test": "pop100"} and args["split"] == {"TS": [8, 1, 1]}


def test_merging_changes_no_layer() -> None:
    layers: list[dict[str, Any]] = [{"eval_args": {"mode": "full", "order": "TO"}}, {"eval_args": {"mode": "uni5"}}]
    before = copy.deepcopy(layers)
    merge(*layers)
    assert layers == before


def test_load_col_by_default() -> None:
    assert toy()["load_col"] == {"inter": ["user_id", "item_id", "timestamp"]}
    assert toy("ml-100k")["load_col"] == {"inter": ["user_id", "item_id", "rating", "timestamp"]}


def test_load_col_of_one_file_keeps_the_others() -> None:
    columns = toy(load_col={"item": ["item_id", "class"]})["load_col"]
    assert columns == {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]}


def test_load_col_may_be_none() -> None:
    assert toy(load_col="None")["load_col"] is None


def test_load_col_follows_renamed_fields() -> None:
    config = toy(USER_ID_FIELD="u", TIME_FIELD="t")
    assert config["load_col"] == {"inter": ["u", "item_id", "t"]}


@pytest.mark.parametrize(
    "setting",
    [{"threshold": {"rating": 3}}, {"val_interval": "{rating: '[3,inf)'}"}, {"normalize_field": ["rating"]}],
)
def test_fields_that_settings_name_are_loaded(setting: dict[str, Any]) -> None:
    assert toy(**setting)["load_col"] == {"inter": ["user_id", "item_id", "timestamp", "rating"]}
    own = {"inter": ["user_id", "item_id", "timestamp"]}
    must = f"load_col must name the field rating in inter, which {next(iter(setting))} needs"
    with pytest.raises(SettingError, match=must):
        toy(**setting, load_col=own)


def test_load_col_without_time_is_refused() -> None:
    own = {"inter": ["user_id", "item_id"]}
    with pytest.raises(SettingError, match="must name the field timestamp in inter, which TIME_FIELD needs"):
        toy(load_col=own)


def test_benchmark_files_bring_their_histories() -> None:
    files = {"benchmark_filename": ["train", "valid", "test"]}
    own = {"inter": ["user_id", "item_id", "item_id_list"]}
    config = toy(load_col=own, **files)
    assert config["load_col"] == own and config["alias_of_item_id"] == ["item_id_list"]
    assert "item_id_list" in toy(**files)["load_col"]["inter"]
    with pytest.raises(SettingError, match="must name the field item_id_list in inter, which benchmark_filename needs"):
        toy(load_col={"inter": ["user_id", "item_id"]}, **files)


def test_unload_col_takes_the_place_of_the_default() -> None:
    assert toy(unload_col={"inter": ["rating"]})["load_col"] == {"inter": "*"}
    with pytest.raises(SettingError, match="unload_col"):
        toy(unload_col={"inter": ["rating"]}, load_col={"inter": ["user_id", "item_id", "timestamp"]})


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("epochs", "1e1", 10),
        ("topk", "5,10", [5, 10]),
        ("learning_rate", "5e-4", 5e-4),
        ("use_gpu", "no", False),
        ("hidden_act", "no", "no"),
        ("user_inter_num_interval", "[5,inf)", "[5,inf)"),
        ("user_inter_num_interval", "[5,10]", "[5,10]"),
        ("metrics", "NDCG", ["NDCG"]),
        ("item_inter_num_interval", None, None),
        ("gpu_id", 0, "0"),
    ],
)
def test_values_are_read_by_the_type_of_the_default(key: str, text: Any, value: Any) -> None:
    got = load_config("SASRec", "toy", config_dict={key: text})[key]
    assert got == value and type(got) is type(value)


def test_nothing_is_evaluated(tmp_path: Path) -> None:
    text = f"__import__('pathlib').Path({str(tmp_path / 'proof')!r}).touch()"
    assert sasrec(my_note=text, hidden_act=text)["my_note"] == text
    assert not (tmp_path / "proof").exists()


def test_callers_dict_is_not_changed() -> None:
    settings = {"epochs": "3", "train_neg_sample_args": {"sample_num": "2"}, "loss_type": "BPR", "eval_args": {}}
    before = copy.deepcopy(settings)
    config = load_config("SASRec", "ml-100k", config_dict=settings)
    config["eval_args"]["mode"]["valid"] = "changed"
    assert settings == before


def test_arguments_of_the_process_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x", "--epochs=7", "--n_layers=__import__('os')", "stray"])
    assert sasrec()["epochs"] == 300


def test_misspelt_setting_is_refused() -> None:
    with pytest.raises(SettingError) as caught:
        load_config("DiffuRec", "ml-100k", config_dict={"difusion_steps": 16})
    assert str(caught.value) == "difusion_steps must be the name of a setting, such as diffusion_steps, got 16"


def test_settings_that_nothing_reads_are_warned_of() -> None:
    config = sasrec(num_layers=3, zzz=1, alias_of_item_id=["item_id_list"])
    assert config.warnings == [
        "SASRec does not read the setting num_layers",
        "the setting zzz is unknown, and probably nothing reads it",
    ]


class Deep(Toy):
    """Reads a setting that no yaml states."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.depth = config["num_layers"]


def test_what_a_model_of_the_users_reads_is_no_setting_that_nothing_reads() -> None:
    given = {"loss_type": "CE", "num_layers": 3, "mask_ratio": 0.5}
    assert load_config(Deep, "toy", config_dict=given).warnings == ["Deep does not read the setting mask_ratio"]


@pytest.mark.parametrize(
    ("model", "given", "unread"),
    [
        ("FMRec", {"reverse_sampler": "ddim", "diffusion_steps": 64}, ["reverse_sampler=ddim", "diffusion_steps=64"]),
        ("FMRec", {"ddim_eta": 0.5, "reverse_variance": "beta"}, ["ddim_eta=0.5", "reverse_variance=beta"]),
        ("BBDRec", {"noise_schedule": "cosine", "ddim_eta": 0.5}, ["noise_schedule=cosine", "ddim_eta=0.5"]),
        ("ADRec", {"noise_schedule": "cosine", "bridge_variance": 2.0}, ["bridge_variance=2.0"]),
        ("ADRec", {"geodesic": True, "reverse_variance": "beta"}, []),
        ("ADRec", {"decoder": "mlp", "decoder_layers": 3}, ["decoder_layers=3"]),
        ("BBDRec", {"decoder": "mlp", "decoder_layers": 3}, ["decoder_layers=3"]),
        ("ADRec", {"decoder": "attention", "decoder_layers": 3}, []),
        ("PreferGrow", {"hybrid_share": 0.99}, ["hybrid_share=0.99"]),
        ("PreferGrow", {"hybrid_share": 0.99, "prior": "hybrid"}, []),
        ("DiffuRec", {"ddim_eta": 0.5}, ["ddim_eta=0.5"]),
        ("DiffuRec", {"ddim_eta": 0.5, "reverse_sampler": "ddim"}, []),
        ("DiffuRec", {"reverse_variance": "beta", "reverse_sampler": "ddim"}, ["reverse_variance=beta"]),
    ],
)
def test_what_a_process_does_not_read_is_warned_of(model: str, given: dict[str, Any], unread: list[str]) -> None:
    config = load_config(model, "ml-100k", config_dict=given)
    told = [f"{key} has no effect: {model} does not read it with its other settings" for key in unread]
    assert config.warnings == told
    assert load_config(model, "ml-100k", config_dict=load_config(model, "ml-100k").plain()).warnings == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("history_in_ranking", False, "history_in_ranking must be one of in, out, both, got False"),
        ("user_inter_num_interval", [5, 10], "user_inter_num_interval must be an interval such as [5,inf), or several"),
        ("learning_rate", "fast", "learning_rate must be a number, got 'fast'"),
        ("checkpoint_dir", [1], "checkpoint_dir must be a path, got [1]"),
    ],
)
def test_what_is_no_text_is_told_what_the_text_must_be(key: str, value: Any, message: str) -> None:
    with pytest.raises(SettingError, match=re.escape(message)):
        sasrec(**{key: value})


def test_what_is_frozen_for_no_epoch_is_warned_of() -> None:
    assert sasrec(frozen="trm_encoder").warnings == ["frozen=['trm_encoder'] has no effect without frozen_epochs"]
    assert sasrec().warnings == sasrec(frozen="trm_encoder", frozen_epochs=1).warnings == []
    # A saved configuration, handed in again, names the default.
    assert sasrec(**sasrec().plain()).warnings == []


@pytest.mark.parametrize("name", ["tiny/", "../tiny", "data/tiny", ".."])
def test_a_dataset_is_a_name_and_no_path(name: str) -> None:
    with pytest.raises(SettingError, match=rf"^dataset must be a name, and no path; .*, got '{name}'"):
        load_config("SASRec", name)


def test_shorthands_of_other_libraries_are_refused_with_the_name_here() -> None:
    with pytest.raises(SettingError, match=r"lr must be the name of a setting, such as learning_rate, got 0\.1"):
        sasrec(lr=0.1)


def test_a_setting_that_the_transform_reads_is_known() -> None:
    config = load_config("BERT4Rec", "ml-100k", config_dict={"transform": "mask_itemseq", "mask_ratio": "0.5"})
    assert config["mask_ratio"] == 0.5 and config.warnings == []


def test_old_names_are_read_from_files_and_call_and_warned_of_once(tmp_path: Path) -> None:
    class Renamed(Toy):
        settings: ClassVar[dict[str, Setting]] = {"width": positive("int")}
        aliases: ClassVar[dict[str, str]] = {"broadness": "width"}

    Path("mine.yaml").write_text("broadness: 3\npositions_from: newest\n")
    config = load_config(Renamed, "toy", ["mine.yaml"], {"loss_type": "CE", "broadness": "4"})
    assert config["width"] == 4 and "broadness" not in config
    assert config.warnings == [
        "broadness is called width now",
        "the setting positions_from is gone; it is always newest",
    ]
    with pytest.raises(SettingError, match="width must be positive, got 0"):
        load_config(Renamed, "toy", ["mine.yaml"], {"loss_type": "CE", "width": 0})
    with pytest.raises(SettingError, match="width must be given: the yaml of the model has no default for it"):
        load_config(Renamed, "toy", config_dict={"loss_type": "CE"})
    with pytest.raises(SettingError, match="positions_from must be newest, which is all that is left of it"):
        load_config(Renamed, "toy", ["mine.yaml"], {"loss_type": "CE", "positions_from": "oldest"})


def test_a_family_has_a_yaml_and_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("family.py").write_text(
        "from recbole.model.abstract_recommender import SequentialRecommender\n"
        "from recbole_diffusion.common.setting import one_of, positive\n\n\n"
        "class Family(SequentialRecommender):\n"
        "    settings = {'width': positive('int'), 'form': one_of(('round', 'flat'))}\n\n\n"
        "class Child(Family):\n"
        "    settings = {'depth': positive('float')}\n"
    )
    Path("Family.yaml").write_text("width: 8\nform: round\nloss_type: CE\n")
    Path("Child.yaml").write_text("width: 4\ndepth: 1\n")
    config = load_config("family.py:Child", "toy", config_dict={"form": "flat"})
    assert (config["width"], config["depth"], config["form"]) == (4, 1.0, "flat")
    assert load_config("family.py:Family", "toy")["width"] == 8
    with pytest.raises(SettingError, match="form must be one of round, flat, got 'square'"):
        load_config("family.py:Child", "toy", config_dict={"form": "square"})


def test_a_model_that_states_its_input_may_have_a_loss_of_its_own() -> None:
    class Squared(Toy):
        input_type = InputType.POINTWISE

    config = load_config(Squared, "toy", config_dict={"loss_type": "MSE"})
    assert (config["loss_type"], config["train_neg_sample_args"]["distribution"]) == ("MSE", "uniform")


def test_device_is_not_set_by_its_name() -> None:
    with pytest.raises(SettingError, match="device must be left out; set use_gpu and gpu_id, got 'cuda:7'"):
        sasrec(device="cuda:7")


# What a file of published settings may leave out: without effect by its default, or beside what the file states.
NEUTRAL = {
    "diffusion",
    "loss_type",
    "similarity",
    "similarity_temperature",
    "inference_seeds",
    "ddim_eta",
    "fold_chain",
}
NEUTRAL |= {"guidance_drop", "guidance_scale", "prediction_type", "consistency_weight", "reverse_variance"}
NEUTRAL_OF = {
    "ADRec": {"bridge_variance"},
    "FMRec": {"diffusion_steps", "noise_schedule", "reverse_sampler", "rescale_timesteps", "logit_mean", "logit_std"},
    "PreferDiff": {"inference_steps"},
}
TRAINING = {"learner", "learning_rate", "weight_decay", "train_batch_size", "epochs", "eval_step", "stopping_step"}


@pytest.mark.parametrize("file", sorted((PROPERTIES / "model").glob("*-published.yaml")), ids=lambda file: file.stem)
def test_published_settings_are_whole_on_any_dataset(file: Path) -> None:
    model = file.stem.removesuffix("-published")
    files = [file.with_name("ADRec-published.yaml"), file] if model == "BBDRec" else [file]
    config = load_config(model, "ml-100k", files)
    expected = {key: value for each in files for key, value in read_yaml(each).items()}
    assert {key: config[key] for key in expected} == expected
    assert TRAINING | {"MAX_ITEM_LIST_LENGTH"} <= expected.keys()
    left = table_of(config.model_class).keys() - expected.keys()
    assert left <= NEUTRAL | NEUTRAL_OF.get(model, set())
    assert "similarity" not in left or config["similarity"] == "dot"
    assert "guidance_scale" not in left or config["guidance_scale"] == 0


@pytest.mark.parametrize("model", ["SASRec", "BERT4Rec", "GRU4Rec", "DiffuRec", "DiffRec"])
def test_cross_entropy_samples_no_negatives(model: str) -> None:
    config = load_config(model, "ml-100k")
    assert config["train_neg_sample_args"]["distribution"] == "none"
    assert config["MODEL_INPUT_TYPE"] == InputType.POINTWISE
    for none in (None, "None", {"distribution": "none"}):
        again = load_config(model, "ml-100k", config_dict={"train_neg_sample_args": none})
        assert again["train_neg_sample_args"]["distribution"] == "none"
    with pytest.raises(SettingError, match="must be left out, as loss_type CE samples no negatives"):
        load_config(model, "ml-100k", config_dict={"train_neg_sample_args": {"distribution": "uniform"}})


@pytest.mark.parametrize("model", ["SASRec", "DiffuRec", "DiffRec"])
def test_bpr_samples_uniformly_by_default(model: str) -> None:
    default = {"distribution": "uniform", "sample_num": 1, "alpha": 1.0, "dynamic": False, "candidate_num": 0}
    config = load_config(model, "ml-100k", config_dict={"loss_type": "BPR"})
    assert config["train_neg_sample_args"] == default and config["MODEL_INPUT_TYPE"] == InputType.PAIRWISE
    settings = {"loss_type": "BPR", "train_neg_sample_args": "{distribution: popularity, alpha: 0.5}"}
    drawn = load_config(model, "ml-100k", config_dict=settings)["train_neg_sample_args"]
    assert drawn == {**default, "distribution": "popularity", "alpha": 0.5}
    with pytest.raises(SettingError, match="must have a distribution for loss_type BPR"):
        load_config(model, "ml-100k", config_dict={"loss_type": "BPR", "train_neg_sample_args": None})


def test_bpr_where_the_models_own_yaml_says_none(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from recbole.model.abstract_recommender import SequentialRecommender\n\n\n"
        "class Mine(SequentialRecommender):\n    pass\n"
    )
    (tmp_path / "Mine.yaml").write_text("loss_type: CE # (str) Loss.\ntrain_neg_sample_args: ~ # (dict or ~) None.\n")
    config = load_config("mine.py:Mine", "toy", config_dict={"loss_type": "BPR"})
    assert config["train_neg_sample_args"]["distribution"] == "uniform"


def test_models_with_an_input_of_their_own() -> None:
    class Listed(GeneralRecommender):
        input_type = InputType.LISTWISE

    assert load_config("Pop", "ml-100k")["MODEL_INPUT_TYPE"] == InputType.POINTWISE
    assert load_config("BPR", "ml-100k")["train_neg_sample_args"]["distribution"] == "uniform"
    assert load_config("RepeatNet", "ml-100k")["train_neg_sample_args"]["distribution"] == "none"
    assert load_config(Listed, "toy")["MODEL_INPUT_TYPE"] == InputType.LISTWISE


def test_models_own_checks_come_before_data() -> None:
    class Strict(Toy):
        seen: ClassVar[list[Any]] = []

        @classmethod
        def check_settings(cls, config: Any) -> None:
            cls.seen.append((config["device"], config["hidden_size"]))
            raise SettingError("hidden_size", config["hidden_size"], must="be even")

    with pytest.raises(SettingError, match="hidden_size must be even, got 7"):
        load_config(Strict, "not-there", config_dict={"loss_type": "CE", "hidden_size": "7"})
    assert Strict.seen == [(torch.device("cpu"), 7)] or torch.cuda.is_available()


@pytest.mark.parametrize(
    ("model", "dataset", "key"), [(None, "toy", "model"), ("", "toy", "model"), (Toy, "", "dataset")]
)
def test_model_and_dataset_must_be_named(model: Any, dataset: Any, key: str) -> None:
    with pytest.raises(SettingError) as caught:
        load_config(model, dataset)
    assert caught.value.key == key


def test_model_and_dataset_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: GRU4Rec\ndataset: toy\n")
    config = load_config(None, None, ["mine.yaml"])
    assert (config["model"], config["dataset"]) == ("GRU4Rec", "toy")
    assert load_config("SASRec", "other", ["mine.yaml"])["model"] == "SASRec"


def test_data_path() -> None:
    package = load_config("SASRec", "ml-100k")["data_path"]
    assert Path(package, "ml-100k.inter").is_file()
    assert sasrec("ml-1m")["data_path"] == os.path.join("dataset", "ml-1m")
    assert sasrec("ml-1m", data_path="../data")["data_path"] == os.path.join("..", "data", "ml-1m")
    assert sasrec("ml-1m", data_path="~/data")["data_path"] == str(Path.home() / "data" / "ml-1m")


def test_data_path_holds_for_ml_100k_too() -> None:
    package = load_config("SASRec", "ml-100k")["data_path"]
    assert sasrec("ml-100k", data_path="dataset")["data_path"] == package
    assert sasrec("ml-100k", data_path="mine")["data_path"] == os.path.join("mine", "ml-100k")


def test_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^absent.yaml: cannot be read: No such file"):
        load_config("SASRec", "ml-100k", ["absent.yaml"])


def test_plain_settings() -> None:
    config = toy("ml-100k", loss_type="BPR", data_path=Path("somewhere"), note=object(), seed=7)
    plain = config.plain()
    assert json.loads(json.dumps(plain)) == plain
    assert pickle.loads(pickle.dumps(plain)) == plain
    assert (plain["MODEL_TYPE"], plain["MODEL_INPUT_TYPE"], plain["device"]) == (
        "ModelType.SEQUENTIAL",
        "InputType.PAIRWISE",
        "cpu",
    )
    assert plain["data_path"] == "somewhere" and "note" not in plain


@pytest.mark.parametrize("model", ["DiffuRec", "DiffRec", "Pop", "SASRec", "BERT4Rec", "BPR", "FM", "DIN"])
def test_plain_settings_may_be_handed_in_again(model: str) -> None:
    plain = load_config(model, "ml-100k", config_dict={"seed": 3, "data_path": "x", "USER_ID_FIELD": "u"}).plain()
    assert load_config(plain["model"], plain["dataset"], config_dict=plain).plain() == plain
    default = load_config(model, "ml-100k")
    assert load_config(model, "ml-100k", config_dict=default.plain())["data_path"] == default["data_path"]


def test_configs_do_not_touch_one_another() -> None:
    from recbole.utils import argument_list

    before = list(argument_list.dataset_arguments)
    first, second = sasrec("ml-100k", epochs=3), sasrec("ml-100k")
    first["eval_args"]["mode"]["valid"] = "changed"
    assert second["epochs"] == 300 and second["eval_args"]["mode"]["valid"] == "full"
    assert argument_list.dataset_arguments == before


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("SASRec", {"encoding": "hex"}, "encoding must be an encoding that Python knows, such as utf-8 or latin-1"),
        ("BPR", {"eval_args": {"split": {"RS": [float("inf"), 0.1, 0.1]}}}, "eval_args.split must have RS: three"),
        ("SASRec", {"clip_grad_norm": {"max_norm": -1}}, "clip_grad_norm must hold a positive max_norm"),
        ("SASRec", {"clip_grad_norm": {"max_norm": 1, "norm": 2}}, "clip_grad_norm must hold a positive max_norm"),
        ("SASRec", {"load_col": {"nosuch": "*"}}, "load_col must name files by inter, user, item, kg, link, net, not"),
        ("BERT4Rec", {"transform": None}, "transform must be mask_itemseq, as BERT4Rec reads what that adds, got None"),
        ("SHAN", {"transform": "mask_itemseq", "mask_ratio": 0.5}, "transform must be inverse_itemseq, as SHAN reads"),
        ("SASRec", {"transform": "user_defined"}, "transform must be one of mask_itemseq, inverse_itemseq"),
        ("SASRec", {"transform": "Crop_itemseq", "eta": 0.5}, "transform must be one of mask_itemseq, inverse_itemseq"),
        ("SASRec", {"offset": -(2**63)}, "offset must be between -2**63 and 2**63, got -9223372036854775808"),
        (
            "SASRec",
            {"benchmark_filename": ["a", "b", "c"], "user_inter_num_interval": "[5,inf)"},
            "user_inter_num_interval must be left out with benchmark_filename",
        ),
    ],
)
def test_settings_that_would_do_nothing_or_harm_are_refused(model: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=re.escape(message)):
        load_config(model, "toy", config_dict=settings)


@pytest.mark.parametrize(
    ("model", "key", "value", "read"),
    [
        ("SASRec", "transform", "mask_itemseq", False),
        ("BPR", "transform", "inverse_itemseq", False),
        ("BERT4Rec", "transform", "mask_itemseq", True),
        ("DiffuRec", "preload_weight", {"item_id": "emb"}, False),
        ("GRU4RecKG", "preload_weight", {"ent_id": "ent_emb"}, True),
    ],
)
def test_what_adds_to_the_data_is_said_to_have_no_effect_on_a_model_that_does_not_read_it(
    model: str, key: str, value: Any, read: bool
) -> None:
    config = load_config(model, "toy", config_dict={key: value, "mask_ratio": 0.2})
    assert config[key] == (value if read else None)
    assert any(f"has no effect, as {model} does not read what it adds" in line for line in config.warnings) != read
