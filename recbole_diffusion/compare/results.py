"""The results of a comparison as one mapping of plain data, from which report and plots are made."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..common.files import check_form, read_json
from ..common.setting import table_of
from ..evaluation import statistics
from ..evaluation.protocols import apart, protocols
from ..evaluation.ranks import HEAD, Aligned, K, align, by_user, hit, is_head, length_groups, load_ranks, ndcg
from ..host.registry import find_model
from .cuts import by_cut
from .plan import Plan, Run, Variant, first_difference, off_name
from .states import OF_RUN, state_of
from .trials import tuning_of

# For the many intervals of the plots; those of the tables have more.
GROUP_RESAMPLES = 1000
COSTS = ("seconds_per_epoch", "seconds_per_evaluation", "peak_memory", "peak_gpu_memory", "seconds")


def mean_and_std(values: Sequence[float]) -> dict[str, Any]:
    """Mean, standard deviation (of a sample; None of a single value) and the values, by seed."""
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": std, "values": [float(value) for value in values]}


def _over_seeds(metrics: Sequence[dict[str, float]]) -> dict[str, Any]:
    return {metric: mean_and_std([of_seed[metric] for of_seed in metrics]) for metric in metrics[0]}


def _metric_row(variant: Variant, states: dict[Run, dict[str, Any]], protocol: str) -> dict[str, Any]:
    """Metrics of a row by one ranking, over the seeds that are done."""
    done = {run.seed: state for run, state in states.items() if state["state"] == "done"}
    row: dict[str, Any] = {
        "name": variant.name,
        "seeds": list(done),
        "failed": {run.seed: state["error"] for run, state in states.items() if state["state"] == "failed"},
    }
    if not done:
        return row
    history = variant.config["history_in_ranking"]
    parts = {"valid": "valid_result", "test": "test_result"}
    apart_by_part = {
        part: [apart(record[name] or {}, history)[protocol] for record in done.values()] for part, name in parts.items()
    }
    return row | {part: _over_seeds(metrics) for part, metrics in apart_by_part.items()}


def _row(variant: Variant, states: dict[Run, dict[str, Any]], protocol: str) -> dict[str, Any]:
    """A row of the table, over the seeds that are done, with settings and costs."""
    records = [state for state in states.values() if state["state"] == "done"]
    row = _metric_row(variant, states, protocol)
    row |= {"model": variant.config["model"], "settings": variant.settings}
    if not records:
        return row
    for cost in COSTS:
        values = [record[cost] for record in records]
        row[cost] = mean_and_std(values) if None not in values else None
    return row | {
        "parameters": records[0]["parameters"],
        "epochs": [len(record["epochs"]) for record in records],
        "best_epoch": [record["best_epoch"] for record in records],
    }


def _estimates(names: Sequence[str], means: Sequence[statistics.Means]) -> dict[str, dict[str, float]]:
    """Mean and interval of each model."""
    intervals = [statistics.interval(of_model).tolist() for of_model in means]
    return {
        name: {"mean": float(of_model.mean), "low": low, "high": high}
        for name, of_model, (low, high) in zip(names, means, intervals, strict=True)
    }


def _in_groups(names: Sequence[str], rows: Aligned, group: np.ndarray, titles: Sequence[str]) -> list[dict[str, Any]]:
    """NDCG@k of each model within each group [n] of the test rows."""
    groups = []
    for number, title in enumerate(titles):
        inside = group == number
        if not inside.any():
            continue
        scores = [by_user(rows.user[inside], ndcg(ranks[:, inside])) for ranks in rows.ranks]
        users = len(np.unique(rows.user[inside]))
        means = statistics.resampled_means(scores, GROUP_RESAMPLES)
        groups.append({"group": title, "users": users, "models": _estimates(names, means)})
    return groups


def _by_steps(records: dict[str, list[dict[str, Any]]], history: str, protocol: str) -> list[dict[str, Any]]:
    """Test metrics over seeds by number of reverse steps, for the models that have such steps."""
    table = []
    for name, seeds in records.items():
        for alike in zip(*(record["by_steps"] for record in seeds), strict=True):
            metrics = _over_seeds([apart(one["metrics"], history)[protocol] for one in alike])
            seconds = mean_and_std([one["seconds"] for one in alike])
            table.append({"name": name, "steps": alike[0]["steps"], "seconds": seconds, "metrics": metrics})
    return table


def noise_pairs(variants: Sequence[Variant]) -> list[tuple[str, str]]:
    """Each row whose diffusion is on, with the rows of its model whose diffusion is off.

    These are its own `-off` row and the controls, which are no row's own. The `-off` row of another is left out: it
    belongs to that one's settings, which may be those of another network. It counts for a row that has none of its own
    and differs from it in nothing but what inference alone reads.
    """
    on = [variant for variant in variants if variant.config.get("diffusion")]
    off = [variant for variant in variants if variant.config.get("diffusion") is False]
    owned = {(off_name(variant.name), variant.model) for variant in on}
    there = {(variant.name, variant.model) for variant in off}

    def belong(first: Variant, second: Variant) -> bool:
        if second.name == off_name(first.name) or (second.name, second.model) not in owned:
            return True
        return (off_name(first.name), first.model) not in there and _trained_alike(first, second)

    return [
        (first.name, second.name)
        for first in on
        for second in off
        if second.model == first.model and belong(first, second)
    ]


def _trained_alike(first: Variant, second: Variant) -> bool:
    """Whether two rows of a model differ in nothing but diffusion and what inference alone reads."""
    free = {"diffusion", *(key for key, row in table_of(find_model(first.model)).items() if row.at_inference)}
    here, there = ({key: row.config[key] for key in row.config if key not in free} for row in (first, second))
    return first_difference(there, here) is None


def is_control(pair: Mapping[str, Any]) -> bool:
    """Whether a test of the `noise` is against another row than the model's own `-off` row."""
    return pair["second"] != off_name(pair["first"])


def has_controls(results: Mapping[str, Any]) -> bool:
    """Whether the `noise` of a ranking has tests against controls."""
    return any(map(is_control, results["noise"]))


def _noise_worth(
    variants: Sequence[Variant],
    names: Sequence[str],
    ndcg_of: Sequence[np.ndarray],
    hits: Sequence[np.ndarray],
    means: tuple[Sequence[statistics.Means], Sequence[statistics.Means]],
) -> list[dict[str, Any]]:
    """The pairs of `noise_pairs` that have runs, tested; Holm's correction is for these."""
    pairs = [pair for pair in noise_pairs(variants) if set(pair) <= set(names)]
    mean = {name: float(scores.mean()) for name, scores in zip(names, ndcg_of, strict=True)}
    tested = statistics.compare_pairs(names, ndcg_of, hits, pairs=pairs, means=means)
    return [{**pair._asdict(), "mean": mean[pair.first], "off_mean": mean[pair.second]} for pair in tested]


def _tests(plan: Plan, states: dict[Run, dict[str, Any]], history: str, protocol: str) -> dict[str, Any]:
    """Everything that is computed from the ranks of the single users by one ranking."""
    done = {
        variant.name: [run for run in plan.runs_of(variant) if states[run]["state"] == "done"]
        for variant in plan.variants
    }
    done = {name: runs for name, runs in done.items() if runs}
    if not done:
        lists: dict[str, Any] = {key: [] for key in ("pairs", "noise", "by_length", "by_popularity", "by_steps")}
        return {"users": 0, "estimates": {}, "by_cut": {}, **lists}
    names = list(done)
    stored = [[load_ranks(run.folder / "ranks.npz") for run in runs] for runs in done.values()]
    rows = align(stored, without_history=history == "both" and protocol == "out")
    of_users: Callable[[Any], list[np.ndarray]] = lambda metric: [by_user(rows.user, metric(r)) for r in rows.ranks]  # noqa: E731
    user_ndcg, user_hits = of_users(ndcg), of_users(hit)
    groups, titles = length_groups(rows.length)
    head = is_head(rows.popularity)[rows.item]
    means = statistics.resampled_means(user_ndcg), statistics.resampled_means(user_hits)
    pairs = statistics.compare_pairs(names, user_ndcg, user_hits, plan.against, means=means)
    parted_by = {"length": rows.length, "popularity": rows.popularity[rows.item], "time": rows.time}
    tested = [(pair.first, pair.second) for pair in pairs]
    cuts = {key: by_cut(names, rows, value, tested) for key, value in parted_by.items() if value is not None}
    return {
        "users": len(np.unique(rows.user)),
        "pairs": [pair._asdict() for pair in pairs],
        "noise": _noise_worth(plan.variants, names, user_ndcg, user_hits, means),
        "estimates": {
            f"ndcg@{K}": _estimates(names, means[0]),
            f"hit@{K}": _estimates(names, means[1]),
        },
        "by_length": _in_groups(names, rows, groups, titles),
        "by_popularity": _in_groups(names, rows, (~head).astype(int), [f"head ({HEAD:.0%} of items)", "tail"]),
        "by_cut": {key: cut for key, cut in cuts.items() if cut is not None},
        "by_steps": _by_steps({name: [states[run] for run in runs] for name, runs in done.items()}, history, protocol),
    }


def best_by(results: dict[str, Any], metric: str, significant: str) -> str | None:
    """The model that is significantly better in `metric` than every other; None where there is none.

    Where not every pair is tested, only a model that every other was tested against can be it.
    """
    estimates = results["estimates"].get(metric, {})
    if len(estimates) < 2:
        return None
    best = max(estimates, key=lambda name: estimates[name]["mean"])
    against = [pair for pair in results["pairs"] if best in (pair["first"], pair["second"])]
    return best if len(against) == len(estimates) - 1 and all(pair[significant] for pair in against) else None


def _with_best(tests: dict[str, Any]) -> dict[str, Any]:
    significant = {f"ndcg@{K}": "ndcg_significant", f"hit@{K}": "hit_significant"}
    return {**tests, "bold": {metric: best_by(tests, metric, key) for metric, key in significant.items()}}


def collect(plan: Plan, command: Sequence[str] = ()) -> dict[str, Any]:
    """Collect the results of the runs of a plan.

    Parameters
    ----------
    plan : Plan
    command : sequence of str
        What the user typed. Runs of earlier commands have theirs in their records.

    Returns
    -------
    dict
        `rows` (a model each), `pairs` (tests of differences), `noise` (the tests of `noise_pairs`), `estimates`,
        `by_length`, `by_popularity`, `by_cut`, `by_steps`, `tuning` (trials) and `runs` (the record of every run, with
        configuration, command, versions, commit and machine). With `history_in_ranking: both` these are of the ranking
        with the history, and `history_out` holds the same of that without it, but for runs, costs and trials.
    """
    states = {run: state_of(run) for run in plan.runs}
    for run, state in states.items():
        if state["state"] == "done":
            check_form(str(run.folder / "record.json"), state, OF_RUN)
    by_variant = {v: {run: states[run] for run in plan.runs_of(v)} for v in plan.variants}
    config = plan.variants[0].config
    history = config["history_in_ranking"]
    main, *others = protocols(history)
    results = {
        "dataset": plan.dataset,
        "command": shlex.join(command),
        "seeds": list(dict.fromkeys(run.seed for run in plan.runs)),
        "eval_args": config["eval_args"],
        "valid_metric": config["valid_metric"],
        "valid_metric_bigger": config["valid_metric_bigger"],
        "stopping_step": config["stopping_step"],
        "history_in_ranking": history,
        "rows": [_row(variant, of_it, main) for variant, of_it in by_variant.items()],
        **_with_best(_tests(plan, states, history, main)),
    }
    for protocol in others:
        metric_rows = [_metric_row(variant, of_it, protocol) for variant, of_it in by_variant.items()]
        seeds = {"seeds": results["seeds"], "rows": metric_rows}
        results[f"history_{protocol}"] = {**seeds, **_with_best(_tests(plan, states, history, protocol))}
    results["tuning"] = tuning_of(plan)
    results["runs"] = [
        {**read_json(run.folder / "run.json"), **state, "name": run.variant.name, "seed": run.seed}
        for run, state in states.items()
    ]
    return results
