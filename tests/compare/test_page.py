from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion.cli import parsers
from recbole_diffusion.compare.page import row_command, write_page
from recbole_diffusion.compare.plan import IGNORED, plain_config
from recbole_diffusion.errors import UserError
from recbole_diffusion.host.settings import load_config


def results_of(compared: dict[str, Any]) -> dict[str, Any]:
    return json.loads((compared["folder"] / "results.json").read_text())


def data_in(page: str) -> dict[str, Any]:
    """What a page shows."""
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    return json.loads(data)


def test_the_page_is_one_file(compared: dict[str, Any]) -> None:
    page = (compared["folder"] / "report.html").read_text()
    without_library = re.sub(r"<script>\n/\*\*\n\* plotly.*?</script>", "", page, flags=re.DOTALL)
    assert len(without_library) < 300_000 < 3_000_000 < len(page) < 8_000_000
    assert not re.search(r"<link|@import|<img|\ssrc=|url\(|fetch\(|XMLHttpRequest", without_library)
    # The namespace of drawings is a name, not an address that is looked up.
    assert set(re.findall(r"https?://[\w./]+", without_library)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page and "{{" not in without_library.replace("{{}}", "")


def test_the_page_holds_what_the_results_do(compared: dict[str, Any]) -> None:
    results = results_of(compared)
    data = data_in((compared["folder"] / "report.html").read_text())
    (comparison,) = data["comparisons"]
    assert comparison["label"] == "ml-100k" and list(comparison["rankings"]) == ["in"]
    ranking = comparison["rankings"]["in"]
    for shown, row in zip(ranking["rows"], results["rows"], strict=True):
        assert shown["name"] == row["name"] and shown.get("test") == row.get("test")
    assert ranking["pairs"] == results["pairs"] and ranking["by_cut"] == results["by_cut"]
    assert {"length", "popularity", "time"} == set(ranking["by_cut"])
    assert [one["finding"] for one in ranking["noise"]] and "*" not in ranking["noise"][0]["finding"]
    assert ranking["controls"] is False
    first = comparison["curves"][0]
    assert first["valid"] == [epoch["valid_score"] for epoch in results["runs"][0]["epochs"]]
    assert first["minutes"][1] > first["minutes"][0] > 0
    on, off, failed = comparison["rows"]
    assert {key for key in on["settings"] if on["settings"][key] != off["settings"][key]} == {"diffusion"}
    assert "seed" not in on["settings"] and "device" not in on["settings"]
    assert re.search("learning_rate=1e.30 is probably too high", failed["failed"]["1"])


def test_the_command_of_a_row_does_its_run(compared: dict[str, Any]) -> None:
    for run in results_of(compared)["runs"]:
        program, command, *words = shlex.split(row_command(run))
        assert (program, command) == ("recbole-diffusion", "train")
        settings = parsers.train_parser().read(words).settings
        config = plain_config(load_config(settings.pop("model"), settings.pop("dataset"), None, settings))
        differing = {key for key, value in config.items() if run["config"][key] != value}
        # Where a run leaves its files does not count.
        assert differing <= IGNORED - {"seed"} and config["seed"] == run["seed"]


def test_values_of_every_kind_pass_through_the_command() -> None:
    settings = {"a": {"split": {"LS": "x"}}, "b": None, "c": [5, 10], "d": False, "e": 1e-05, "f": "it's"}
    command = row_command({"model": "M", "dataset": "d", "seed": 7, "settings": settings})
    flags = ['--a={"split": {"LS": "x"}}', "--b=null", "--c=[5, 10]", "--d=false", "--e=1e-05", "--f=it's"]
    assert shlex.split(command)[2:] == ["--model=M", "--dataset=d", *flags, "--seed=7"]


def test_names_are_no_markup(compared: dict[str, Any], tmp_path: Path) -> None:
    write_page(tmp_path / "report.html", {"<b>{{code}}</b>": results_of(compared)})
    page = (tmp_path / "report.html").read_text()
    assert "<title>&lt;b&gt;{{code}}&lt;/b&gt;: models side by side</title>" in page
    assert "<b>" not in page.partition("/**")[0]
    assert data_in(page)["comparisons"][0]["label"] == "<b>{{code}}</b>"


def test_each_ranking_is_apart(compared: dict[str, Any], tmp_path: Path) -> None:
    results = results_of(compared)
    out = {key: results[key] for key in ("seeds", "users", "pairs", "noise", "estimates", "bold")}
    out |= {"by_length": [], "by_popularity": [], "by_cut": {}, "by_steps": []}
    out["rows"] = [{"name": row["name"], "seeds": [], "failed": {}} for row in results["rows"]]
    write_page(tmp_path / "report.html", {"d": {**results, "history_in_ranking": "both", "history_out": out}})
    rankings = data_in((tmp_path / "report.html").read_text())["comparisons"][0]["rankings"]
    assert list(rankings) == ["in", "out"]
    assert "test" in rankings["in"]["rows"][0] and "test" not in rankings["out"]["rows"][0]


def test_results_of_an_earlier_version_are_named(compared: dict[str, Any], tmp_path: Path) -> None:
    results = results_of(compared)
    del results["by_cut"]
    with pytest.raises(UserError, match=r"results\.json of d lacks 'by_cut', .*; run the command of that"):
        write_page(tmp_path / "report.html", {"d": results})
