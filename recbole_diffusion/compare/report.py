"""The report of a comparison: markdown, json, csv and LaTeX. The html is made by `page`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from ..common.files import check_form, read_json, write_json, write_text
from ..errors import UserError
from ..evaluation.protocols import TITLES, results_by_protocol
from ..evaluation.ranks import HEAD, K
from ..evaluation.statistics import LEVEL, MARGIN, RESAMPLES
from .plan import Plan
from .plots import plot_all
from .results import COSTS, has_controls
from .states import duration
from .trials import budget_lines

# What stands in every results.json.
OF_RESULTS: dict[str, tuple[type, ...]] = {"dataset": (str,), **dict.fromkeys(("seeds", "rows", "runs"), (list,))}
# What `_bold` makes.
BOLD = r"\*\*(.+)\*\*"


def _number(value: Mapping[str, Any] | None, form: str = ".4f", scale: float = 1) -> str:
    """Mean ± standard deviation."""
    if value is None:
        return "-"
    spread = "" if value["std"] is None else f" ± {value['std'] / scale:{form}}"
    return f"{value['mean'] / scale:{form}}{spread}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _code(text: str) -> str:
    """The text as it stands: what markdown or html would read in it is not read."""
    return "`" + text.replace("`", "'") + "`" if text else "nothing"


def _bold(text: str, significant: bool) -> str:
    return f"**{text}**" if significant else text


def _table(rows: Sequence[Mapping[str, str]], names: int = 1) -> str:
    """A table in markdown, whose first `names` columns are names."""
    # A bar in a name would begin a new cell.
    cells = [{key: text.replace("|", r"\|") for key, text in row.items()} for row in rows]
    align = [*["left"] * names, *["right"] * (len(rows[0]) - names)]
    return tabulate(cells, headers="keys", tablefmt="pipe", disable_numparse=True, colalign=align)


def metric_rows(results: Mapping[str, Any], part: str = "test") -> list[dict[str, str]]:
    """Mean ± standard deviation of every metric, a model a row; bold (in markdown) where significantly best."""
    rows = []
    metrics = next((list(row[part]) for row in results["rows"] if part in row), [])
    for row in results["rows"]:
        done = len(row["seeds"])
        some = f" ({done} of {done + len(row['failed'])} seeds)" if done and row["failed"] else ""
        cells = {"model": row["name"] + some}
        for metric in metrics:
            best = part == "test" and results["bold"].get(metric) == row["name"]
            cells[metric] = _bold(_number(row[part][metric]), best) if part in row else "failed"
        rows.append(cells)
    return rows


def cost_rows(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """Seeds, parameters, epochs, time and memory, a model a row."""
    rows = []
    with_gpu = any(row.get("peak_gpu_memory") for row in results["rows"])
    for row in results["rows"]:
        done = "test" in row
        cells = {
            "model": row["name"],
            "seeds": ", ".join(map(str, row["seeds"])) or "none",
            "parameters": f"{row['parameters']:,}" if done else "-",
            "epochs (best, from 0)": ", ".join(
                f"{n} ({best})" for n, best in zip(row["epochs"], row["best_epoch"], strict=True)
            )
            if done
            else "-",
            "s an epoch": _number(row.get("seconds_per_epoch"), ".2f"),
            "s an evaluation": _number(row.get("seconds_per_evaluation"), ".2f"),
            "peak memory (MB)": _number(row.get("peak_memory"), ".0f", 1e6),
        }
        if with_gpu:
            cells["peak GPU memory (MB)"] = _number(row.get("peak_gpu_memory"), ".0f", 1e6)
        rows.append(cells)
    return rows


def pair_rows(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """The tests of the differences, a pair of models a row."""
    return [
        {
            "first": pair["first"],
            "second": pair["second"],
            f"NDCG@{K} first - second": _bold(f"{pair['difference']:+.4f}", pair["ndcg_significant"]),
            f"NDCG@{K}, {LEVEL:.0%} interval": f"{pair['low']:+.4f} to {pair['high']:+.4f}",
            "Wilcoxon p": _p(pair["wilcoxon"]),
            "Wilcoxon, Holm": _p(pair["wilcoxon_holm"]),
            f"Hit@{K} first - second": _bold(f"{pair['hit_difference']:+.4f}", pair["hit_significant"]),
            f"Hit@{K}, {LEVEL:.0%} interval": f"{pair['hit_low']:+.4f} to {pair['hit_high']:+.4f}",
            "McNemar p": _p(pair["mcnemar"]),
            "McNemar, Holm": _p(pair["mcnemar_holm"]),
        }
        for pair in results["pairs"]
    ]


def finding(pair: Mapping[str, Any]) -> str:
    """What a test of a row against one without noise says, in a word or two."""
    if pair["ndcg_significant"]:
        return "**better with noise**" if pair["difference"] > 0 else "**worse with noise**"
    if pair["equivalent"]:
        return f"equal within {MARGIN:.0%}"
    return f"open within ±{max(abs(pair['low']), abs(pair['high'])) / pair['off_mean']:.1%}"


def noise_rows(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """What the noise of each model is worth, a model a row; with controls a pair a row, which then names both."""
    named = has_controls(results)
    return [
        {
            "model": pair["first"],
            **({"against": pair["second"]} if named else {}),
            f"NDCG@{K}": f"{pair['mean']:.4f}",
            "with diffusion off": f"{pair['off_mean']:.4f}",
            "difference": f"{pair['difference']:+.4f}",
            f"{LEVEL:.0%} interval": f"{pair['low']:+.4f} to {pair['high']:+.4f}",
            "in per cent": f"{pair['difference'] / pair['off_mean']:+.1%}",
            "Wilcoxon, Holm": _p(pair["wilcoxon_holm"]),
            f"Hit@{K}": _bold(f"{pair['hit_difference']:+.4f}", pair["hit_significant"]),
            "the noise": finding(pair),
        }
        for pair in results["noise"]
    ]


def how_noise(results: Mapping[str, Any]) -> str:
    """What the figures of the noise are, and which pairs Holm's correction is for."""
    pairs, controls = len(results["noise"]), has_controls(results)
    against = "the same network without noise"
    counted = f"these {pairs} pairs"
    if controls:
        against = "rows without noise: its own (NAME-off), and controls, whose other settings may differ"
        counted = f"all {pairs} pairs of this table, controls included"
    corrected = f", with Holm's correction for {counted}" if pairs > 1 else ""
    return (
        f"Each model against {against}. *Better* and *worse*: significant, as below{corrected}."
        " *Equal*: two one-sided tests (TOST) at"
        f" {1 - LEVEL:.2f}, each pair by itself, show that NDCG@{K} differs by less than {MARGIN:.0%}. *Open*: neither;"
        f" the interval ends within the bound that stands there.{_one_seed(results)}"
    )


def _one_seed(results: Mapping[str, Any]) -> str:
    """What tests of a single training leave open."""
    open_ = " One seed: what is tested is these trained models; with another seed the difference may be another."
    return open_ if len(results["seeds"]) == 1 else ""


def how_tested(results: Mapping[str, Any], mark: str = "Bold: significant") -> str:
    """What the figures of a pair are; `mark` says how a difference that is significant is marked."""
    several = len(results["seeds"]) > 1
    users = f"percentile bootstrap with {RESAMPLES:,} resamples of users alone"
    seeds = "over users and seeds, by Student's t with the degrees of freedom of Welch and Satterthwaite; between two"
    kind = f"{seeds} models of one seed {users}" if several else f"{users}, since there is one seed"
    most = "; a user counts for the model that hits with more of its seeds" if several else ""
    equal = " Both tests use as many seeds of one model as of the other." if several else ""
    pairs = len(results["pairs"])
    corrected = f"Holm corrects both for the {pairs} pairs." if pairs > 1 else "One pair needs no correction."
    return (
        f"First minus second over the {results['users']:,} test users, the seeds averaged within a user. Interval:"
        f" {kind}; it is not corrected for the number of pairs. Wilcoxon: signed ranks of the users'"
        f" NDCG@{K}, two-sided, without the users that do not differ. McNemar: exact, two-sided, on"
        f" Hit@{K}{most}.{equal} {corrected} {mark} by both the interval and the Holm-corrected test (p"
        f" below {1 - LEVEL:.2f}), in the same direction.{_one_seed(results)}"
    )


def how_measured(results: Mapping[str, Any], mark: str = "Bold: significantly") -> str:
    """What the figures of a row are; `mark` says how the best is marked."""
    several = len(results["seeds"]) > 1
    seeds = "Mean ± standard deviation over the seeds; without ± where there is one." if several else "One seed."
    return f"{seeds} {mark} better than every other row, by the tests below. Only NDCG@{K} and Hit@{K} are tested."


def _rankings(results: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """The rankings that are reported: what is added to headings and to names of files, and its results."""
    by_protocol = results_by_protocol(results)
    if len(by_protocol) == 1:
        # The head of the report says which.
        return [("", "", results)]
    suffixes = ("", *(f"-history-{protocol}" for protocol in list(by_protocol)[1:]))
    named = zip(by_protocol.items(), suffixes, strict=True)
    return [(f": {TITLES[protocol]}", suffix, of_it) for (protocol, of_it), suffix in named]


RANKED = {
    "in": "rank all items, those of the user's own history too",
    "out": "rank all items but those of the user's own history; a target that is in it stays",
    "both": (
        "rank all items, once with those of the user's own history and, from the same scores, once without them; a"
        " target that is in it stays. Training stops by the ranking with them"
    ),
}


def how_set_up(results: Mapping[str, Any]) -> str:
    """Seeds, split, ranking and early stopping."""
    seeds = ", ".join(map(str, results["seeds"]))
    split = results["eval_args"]["split"]
    how = "leave-one-out" if "LS" in split else f"split {split}"
    return (
        f"Seeds: {seeds}. All models have the same split ({how}) and {RANKED[results['history_in_ranking']]}."
        f" Training stops after {results['stopping_step'] + 1} validations in a row worse than the best"
        f" {results['valid_metric']}; the best epoch is tested."
    )


def to_markdown(results: Mapping[str, Any], plots: Mapping[str, Path]) -> str:
    """The report."""
    parts = [
        f"# {results['dataset']}: models side by side",
        how_set_up(results),
        f"```sh\n{results['command']}\n```",
    ]
    for title, _, of_ranking in _rankings(results):
        parts += [f"## Test metrics{title}", _table(metric_rows(of_ranking)), how_measured(of_ranking)]
    for title, _, of_ranking in _rankings(results):
        if of_ranking["noise"]:
            table = _table(noise_rows(of_ranking), names=2 if has_controls(of_ranking) else 1)
            parts += [f"## What the noise is worth{title}", table, how_noise(of_ranking)]
    failed = [
        f"- {row['name']}, seed {seed}: {_code(why)}" for row in results["rows"] for seed, why in row["failed"].items()
    ]
    if failed:
        parts += ["## Failed", "\n".join(failed)]
    for title, _, of_ranking in _rankings(results):
        if of_ranking["pairs"]:
            parts += [f"## Differences{title}", _table(pair_rows(of_ranking), names=2), how_tested(of_ranking)]
    parts += ["## Cost", _table(cost_rows(results)), how_timed(results)]
    for title, _, of_ranking in _rankings(results):
        parts += [f"## Validation metrics{title}", _table(metric_rows(of_ranking, "valid"))]
    given = [
        f"- {row['name']}: {_code(', '.join(f'{key}={value}' for key, value in row['settings'].items()))}"
        for row in results["rows"]
    ]
    parts += [
        "## Settings",
        "Settings from the command, its files or tuning. The others are defaults; results.json lists all.",
    ]
    parts += ["\n".join(given)]
    if results.get("tuning"):
        parts += ["Tuning took:", "\n".join(budget_lines(results["tuning"]))]
    if plots:
        parts.append(f"## Plots{_rankings(results)[0][0]}")
        groups = f"Head: the {HEAD:.0%} of the items with the most training interactions; tail: the others."
        for title, path in plots.items():
            parts += [f"### {title}", f"![{title}]({path.name})"]
            parts += [groups] if "popularity" in title else []
    return "\n\n".join(parts) + "\n"


def how_timed(results: Mapping[str, Any]) -> str:
    """What the figures of time and memory are, how long all runs took, and on which machines."""
    done = [run for run in results["runs"] if run["state"] == "done"]
    if not done:
        return "No run is done."
    total = sum(run["seconds"] for run in results["runs"])
    # More than one where several machines have shared the work.
    places = dict.fromkeys(_place(run["machine"], run["versions"]) for run in done)
    jobs = max(run.get("jobs", 1) for run in results["runs"])
    at_a_time = f", {jobs} runs at a time" if jobs > 1 else ""
    return (
        "Peak memory: of the run's whole process, interpreter and libraries included. Seconds an epoch: training"
        " without validation. Seconds an evaluation: the test. The runs' own times add up to"
        f" {duration(total)}{at_a_time}, on {'; and on '.join(places)}."
    )


def _place(machine: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    where = f"{machine['threads']} of {machine['cores']} cores of {machine['processor']}{gpu} ({machine['system']})"
    return f"{where} with {', '.join(f'{name} {version}' for name, version in versions.items())}"


def to_latex(rows: Sequence[Mapping[str, str]], caption: str) -> str:
    """A LaTeX table in RecBole's layout; what is bold in markdown is bold here. It needs the package booktabs."""
    frame = pd.DataFrame(rows)
    bold = frame.apply(lambda column: column.str.fullmatch(BOLD))
    frame = frame.apply(lambda column: column.str.replace(BOLD, r"\1", regex=True))
    style = frame.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
    style = style.apply(lambda _: bold.replace({True: "textbf:--rwrap;", False: ""}), axis=None)
    text = style.to_latex(
        hrules=True,
        # pandas escapes all but this.
        caption=re.sub(r"([&%$#_{}])", r"\\\1", caption),
        column_format="l" + "c" * (frame.shape[1] - 1),
        position_float="centering",
    )
    # Neither is in the fonts that LaTeX starts with.
    return text.replace(" ± ", r" $\pm$ ").replace("< ", "$<$ ")


def run_table(results: Mapping[str, Any]) -> pd.DataFrame:
    """A row for each model and seed."""
    rows = []
    for run in results["runs"]:
        row = {"name": run["name"], "seed": run["seed"], "state": run["state"]}
        if run["state"] == "done":
            row |= {f"test {metric}": value for metric, value in run["test_result"].items()}
            row |= {f"valid {metric}": value for metric, value in (run["valid_result"] or {}).items()}
            row |= {key: run[key] for key in ("parameters", "best_epoch", *COSTS)} | {"epochs": len(run["epochs"])}
        rows.append(row)
    return pd.DataFrame(rows)


def write_report(plan: Plan, results: dict[str, Any]) -> Path:
    """Write every form of the report but the html into the plan's folder; gives the path of the markdown.

    Raises
    ------
    UserError
        Where the folder cannot be written to.
    """
    folder = plan.folder
    plots = plot_all(results, folder)
    text = to_markdown(results, plots)
    write_text(folder / "report.md", text)
    write_json(folder / "results.json", results)
    write_text(folder / "results.csv", run_table(results).to_csv(index=False))
    for title, suffix, of_ranking in _rankings(results):
        where = f"on {plan.dataset}{title}"
        if of_ranking["pairs"]:
            write_text(folder / f"differences{suffix}.tex", to_latex(pair_rows(of_ranking), f"Differences {where}"))
        for part, path in (("valid", plan.valid_latex), ("test", plan.test_latex)):
            name = "Validation" if part == "valid" else "Test"
            table = to_latex(metric_rows(of_ranking, part), f"{name} metrics {where}")
            write_text(path.with_stem(path.stem + suffix), table)
    return folder / "report.md"


def read_results(folder: Path) -> dict[str, Any]:
    """The results that `write_report` left in the folder of a comparison.

    Raises
    ------
    UserError
        Where there is none, or it is damaged.
    """
    results = read_json(folder / "results.json")
    if not results:
        raise UserError(f"{folder}: must be the folder of a comparison, got one without results.json")
    check_form(str(folder / "results.json"), results, OF_RESULTS)
    return results


def final_table(results: Mapping[str, Any]) -> str:
    """What the command prints: metrics, cost and differences."""
    rankings = _rankings(results)
    tables = [
        *((f"test metrics{title}", title, metric_rows(of_ranking)) for title, _, of_ranking in rankings),
        ("", "", cost_rows(results)),
        *((f"differences{title}", title, pair_rows(of_ranking)) for title, _, of_ranking in rankings),
    ]
    shown = [
        (f"{heading}\n" if several else "") + tabulate(table, headers="keys", disable_numparse=True)
        for heading, several, table in tables
        if table
    ]
    failed = [
        f"{row['name']}, seed {seed} failed: {why}" for row in results["rows"] for seed, why in row["failed"].items()
    ]
    return "\n\n".join([*shown, *failed])
