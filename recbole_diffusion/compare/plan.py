"""From the command line to the runs of a comparison: which models, with which settings, in which folders."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from recbole.utils import ModelType

from ..common import deadline
from ..common.deadline import Deadline
from ..common.files import check_form, read_json
from ..common.setting import Setting, at_least, one_of, positive, switch
from ..errors import SettingError, UserError, nearest, suggestion
from ..host.parsing import parse, read_yaml, typed
from ..host.registry import PROPERTIES, find_model, our_models, recbole_models
from ..host.settings import MERGED, DiffusionConfig, load_config, merge
from ..host.table import COMPUTED, GENERAL, rename, with_protocol

# What may do the runs in the place of this machine.
CLUSTERS = ("slurm",)
# The settings of a comparison itself, and their defaults.
OWN: dict[str, Setting] = {
    "model_list": Setting("list of str"),
    "variants": Setting("dict"),
    "seeds": Setting("list of int", "be different numbers such as 2024,2025,2026", lambda s: len({*s}) == len(s) > 0),
    "off_switch": switch(),
    "jobs": positive("int"),
    "cluster": one_of(CLUSTERS, kind="str or ~"),
    "cluster_options": Setting("dict"),
    "deadline": deadline.SETTING,
    "output": Setting("path or ~", "be a folder, no file", lambda path: Path(path).is_dir() or not Path(path).exists()),
    "archive": Setting("path or ~"),
    "against": Setting("str or ~"),
    "valid_latex": Setting("path or ~"),
    "test_latex": Setting("path or ~"),
    "trials": positive("int or ~"),
    "trial_minutes": positive("float or ~"),
    "study_storage": Setting(
        "str or ~", "be a URL such as postgresql+psycopg://user@host/name", lambda url: "://" in url
    ),
    "pruner": one_of(("halving", "none")),
    "min_epochs": positive("int"),
    "reduction_factor": at_least(2, "int"),
    "space": Setting("path or ~"),
    "tuned": Setting("path or ~"),
}
DEFAULTS = read_yaml(PROPERTIES / "compare.yaml")
# What may differ between two runs of a row: the seed is the run's own, and several machines may share the work.
IGNORED = {"seed", *COMPUTED, *(key for key, row in GENERAL.items() if not row.changes_results)}
# In the folder of a model that was tuned: which model it is, and on which dataset.
STUDY_FILE = "study.json"
# What stands in the run.json of every run.
OF_DESCRIPTION: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("name", "model", "dataset"), (str,)),
    **{"seed": (int,), "settings": (dict,), "config": (dict,)},
}
# RecBole's settings that are spelt much like these.
LIKE_OWN = ("seed", "order_list")
_ENTRY = re.compile(r"(?:(?P<name>[^=()]+)=)?(?P<model>[^=()]+)(?:\((?P<settings>.*)\))?", re.DOTALL)


@dataclass(frozen=True, eq=False)
class Variant:
    """A row of the comparison.

    name : str
    model : str
        As `registry.find_model` takes it.
    settings : dict
        All of its settings but the seed, as `load_config` takes them.
    config : dict
        The whole configuration as plain data.
    seeds : list of int
    warnings : list of str
        What of the settings has no effect.
    """

    name: str
    model: str
    settings: dict[str, Any]
    config: dict[str, Any]
    seeds: list[int]
    warnings: list[str]


@dataclass(frozen=True, eq=False)
class Run:
    """A variant trained with a seed, in a folder of its own; or a trial of its tuning, with the trial's number."""

    variant: Variant
    seed: int
    folder: Path
    number_is: str = "seed"

    @property
    def title(self) -> str:
        """Name and number."""
        return f"{self.variant.name}, {self.number_is} {self.seed}"


class Plan(NamedTuple):
    """A whole comparison.

    dataset : str
    folder : Path
    runs : list of Run
        All seeds of a variant one after another.
    valid_latex, test_latex : Path
    against : str or None
        The row that the others are tested against; None tests every pair.
    jobs : int
        Runs at a time.
    archive : Path or None
        Holds finished runs.
    tuned : Path or None
        What a tuning wrote, from which settings were taken.
    deadline : Deadline
        When the command must have ended.
    cluster : str or None
        Where runs are sent as jobs; None does them on this machine.
    cluster_options : dict or None
        What each job asks the cluster for.
    """

    dataset: str
    folder: Path
    runs: list[Run]
    valid_latex: Path
    test_latex: Path
    against: str | None
    jobs: int
    archive: Path | None
    tuned: Path | None = None
    deadline: Deadline = Deadline()
    cluster: str | None = None
    cluster_options: dict[str, Any] | None = None

    @property
    def variants(self) -> list[Variant]:
        """The rows, in order."""
        return list(dict.fromkeys(run.variant for run in self.runs))

    def runs_of(self, variant: Variant) -> list[Run]:
        """The runs of a row, by seed."""
        return [run for run in self.runs if run.variant is variant]


class Request(NamedTuple):
    """What the user asks of a comparison.

    dataset : str
    own : dict
        The keys of `OWN`, typed.
    entries : list of (str, str, dict)
        Name, model and own settings of each row that is named.
    shared : dict
        Settings of all models.
    by_name : dict of dict
        Settings of single models, written NAME.KEY.
    """

    dataset: str
    own: dict[str, Any]
    entries: list[tuple[str, str, dict[str, Any]]]
    shared: dict[str, Any]
    by_name: dict[str, dict[str, Any]]


def file_name(name: str) -> str:
    """A name in ASCII, which any file system takes; a letter outside of it becomes its number in Unicode."""
    ascii_name = name.encode("ascii", "backslashreplace").decode()
    return re.sub(r"[^\w.+-]+", "_", ascii_name).strip("_.") or "_"


def off_name(name: str) -> str:
    """What the row is called that is the row `name` with its diffusion switched off."""
    return f"{name}-off"


def split_outside(text: str) -> list[str]:
    """The parts of a text between the commas that stand in no bracket."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def read_entry(entry: str) -> tuple[str, str, dict[str, Any]]:
    """Name, model and settings of `MODEL`, `MODEL(KEY=VALUE, ...)` or `NAME=MODEL(KEY=VALUE, ...)`.

    Raises
    ------
    SettingError
        For anything else.
    """
    must = "hold entries MODEL or NAME=MODEL(KEY=VALUE, ...)"
    match = _ENTRY.fullmatch(entry.strip())
    if match is None:
        raise SettingError("model_list", entry, must=must)
    model, settings, telling = match["model"].strip(), {}, []
    for part in split_outside(match["settings"] or ""):
        key, given, value = part.partition("=")
        if not given:
            raise SettingError("model_list", entry, must=f"{must}; {part} is no KEY=VALUE")
        settings[key.strip()] = value.strip()
        # Seeds tell how often a row is run, not which row it is.
        if key.strip() != "seeds":
            telling.append(part)
    name = match["name"] or (f"{model}({', '.join(telling)})" if telling else model)
    return name.strip(), model, settings


def _entries(own: Mapping[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    entries = [read_entry(str(entry)) for entry in own["model_list"]]
    for name, settings in own["variants"].items():
        whole = isinstance(settings, Mapping) and all(isinstance(key, str) for key in settings)
        if not whole or not isinstance(settings.get("model"), str):
            must = "be a mapping of settings, the key model among them"
            raise SettingError(f"variants.{name}", settings, must=must)
        # Yaml reads some names as numbers.
        entries.append((str(name), settings["model"], {key: settings[key] for key in settings if key != "model"}))
    if not entries:
        raise SettingError("model_list", own["model_list"], must="name a model, or several with commas between them")
    return entries


def read_seeds(key: str, value: Any) -> list[int]:
    """The seeds that a setting names.

    Raises
    ------
    SettingError
    """
    seeds = typed(key, value, OWN["seeds"].kind)
    OWN["seeds"].check(key, seeds)
    return seeds


def read_request(settings: Mapping[str, Any], config_files: Sequence[str], dataset: str) -> Request:
    """Read what the user asks for.

    Parameters
    ----------
    settings : mapping
        The command line, key -> text; stronger than the files.
    config_files : sequence of str
    dataset : str
        Used where nothing names one.

    Raises
    ------
    UserError
    """
    given = {k: parse(v) if k in MERGED and isinstance(v, str) else v for k, v in settings.items()}
    merged = merge(*(read_yaml(file) for file in config_files), given)
    if isinstance(merged.get("model_list"), str):
        merged["model_list"] = split_outside(merged["model_list"])
    own = DEFAULTS | {key: typed(key, value, OWN[key].kind) for key, value in merged.items() if key in OWN}
    for key, row in OWN.items():
        row.check(key, own[key])
    entries = _entries(own)
    known = {known for name, model, _ in entries for known in (name, model)}
    shared: dict[str, Any] = {}
    by_name: dict[str, dict[str, Any]] = {}
    for key, value in merged.items():
        name, dot, setting = key.rpartition(".")
        if dot:
            # The command line writes every dash of a key as an underscore.
            spelt = next((model for model in known if model.replace("-", "_") == name.replace("-", "_")), None)
            if spelt is not None:
                by_name.setdefault(spelt, {})[setting] = value
            # A file may serve comparisons of fewer models as well.
            elif key in given or name not in (*our_models(), *recbole_models()):
                problem = f"no model of the comparison is called {name}{suggestion(name, known)}"
                raise SettingError(key, value, problem)
        elif key not in OWN and key not in ("model", "dataset"):
            shared[key] = value
            # For the models it would be an unknown setting that is like none of theirs, which is only warned of.
            if key not in LIKE_OWN and (near := nearest(key, OWN, cutoff=0.8)):
                raise SettingError(key, value, f"there is no such setting; did you mean {near}?")
    for key in ("seed", "resume"):
        if shared.pop(key, None) is not None:
            problem = "use --seeds" if key == "seed" else "the same command with the same --output goes on by itself"
            raise SettingError(key, merged[key], f"in a comparison, {problem}")
    must = "be the name of a dataset, such as ml-100k"
    dataset = typed("dataset", merged.get("dataset", dataset), "str", must)
    return Request(dataset, own, entries, shared, by_name)


def space_file(model: str, folder: str | None = None) -> Path:
    """Where the space that a model is tuned in is stated; `folder` holds other spaces than the package's."""
    return (PROPERTIES / "tune" if folder is None else Path(folder)) / f"{model}.yaml"


def _tuned_file(folder: str | None, name: str, model: str) -> Path | None:
    """Where stands what tuning found best for a row, or else for its model; None where it had nothing to tune."""
    if folder is None:
        return None
    files = [Path(folder, file_name(key), "best.yaml") for key in (name, model)]
    file = next((file for file in files if file.is_file()), files[-1])
    if not file.is_file() and not space_file(model).is_file():
        return None
    if not file.is_file():
        # A comparison in which some models are tuned and others not would not be fair.
        raise SettingError("tuned", folder, must=f"hold {file}: tune {model} as well")
    return file


def _check_tuned(file: Path, variant: Variant) -> list[str]:
    """Refuse what was tuned for another model; gives a warning where it was tuned on another dataset."""
    study = read_json(file.with_name(STUDY_FILE))
    # A folder that was put together by hand has none.
    model, dataset = (study.get(key, variant.config[key]) for key in ("model", "dataset"))
    if model != variant.config["model"]:
        must = f"hold settings of {variant.config['model']} for {variant.name}; those of {file} are of {model}"
        raise SettingError("tuned", str(file.parent.parent), must=must)
    here = variant.config["dataset"]
    return [] if dataset == here else [f"{variant.name} has settings that were tuned on {dataset}, not on {here}"]


def plain_config(config: DiffusionConfig) -> dict[str, Any]:
    """The configuration in the form that json gives back."""
    return json.loads(json.dumps(config.plain()))


def _check_alike(variants: Iterable[Variant]) -> None:
    first, *others = variants
    if first.config.get("tie_order") == "random" and len({seed for row in (first, *others) for seed in row.seeds}) > 1:
        must = "be file or item with several seeds: each seed would test other interactions"
        raise SettingError("tie_order", "random", must=must)
    for other in others:
        for key in (key for key, row in GENERAL.items() if row.shared):
            if other.config[key] != first.config[key]:
                must = f"be {first.config[key]!r}, as in {first.name}: all models are evaluated alike"
                raise SettingError(f"{other.name}.{key}", other.config[key], must=must)


def _make_variant(request: Request, name: str, model: str, settings: dict[str, Any]) -> tuple[Variant, bool]:
    """A row, and whether it has a diffusion that is on."""
    # A row may have seeds of its own, for want of time.
    seeds = read_seeds(f"{name}.seeds", settings.get("seeds", request.own["seeds"]))
    settings = {key: value for key, value in settings.items() if key != "seeds"}
    config = load_config(model, request.dataset, None, {**settings, "seed": seeds[0]})
    if config["MODEL_TYPE"] not in (ModelType.SEQUENTIAL, ModelType.GENERAL):
        must = "name sequential models, or general ones, which take users and items alone"
        raise SettingError("model_list", model, must=must)
    if config["MODEL_TYPE"] == ModelType.GENERAL and "LS" not in config["eval_args"]["split"]:
        must = f"be LS: valid_and_test with {model}, a general model, as each user has one test item then"
        raise SettingError("eval_args.split", config["eval_args"]["split"], must=must)
    if set(config["eval_args"]["mode"].values()) != {"full"}:
        raise SettingError(
            "eval_args.mode", config["eval_args"]["mode"], must="be full in a comparison: all items are ranked"
        )
    warnings = list(config.warnings)
    if config["MODEL_TYPE"] == ModelType.GENERAL:
        warnings.append(
            f"{name} knows a user's training items alone; a sequential model's history ends at the test item"
        )
    variant = Variant(name, model, settings, plain_config(config), seeds, warnings)
    return variant, "diffusion" in config.table and bool(config["diffusion"])


def settings_of(request: Request, entry: tuple[str, str, dict[str, Any]], *weaker: dict[str, Any]) -> dict[str, Any]:
    """The settings of a named row: those of all models, `weaker`, those of its model, of its name, its own."""
    name, model, own = entry
    by_name = [request.by_name.get(key, {}) for key in dict.fromkeys((model, name))]
    return merge(request.shared, *weaker, *by_name, own)


def make_variants(request: Request) -> list[Variant]:
    """The rows of a comparison: what the user names, and each model of ours with its diffusion switched off.

    Raises
    ------
    UserError
        For any setting that a model cannot be run with, before anything is trained.
    """
    named = []
    for entry in request.entries:
        name, model, _ = entry
        file = _tuned_file(request.own["tuned"], name, model)
        tuned = {} if file is None else read_yaml(file)
        made = _make_variant(request, name, model, settings_of(request, entry, tuned))
        if file is not None:
            made[0].warnings.extend(_check_tuned(file, made[0]))
        elif request.own["tuned"] is not None:
            made[0].warnings.append(f"{name} is not tuned as the others are: no space is stated for {model}")
        named.append(made)
    variants = []
    configs = [variant.config for variant, _ in named]
    for variant, is_on in named:
        variants.append(variant)
        if is_on and request.own["off_switch"]:
            off = {**variant.settings, "diffusion": False, "seeds": variant.seeds}
            switched_off, _ = _make_variant(request, off_name(variant.name), variant.model, off)
            if switched_off.config not in configs:
                variants.append(switched_off)
                configs.append(switched_off.config)
    files = [file_name(variant.name) for variant in variants]
    for number, variant in enumerate(variants):
        if files[number] in files[:number]:
            wanted_names = "each row needs a name of its own, as in NAME=MODEL(KEY=VALUE)"
            raise SettingError("model_list", variant.name, wanted_names)
    _check_alike(variants)
    return variants


def make_plan(request: Request) -> Plan:
    """The runs of a comparison, and where each of them stands.

    Raises
    ------
    UserError
        For any mistake in the settings, and where the folder holds runs with other ones.
    """
    folder = Path(request.own["output"] or Path("compare", file_name(request.dataset)))
    runs = [
        Run(variant, seed, folder / "runs" / file_name(variant.name) / str(seed))
        for variant in make_variants(request)
        for seed in variant.seeds
    ]
    valid_latex, test_latex = (
        Path(request.own[f"{part}_latex"] or folder / f"{part}.tex") for part in ("valid", "test")
    )
    against = request.own["against"]
    names = list(dict.fromkeys(run.variant.name for run in runs))
    if against is not None and against not in names:
        raise SettingError("against", against, must=f"be one of the rows: {', '.join(names)}")
    archive, tuned = (None if request.own[key] is None else Path(request.own[key]) for key in ("archive", "tuned"))
    jobs, until, cluster = request.own["jobs"], Deadline.read(request.own["deadline"]), request.own["cluster"]
    latex, options = (valid_latex, test_latex), request.own["cluster_options"]
    plan = Plan(request.dataset, folder, runs, *latex, against, jobs, archive, tuned, until, cluster, options)
    for run in runs:
        before = description_of(run.folder)
        check_same(run, before, f"output={folder}", "choose another folder by --output")
    return plan


def description_of(folder: Path) -> dict[str, Any]:
    """What stands in the `run.json` of a run's folder; nothing where the run has not begun.

    Raises
    ------
    UserError
        Where it cannot be read, or is missing beside the record of a run that is done: nobody knows its settings.
    """
    description = read_json(folder / "run.json")
    if not description and (folder / "record.json").exists():
        raise UserError(f"{folder}: a run is done there, but its run.json is missing; without the folder it runs again")
    if description:
        check_form(str(folder / "run.json"), description, OF_DESCRIPTION)
    return description


def first_difference(
    there: Mapping[str, Any], here: Mapping[str, Any], given: Iterable[str] | None = None
) -> str | None:
    """The first setting that differs between two configurations, of those that a result depends on.

    Of the settings that only one of them has, as one may be of an earlier version of the code, those that stand in
    `given` count: the others were left at the default, which does what the version without the setting does.
    """
    keys = [key for key in dict.fromkeys((*here, *there)) if key not in IGNORED]
    if given is not None:
        both = set(here) & set(there) | set(given)
        keys = [key for key in keys if key in both]
    return next((key for key in keys if there.get(key) != here.get(key)), None)


def comparable(there: Mapping[str, Any], here: Mapping[str, Any]) -> dict[str, Any]:
    """A saved configuration as it counts against one of today: a run with both rankings has that with the history."""
    there = with_protocol(there)
    has_it = (there["history_in_ranking"], here["history_in_ranking"]) == ("both", "in")
    return {**there, "history_in_ranking": "in"} if has_it else there


def check_same(run: Run, before: Mapping[str, Any], where: str, otherwise: str) -> None:
    """Refuse a run that was done with other settings than the plan's.

    Parameters
    ----------
    run : Run
    before : mapping
        The run.json that was found; empty where there is none.
    where : str
        The setting that names the place, as in `output=FOLDER`.
    otherwise : str
        What the user can do instead of using the same settings.

    Raises
    ------
    UserError
        Naming the first setting that differs.
    """
    here = run.variant.config
    # The run may be older than the name of a setting.
    model = find_model(run.variant.model)
    there, given = (rename(before.get(part, {}), model, here)[0] for part in ("config", "settings"))
    there = comparable(there or here, here)
    key = first_difference(there, here, (*run.variant.settings, *given))
    if key is not None:
        name, was, now = run.variant.name, there.get(key), here.get(key)
        if key == "history_in_ranking":
            otherwise += ", or test the models of its folder again by recbole-diffusion evaluate"
        raise UserError(f"{where}: {name} was run with {key}={was!r} there, not {now!r}; set it so, or {otherwise}")
