"""Whether the user's own history is among the ranked items: what the values of `history_in_ranking` mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What each ranking is called in tables.
TITLES = {"in": "history in the ranking", "out": "history out of the ranking"}
# Ends the names of the metrics without the history where a run reports both.
SUFFIX = "_history_out"


def protocols(history_in_ranking: str | None) -> tuple[str, ...]:
    """The rankings that a value of the setting asks for, the one that validation follows first.

    None, as a configuration that is not ours gives it, is `in`.
    """
    return ("in", "out") if history_in_ranking == "both" else (history_in_ranking or "in",)


def results_by_protocol(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The results of a comparison by protocol: its own, and with `both` those without the history that it holds."""
    main, *others = protocols(results["history_in_ranking"])
    return {main: results, **{other: results[f"history_{other}"] for other in others}}


def with_suffix(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics without the history under the names that they have beside those with it."""
    return {metric + SUFFIX: value for metric, value in metrics.items()}


def apart(metrics: Mapping[str, Any], history_in_ranking: str | None) -> dict[str, dict[str, Any]]:
    """The metrics of a run by protocol, under their plain names.

    Parameters
    ----------
    metrics : mapping
        Of a run with that value of the setting, or with `both`.
    history_in_ranking : str or None
    """
    main, *other = protocols(history_in_ranking)
    found = {main: {metric: value for metric, value in metrics.items() if not metric.endswith(SUFFIX)}}
    for protocol in other:
        found[protocol] = {m.removesuffix(SUFFIX): value for m, value in metrics.items() if m.endswith(SUFFIX)}
    return found
