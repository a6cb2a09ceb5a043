from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from small_plans import small_plan

from recbole_diffusion.common.files import read_json, write_json
from recbole_diffusion.compare.plan import (
    Plan,
    Run,
    file_name,
    first_difference,
    make_plan,
    read_entry,
    read_request,
    space_file,
    split_outside,
)
from recbole_diffusion.compare.reevaluate import plan_of
from recbole_diffusion.errors import SettingError, UserError
from recbole_diffusion.host.registry import PROPERTIES


def plan(files: tuple[str, ...] = (), **settings: str) -> Plan:
    return make_plan(read_request(settings, files, "ml-100k"))


def names(made: Plan) -> list[str]:
    return [variant.name for variant in made.variants]


@pytest.mark.parametrize(
    ("entry", "read"),
    [
        ("SASRec", ("SASRec", "SASRec", {})),
        (" my.py:Mine ", ("my.py:Mine", "my.py:Mine", {})),
        ("SASRec(n_layers=1)", ("SASRec(n_layers=1)", "SASRec", {"n_layers": "1"})),
        ("SASRec(seeds=[7, 8])", ("SASRec", "SASRec", {"seeds": "[7, 8]"})),
        ("SASRec(n_layers=1,seeds=[7])", ("SASRec(n_layers=1)", "SASRec", {"n_layers": "1", "seeds": "[7]"})),
        (
            "one layer = SASRec( n_layers=1, eval_args={mode: full, order: TO} )",
            ("one layer", "SASRec", {"n_layers": "1", "eval_args": "{mode: full, order: TO}"}),
        ),
    ],
)
def test_an_entry_of_the_model_list(entry: str, read: tuple[str, str, dict[str, str]]) -> None:
    assert read_entry(entry) == read


@pytest.mark.parametrize("entry", ["", "a=b=c", "SASRec(n_layers)", "(n_layers=1)"])
def test_an_entry_that_cannot_be_read(entry: str) -> None:
    with pytest.raises(UserError, match="must hold entries"):
        read_entry(entry)


@given(st.lists(st.from_regex(r"[a-z]{1,5}(\([a-z=,]{0,8}\))?", fullmatch=True), max_size=5))
def test_lists_are_split_where_no_bracket_is_open(parts: list[str]) -> None:
    assert split_outside(" , ".join(parts)) == parts


def test_runs_and_folders() -> None:
    made = plan(model_list="SASRec,Pop", seeds="7,8")
    folders = [f"compare/ml-100k/runs/{name}/{seed}" for name in ("SASRec", "Pop") for seed in (7, 8)]
    assert [str(run.folder) for run in made.runs] == folders
    assert (made.valid_latex, made.test_latex) == (Path("compare/ml-100k/valid.tex"), Path("compare/ml-100k/test.tex"))
    assert plan(model_list="Pop").runs[2].seed == 2026


def test_settings_of_all_of_a_model_and_of_a_row() -> None:
    made = plan(
        model_list="SASRec,SASRec-1=SASRec(n_layers=1),GRU4Rec",
        **{"hidden_size": "32", "SASRec.hidden_size": "16", "SASRec_1.inner_size": "8", "learning_rate": "0.01"},
    )
    values = [[v.config.get(key) for key in ("hidden_size", "n_layers", "inner_size")] for v in made.variants]
    assert values == [[16, 2, 256], [16, 1, 8], [32, None, None]]
    assert {variant.config["learning_rate"] for variant in made.variants} == {0.01}


def test_a_file_may_hold_it_all(tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "model_list": ["Pop"],
        "seeds": 3,
        "off_switch": False,
        "dataset": "ml-100k",
        "eval_args": {"order": "TO"},
        "variants": {"λ 0.1": {"model": "DiffuRec", "noise_scale": 0.1}, 2024: {"model": "Pop"}},
    }
    (tmp_path / "all.yaml").write_text(yaml.safe_dump(content))
    made = plan((str(tmp_path / "all.yaml"),), eval_args="{group_by: user}")
    assert names(made) == ["Pop", "λ 0.1", "2024"] and [run.seed for run in made.runs] == [3, 3, 3]
    assert made.variants[1].config["noise_scale"] == 0.1
    assert made.variants[0].config["eval_args"]["split"] == {"LS": "valid_and_test"}
    (tmp_path / "list.yaml").write_text("model_list: Pop, small=SASRec(hidden_size=16,n_layers=1)")
    assert names(plan((str(tmp_path / "list.yaml"),))) == ["Pop", "small"]


def test_our_models_get_a_row_with_their_diffusion_off() -> None:
    made = plan(model_list="DiffuRec,SASRec", **{"DiffuRec.n_layers": "1"})
    assert names(made) == ["DiffuRec", "DiffuRec-off", "SASRec"]
    on, off, _ = (variant.config for variant in made.variants)
    assert {key for key in on if on[key] != off[key]} == {"diffusion"}
    assert names(plan(model_list="DiffuRec", off_switch="False")) == ["DiffuRec"]


def test_a_row_may_have_seeds_of_its_own() -> None:
    made = plan(model_list="SASRec,DiffuRec", seeds="1,2", **{"DiffuRec.seeds": "2"})
    runs = [(run.variant.name, run.seed) for run in made.runs]
    assert runs == [("SASRec", 1), ("SASRec", 2), ("DiffuRec", 2), ("DiffuRec-off", 2)]
    assert not any("seeds" in variant.settings for variant in made.variants)


def test_what_has_no_effect_is_told() -> None:
    made = plan(model_list="SASRec,Pop", mask_ratio="0.3")
    assert [variant.warnings for variant in made.variants] == [
        ["SASRec does not read the setting mask_ratio"],
        ["Pop does not read the setting mask_ratio"],
    ]
    # A setting of RecBole's that is spelt much like one of a comparison.
    plan(model_list="Pop", order_list="[a]")


def test_a_row_with_the_diffusion_off_is_not_run_twice() -> None:
    assert names(plan(model_list="none=DiffuRec(diffusion=False),DiffuRec")) == ["none", "DiffuRec"]
    both = names(plan(model_list="DiffuRec,same=DiffuRec(diffusion=True)"))
    assert both == ["DiffuRec", "DiffuRec-off", "same"]


@pytest.mark.parametrize("ranking", ["in", "out", "both"])
def test_models_of_any_kind_stand_side_by_side_by_each_ranking(ranking: str) -> None:
    made = plan(model_list="SASRec,BPR", history_in_ranking=ranking)
    assert [variant.config["history_in_ranking"] for variant in made.variants] == [ranking] * 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_list": ""}, "model_list must name a model"),
        (
            {"variants": "{a: {model: Pop, 3: 4}}"},
            r"variants\.a must be a mapping of settings, the key model among them, got",
        ),
        ({"variants": "{a: {epochs: 1}}"}, r"variants\.a must be a mapping of settings, the key model among them, got"),
        ({"model_list": "FM"}, "model_list must name sequential models, or general ones, .* got 'FM'"),
        (
            {"model_list": "BPR", "eval_args": "{split: {RS: [0.8, 0.1, 0.1]}}"},
            "eval_args.split must be LS: valid_and_test with BPR, a general model",
        ),
        ({"model_list": "Pop,a=Pop(repeatable=False)"}, "a.history_in_ranking must be 'in', as in Pop"),
        ({"model_list": "SASRek"}, "did you mean SASRec"),
        ({"model_list": "Pop,Pop"}, "model_list='Pop': each row needs a name"),
        ({"model_list": "a b=Pop,a/b=Pop(epochs=2)"}, "each row needs a name"),
        ({"model_list": "Pop", "seeds": "1,1"}, r"seeds must be different numbers such as .*, got \[1, 1\]"),
        ({"model_list": "Pop", "seeds": "x"}, "seeds must be a list of whole numbers"),
        ({"model_list": "Pop", "Pop.seeds": "1,1"}, r"Pop.seeds must be different numbers such as .*, got \[1, 1\]"),
        ({"model_list": "Pop", "ouput": "a"}, "ouput='a': there is no such setting; did you mean output"),
        ({"model_list": "Pop", "trails": "8"}, "did you mean trials"),
        (
            {"model_list": "SASRec", "SASRec.hiden_size": "1"},
            "hiden_size must be the name of a setting",
        ),
        ({"model_list": "Pop,a=Pop(metric_decimal_place=2)"}, "a.metric_decimal_place must be 4, as in Pop"),
        ({"model_list": "Pop", "seed": "1"}, "seed='1': in a comparison, use --seeds"),
        ({"model_list": "Pop", "resume": "a.pth"}, "resume='a.pth'"),
        ({"model_list": "Pop", "SASRec.epochs": "1"}, "SASRec.epochs='1': no model"),
        ({"model_list": "SASRec", "hiden_size": "1"}, "hiden_size must be the name of a setting"),
        ({"model_list": "Pop,a=Pop(topk=7,valid_metric=NDCG@7)"}, r"a.topk must be \[5, 10, 20\], as in Pop"),
        ({"model_list": "Pop", "eval_args": "{mode: uni100}"}, "eval_args.mode must be full"),
        ({"model_list": "Pop", "off_switch": "maybe"}, "off_switch must be True or False, got 'maybe'"),
        ({"model_list": "SASRec", "tuned": "nowhere"}, "tuned must hold nowhere/SASRec/best.yaml"),
        ({"model_list": "Pop", "output": __file__}, f"output must be a folder, no file, got '{__file__}'"),
        ({"model_list": "Pop", "jobs": "0"}, "jobs must be positive, got 0"),
        ({"model_list": "DiffuRec", "against": "SASRec"}, "against must be one of the rows: DiffuRec, DiffuRec-off"),
    ],
)
def test_mistakes_are_told_before_anything_runs(settings: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        plan(**settings)
    assert "\n" not in str(caught.value)


def test_a_dataset_that_a_file_leaves_open_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("dataset: ~\n")
    with pytest.raises(SettingError, match="dataset must be the name of a dataset, such as ml-100k, got None"):
        read_request({"model_list": "SASRec"}, [str(file)], "ml-100k")


def test_a_file_may_serve_comparisons_of_fewer_models(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("model_list: [DiffuRec, SASRec]\nDiffuRec.hidden_size: 32\nSASRec.hidden_size: 16\n")
    request = read_request({"model_list": "SASRec"}, [str(file)], "ml-100k")
    assert request.by_name == {"SASRec": {"hidden_size": 16}}
    file.write_text("model_list: [SASRec]\nSASRek.hidden_size: 16\n")
    with pytest.raises(UserError, match="no model of the comparison is called SASRek; did you mean SASRec"):
        read_request({}, [str(file)], "ml-100k")


def test_what_tuning_found_is_taken(tmp_path: Path) -> None:
    for model, rate in (("DiffuRec", 0.004), ("SASRec", 0.002)):
        (tmp_path / model).mkdir()
        (tmp_path / model / "best.yaml").write_text(f"learning_rate: {rate}\n")
    made = plan(model_list="DiffuRec,SASRec,Pop", tuned=str(tmp_path), **{"learning_rate": "0.1"})
    rates = {variant.name: variant.config["learning_rate"] for variant in made.variants}
    assert rates == {"DiffuRec": 0.004, "DiffuRec-off": 0.004, "SASRec": 0.002, "Pop": 0.1}
    untuned = [variant.name for variant in made.variants if any("is not tuned" in text for text in variant.warnings)]
    assert untuned == ["Pop"]


def test_a_row_that_the_others_are_tested_against() -> None:
    assert plan(model_list="Pop").against is None
    assert plan(model_list="DiffuRec", against="DiffuRec-off").against == "DiffuRec-off"


def write_run(run: Run, folder: Path, config: dict[str, Any], **settings: Any) -> None:
    """Leave the run.json of a run with another configuration."""
    name, seed = run.variant.name, run.seed
    write_json(
        folder / "run.json",
        {"name": name, "model": name, "dataset": "ml-100k", "seed": seed, "settings": settings, "config": config},
    )


def test_a_folder_with_other_settings_is_refused() -> None:
    (run,) = plan(model_list="SASRec", seeds="1").runs
    write_run(run, run.folder, run.variant.config)
    plan(model_list="SASRec,Pop", seeds="1,2", show_progress="False")
    # As it is where another machine, with a GPU, has begun.
    write_run(run, run.folder, {**run.variant.config, "device": "cuda:0", "cuda_graphs": True})
    plan(model_list="SASRec", seeds="1", use_gpu="False")
    with pytest.raises(
        UserError, match=r"output=compare/ml-100k: SASRec was run with n_layers=2 there, not 1; set it so"
    ):
        plan(model_list="SASRec", seeds="1", n_layers="1")


@pytest.mark.parametrize("key", ["name", "seed", "settings"])
def test_a_damaged_run_is_named(key: str) -> None:
    (run,) = plan(model_list="SASRec", seeds="1").runs
    write_run(run, run.folder, run.variant.config)
    file = run.folder / "run.json"
    write_json(file, {**read_json(file), key: None})
    with pytest.raises(UserError, match=f"{file}: is damaged, as its {key} is missing or of another form"):
        plan(model_list="SASRec", seeds="1")


def test_a_run_whose_settings_are_gone_is_refused() -> None:
    (run,) = plan(model_list="SASRec", seeds="1").runs
    write_json(run.folder / "record.json", {"name": "SASRec"})
    message = r"runs/SASRec/1: a run is done there, but its run\.json is missing; without the folder it runs again"
    with pytest.raises(UserError, match=message):
        plan(model_list="SASRec", seeds="1")
    with pytest.raises(UserError, match=message):
        plan_of(Path("compare", "ml-100k"))


def test_runs_serve_the_rankings_that_they_have() -> None:
    def leave(value: str | None) -> None:
        (run,) = plan(model_list="SASRec", seeds="1", output="free").runs
        config = {key: was for key, was in run.variant.config.items() if key != "history_in_ranking"}
        kept = config if value is None else {**config, "history_in_ranking": value}
        write_run(run, Path("kept", "runs", "SASRec", "1"), kept)

    def use(value: str) -> None:
        plan(model_list="SASRec", seeds="1", output="kept", history_in_ranking=value)

    for there, here in ((None, "in"), ("in", "in"), ("both", "in"), ("both", "both"), ("out", "out")):
        leave(there)
        use(here)
    for there, here in ((None, "both"), ("in", "both"), ("in", "out"), ("out", "in"), ("both", "out")):
        leave(there)
        message = (
            f"output=kept: SASRec was run with history_in_ranking='{there or 'in'}' there, not '{here}'; set it so"
        )
        with pytest.raises(UserError, match=message):
            use(here)


def test_a_run_from_before_a_setting_was_renamed_is_taken() -> None:
    (run,) = plan(model_list="DiffuRec", seeds="1", off_switch="False", noise_scale="0.1").runs
    before = {key: value for key, value in run.variant.config.items() if key != "noise_scale"}
    write_run(run, run.folder, {**before, "lambda_uncertainty": 0.1}, lambda_uncertainty=0.1)
    plan(model_list="DiffuRec", seeds="1", off_switch="False", noise_scale="0.1")
    with pytest.raises(UserError, match=r"was run with noise_scale=0.1 there, not 0.2"):
        plan(model_list="DiffuRec", seeds="1", off_switch="False", noise_scale="0.2")


@pytest.mark.parametrize("file", sorted((PROPERTIES / "tune").glob("*.yaml")), ids=lambda file: file.stem)
def test_stated_spaces_hold_the_defaults_and_are_of_like_size(file: Path) -> None:
    (variant,) = plan(model_list=file.stem, off_switch="False").variants
    space = yaml.safe_load(file.read_text().replace("e-", ".0e-").replace("e+", ".0e+"))
    assert file == space_file(file.stem) and 3 <= len(space) <= 5
    for key, choice in space.items():
        default = variant.config[key]
        assert default in choice if isinstance(choice, list) else float(choice["low"]) <= default <= choice["high"]


def test_names_of_files_are_ascii_and_differ_where_names_do() -> None:
    assert file_name("DiffuRec(lr=0.1, n=2)") == "DiffuRec_lr_0.1_n_2"
    assert file_name("\N{GREEK SMALL LETTER LAMDA} 1") == "u03bb_1"
    assert file_name("..") == "_"


def test_of_settings_that_one_version_lacks_only_those_given_count() -> None:
    there, here = {"a": 1, "old": 2}, {"a": 1, "new": 3}
    assert first_difference(there, here) == "new"
    assert first_difference(there, here, given=()) is None
    assert first_difference(there, here, given=("old",)) == "old"
    assert first_difference(there, here, given=("new",)) == "new"
    assert first_difference(there, {"a": 2}, given=()) == "a"


def test_a_random_order_of_ties_takes_one_seed() -> None:
    assert small_plan(model_list="SASRec", seeds="1", tie_order="random").runs
    with pytest.raises(SettingError, match="tie_order must be file or item with several seeds"):
        small_plan(model_list="SASRec", seeds="1,2", tie_order="random")
