"""The page of a comparison, driven in a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import MARKUP, until
from small_plans import small_plan, write_wanted

from recbole_diffusion.common.files import write_json
from recbole_diffusion.compare.page import write_page
from recbole_diffusion.compare.plan import Run
from recbole_diffusion.compare.results import collect
from recbole_diffusion.evaluation.protocols import TITLES, with_suffix
from recbole_diffusion.evaluation.ranking import UserRanks
from recbole_diffusion.evaluation.ranks import hit, ndcg, save_ranks

USERS = 300


def leave(run: Run, best: bool, generator: np.random.Generator) -> None:
    """Leave record and ranks of a run; the best row is ahead with the history out of the ranking alone."""
    user = np.arange(USERS)
    # Every user is ranked better without the history.
    rank = generator.integers(5, 60, USERS)
    out = np.full(USERS, 3) if best else rank - 4
    ranks = UserRanks(user=user, item=user % 10 + 1, length=user % 60 + 1, rank=rank, rank_out=out)
    folder = write_wanted(run)
    save_ranks(folder / "ranks.npz", ranks, np.arange(11, dtype=np.int32), 10**9 + 86_400 * user)
    metrics = {"hit@10": float(hit(rank).mean()), "ndcg@10": float(ndcg(rank).mean())}
    metrics |= with_suffix({"hit@10": float(hit(out).mean()), "ndcg@10": float(ndcg(out).mean())})
    epochs = [{"epoch": n, "loss": 5 - n, "train_seconds": 60.0, "valid_score": 0.1 + 0.01 * n} for n in range(4)]
    record = {
        **{"seed": run.seed, "parameters": 7, "epochs": epochs, "best_epoch": 3, "best_valid_score": 0.13},
        **{"seconds_per_epoch": float(run.seed), "seconds_per_evaluation": 1.0, "peak_memory": 10**9},
        **{"peak_gpu_memory": None, "seconds": 240.0, "valid_result": metrics, "test_result": metrics},
        "by_steps": [{"steps": steps, "seconds": 0.1 * steps, "metrics": metrics} for steps in (1, 2, 4)]
        if best
        else [],
        "versions": {"torch": "2"},
        "machine": {"gpu": None, "threads": 1, "cores": 2, "processor": "x", "system": "Linux"},
    }
    write_json(folder / "record.json", record)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of four rows by both rankings, of which one is named by markup."""
    folder = tmp_path_factory.mktemp("web")
    others = {name: {"model": "Pop", "epochs": epochs} for name, epochs in (("b", 3), (MARKUP, 4), ("d", 5))}
    settings = {"seeds": "1,2", "history_in_ranking": "both", "output": str(folder / "out")}
    plan = small_plan(model_list="Pop", variants=json.dumps(others), **settings)
    generator = np.random.default_rng(4)
    for run in plan.runs:
        leave(run, run.variant.name == "b", generator)
    ended = [("complete", 0.1, "CE"), ("pruned", 0.3, "BPR"), ("fail", None, "CE")]
    trials: list[dict[str, Any]] = [
        {"number": n, "state": state, "value": value, "seconds": 9.0, "settings": {"rate": 10.0**-n, "loss": loss}}
        for n, (state, value, loss) in enumerate(ended)
    ]
    found = collect(plan, ["recbole-diffusion", "compare", "--model_list=Pop"])
    return {**json.loads(json.dumps(found)), "tuning": {"Pop": trials, MARKUP: trials}}


@pytest.fixture
def report(results: dict[str, Any], tmp_path: Path, opened: Callable[..., Any]) -> Callable[..., Any]:
    """Opens the report of one comparison, or of those that are given."""

    def open_report(by_label: dict[str, Any] | None = None, **options: Any) -> Any:
        write_page(tmp_path / "report.html", by_label or {"ml-100k": results})
        return opened(tmp_path / "report.html", **options)

    return open_report


def column(page: Any, number: int, section: str = "leaderboard") -> list[str]:
    """The cells of a column of a section's first table."""
    return page.locator(f"#{section} table").first.locator(f"tbody tr > :nth-child({number})").all_inner_texts()


def radio(page: Any, name: str) -> Any:
    return page.get_by_role("radio", name=name, exact=True)


def near(page: Any, section: str) -> None:
    """Go to a section, whose charts are drawn then."""
    page.locator(f"#{section} .chart").first.scroll_into_view_if_needed()
    page.locator(f"#{section} .trace").first.wait_for()


def names(page: Any) -> list[str]:
    return [text.split(" ", 1)[1] for text in column(page, 1)]


def test_the_leaderboard_sorts_and_filters(report: Callable[..., Any], results: dict[str, Any]) -> None:
    page = report()
    scores = {row["name"]: row["test"]["ndcg@10"]["mean"] for row in results["rows"]}
    ordered = sorted(scores, key=lambda name: -scores[name])
    assert names(page) == ordered
    head = page.locator("#leaderboard th", has_text="NDCG@10")
    assert head.get_attribute("aria-sort") == "descending"
    # By the keyboard too.
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert names(page) == ordered[::-1] and head.get_attribute("aria-sort") == "ascending"
    assert page.locator("#status").inner_text() == "sorted by NDCG@10, smallest first"
    page.locator("#leaderboard").get_by_role("button", name="Row").click()
    assert names(page) == sorted(scores, key=lambda name: name.lower())
    page.get_by_role("combobox", name="Metric").select_option("hit@10")
    assert page.locator("#leaderboard th.chosen").inner_text().startswith("Hit@10")
    radio(page, "Cost").check()
    assert column(page, 2) == ["7"] * 4
    page.get_by_text("Rows: 4 of 4").click()
    page.get_by_label("Filter by name").fill("b")
    page.get_by_role("button", name="None", exact=True).click()
    assert names(page) == ["Pop", "d"] and page.locator("#shown-count").inner_text() == "2 of 4"
    page.keyboard.press("Escape")
    assert not page.get_by_label("Filter by name").is_visible()


def test_the_rankings_are_a_switch(report: Callable[..., Any], results: dict[str, Any]) -> None:
    page = report()
    text = {row["name"]: f"{row['test']['ndcg@10']['mean']:.4f}" for row in results["rows"]}
    out = {row["name"]: f"{row['test']['ndcg@10']['mean']:.4f}" for row in results["history_out"]["rows"]}
    assert not set(text.values()) & set(out.values())
    for protocol, here, other in (("in", text, out), ("out", out, text), ("in", text, out)):
        radio(page, TITLES[protocol]).check()
        tables = " ".join(page.locator("main table").all_text_contents())
        assert all(score in tables for score in here.values())
        assert not any(score in tables for score in other.values())
        captions = page.locator("#leaderboard figcaption, #pair figcaption").all_inner_texts()
        assert TITLES[protocol] in captions[0] and TITLES[protocol] in captions[1]


def test_any_pair_shows_its_difference_test_and_settings(report: Callable[..., Any], results: dict[str, Any]) -> None:
    page = report()
    page.get_by_role("combobox", name="First").select_option("Pop")
    page.get_by_role("combobox", name="Second").select_option("b")
    verdict = page.locator("#verdict")
    assert verdict.inner_text() == (
        "With the history in the ranking: Pop and b do not differ significantly in NDCG@10. "
        "Pop and b do not differ significantly in Hit@10."
    )
    radio(page, TITLES["out"]).check()
    assert "b is significantly better than Pop in NDCG@10" in verdict.inner_text()
    (pair,) = [one for one in results["history_out"]["pairs"] if (one["first"], one["second"]) == ("Pop", "b")]
    size = f"{abs(pair['difference']):.4f}"
    assert column(page, 2, "pair")[0] == f"−{size}"
    page.get_by_role("button", name="Swap").click()
    assert column(page, 2, "pair")[0] == f"+{size}"
    assert column(page, 3, "pair")[0] == f"+{-pair['high']:.4f} to +{-pair['low']:.4f}"
    differing = page.locator("#pair figure", has_text="Settings in which").locator("tbody tr").all_inner_texts()
    assert differing == ["epochs\t3\t2"]
    page.get_by_text("All 6 pairs").click()
    page.locator("#pair details table tbody tr", has_text="d").first.get_by_role("button", name="Show").click()
    assert "d" in (
        page.get_by_role("combobox", name="First").input_value(),
        page.get_by_role("combobox", name="Second").input_value(),
    )


def test_the_noise_is_against_controls_too(report: Callable[..., Any], results: dict[str, Any]) -> None:
    noise = [{**pair, "mean": 0.05, "off_mean": 0.04} for pair in results["pairs"] if pair["first"] == "Pop"]
    page = report({"ml-100k": {**results, "noise": noise}})
    assert column(page, 1, "noise") == [f"● Pop against {name}" for name in ("b", MARKUP, "d")]
    assert column(page, 4, "noise")[0].strip("+−") == f"{abs(noise[0]['difference']):.4f}"
    assert "against its rows without noise" in page.locator("#noise figcaption").inner_text()
    assert "for all 3 pairs of this table, controls included" in page.locator("#noise .note").inner_text()
    page.get_by_text("Rows: 4 of 4").click()
    page.get_by_label("Filter by name").fill("b")
    page.get_by_role("button", name="None", exact=True).click()
    assert column(page, 1, "noise") == ["● Pop against d"]
    # Where each row is tested against its own alone, that goes without saying.
    page = report({"ml-100k": {**results, "noise": [{**noise[0], "second": "Pop-off"}]}})
    assert column(page, 1, "noise") == ["● Pop"]


def test_a_slider_moves_the_cut(report: Callable[..., Any], results: dict[str, Any]) -> None:
    page = report()
    cuts = results["by_cut"]["length"]
    slider = page.get_by_label("Cut at")
    slider.focus()
    page.keyboard.press("Home")
    page.locator("#groups summary").first.click()
    seen = []
    for place in range(2):
        assert page.locator("#groups output").inner_text() == str(cuts["cuts"][place])
        assert slider.get_attribute("aria-valuetext") == f"{cuts['cuts'][place]} interactions before the test item"
        seen.append(page.locator("#groups details table").first.inner_text())
        mean = cuts["models"]["Pop"]["mean"][place]
        assert all(f"{value:.4f} (" in seen[-1] for value in mean)
        slider.press("ArrowRight")
    assert seen[0] != seen[1]
    radio(page, "Time").check()
    assert re.fullmatch(r"200[12]-\d\d-\d\d", page.locator("#groups output").inner_text())
    assert page.locator("#groups .chart").count() == 1
    radio(page, "Popularity of the item").check()
    assert page.locator("#groups .chart").count() == 2


def test_the_figures_of_a_chart_sort(report: Callable[..., Any], results: dict[str, Any]) -> None:
    page = report()
    page.locator("#groups summary").nth(1).click()
    groups = results["by_length"]

    def ordered(group: dict[str, Any]) -> list[str]:
        return sorted(group["models"], key=lambda name: -group["models"][name]["mean"])

    def shown() -> list[str]:
        cells = page.locator("#groups details").nth(1).locator("tbody th").all_inner_texts()
        return [text.split(" ", 1)[1] for text in cells]

    # The best of the first group is first, until the reader sorts otherwise.
    assert shown() == ordered(groups[0])
    page.locator("#groups details").nth(1).get_by_role("button", name=groups[-1]["group"]).press("Enter")
    assert shown() == ordered(groups[-1]) != ordered(groups[0])


def test_the_table_of_the_curves_says_who_learns_first(report: Callable[..., Any]) -> None:
    page = report()
    page.locator("#curves summary").click()
    # Scores of 0.10, 0.11, 0.12 and 0.13, a minute each: 95 % of 0.13 is reached by the last alone.
    assert page.locator("#curves tbody tr").first.inner_text().split("\t")[1:6] == ["4", "3", "4.0", "3", "0.1300"]


def test_the_rows_to_choose_from_are_on_the_page(report: Callable[..., Any], results: dict[str, Any]) -> None:
    for width in (1280, 900, 360):
        page = report({"ml-100k": results, "another": results}, viewport={"width": width, "height": 900})
        page.get_by_text("Rows: 4 of 4").click()
        box = page.locator(".panel").bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width


def test_of_a_metric_that_is_to_be_small_the_smallest_score_is_the_best(
    report: Callable[..., Any], results: dict[str, Any]
) -> None:
    def turned(epochs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**epoch, "valid_score": round(0.23 - epoch["valid_score"], 2)} for epoch in epochs]

    runs = [{**run, "epochs": turned(run["epochs"]), "best_valid_score": 0.1} for run in results["runs"]]
    trials = [
        {"number": n, "state": "complete", "value": 1.0 + n, "seconds": 9.0, "settings": {"rate": 0.1}} for n in (0, 1)
    ]
    page = report({"ml-100k": {**results, "valid_metric_bigger": False, "runs": runs, "tuning": {"Pop": trials}}})
    near(page, "curves")
    page.locator("#curves summary").click()
    assert page.locator("#curves tbody tr").first.inner_text().split("\t")[1:6] == ["4", "3", "4.0", "3", "0.1000"]
    near(page, "tuning")
    assert page.evaluate("document.querySelector('#tuning .chart').data.at(-1).y") == [1.0, 1.0]
    assert column(page, 1, "tuning") == ["0", "1"]


def test_curves_switch_off_and_on(report: Callable[..., Any]) -> None:
    page = report()
    near(page, "curves")
    assert page.locator("#curves .scatterlayer .trace").count() == 8
    page.locator("#curves").get_by_label("Pop").uncheck()
    page.locator("#curves").get_by_label("2", exact=True).uncheck()
    until(page, "document.querySelectorAll('#curves .scatterlayer .trace').length === 3")
    radio(page, "training loss").check()
    radio(page, "minutes of training").check()
    until(page, "document.querySelector('#curves .ytitle').textContent === 'training loss'")
    assert page.locator("#curves .xtitle").text_content() == "minutes of training"
    page.locator("#curves").get_by_label("Pop").check()
    until(page, "document.querySelectorAll('#curves .scatterlayer .trace').length === 4")


def test_steps_and_trials_are_drawn(report: Callable[..., Any]) -> None:
    page = report()
    near(page, "steps")
    assert page.locator("#steps .chart").count() == 2
    page.locator("#steps summary").first.click()
    assert column(page, 1, "steps") == ["b, 1", "b, 2", "b, 4"]
    assert column(page, 1, "tuning") == ["1", "0", "2"]
    page.locator("#setting").select_option("loss")
    until(page, "document.querySelectorAll('#tuning .xtitle')[1]?.textContent === 'loss'")
    page.locator("#tuned").select_option(MARKUP)
    page.locator("#tuning figcaption", has_text=MARKUP).first.wait_for()


def test_a_command_is_copied(report: Callable[..., Any]) -> None:
    page = report(permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy: the command of b").click()
    page.locator("button", has_text="Copied").wait_for()
    words = page.evaluate("navigator.clipboard.readText()").split()
    assert words[:4] == ["recbole-diffusion", "train", "--model=Pop", "--dataset=ml-100k"]
    assert "--epochs=3" in words and words[-1] == "--seed=1"


def test_markup_is_text(report: Callable[..., Any]) -> None:
    page = report()
    near(page, "curves")
    assert page.locator("main img, main b, #controls img, #controls b").count() == 0
    assert MARKUP in names(page) and page.title() == "ml-100k: models side by side"
    # The library of the charts reads tags in the names that it shows.
    assert (
        page.evaluate("document.querySelector('#curves .chart').data.map(({name}) => name)").count(
            "&lt;img src=x onerror=document.title='hit'&gt;&lt;b&gt;bold&lt;/b&gt;&amp;amp;"
        )
        == 2
    )


def test_several_datasets_stand_side_by_side(report: Callable[..., Any], results: dict[str, Any]) -> None:
    inside = {**results, "history_in_ranking": "in", "dataset": MARKUP}
    page = report({"ml-100k": results, MARKUP: inside})
    assert page.title() == f"ml-100k, {MARKUP}: models side by side"
    assert page.locator("#leaderboard thead").inner_text().split("\t")[2].startswith(MARKUP)
    radio(page, TITLES["out"]).check()
    assert page.get_by_text(f"Not ranked so: {MARKUP}.").is_visible()
    assert page.locator("#leaderboard thead th").count() == 2
    page.get_by_role("combobox", name="Dataset").select_option(MARKUP)
    # That one has the other ranking alone.
    assert radio(page, TITLES["in"]).is_checked() and radio(page, TITLES["out"]).is_disabled()
    caption = page.locator("#leaderboard figcaption").inner_text()
    assert caption == f"{MARKUP}: test metrics, {TITLES['in']}, 300 users"
    assert page.locator("img, b").count() == 0


def test_it_fits_a_phone_and_follows_the_scheme(report: Callable[..., Any]) -> None:
    page = report(viewport={"width": 360, "height": 740}, color_scheme="dark")
    near(page, "curves")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    background = "getComputedStyle(document.body).backgroundColor"
    title = "getComputedStyle(document.querySelector('#curves .xtitle')).fill"
    assert page.evaluate(background) == "rgb(22, 24, 28)" and page.evaluate(title) == "rgb(232, 234, 237)"
    # A chart is drawn in the colours of the page, and anew when they change.
    page.emulate_media(color_scheme="light")
    until(page, f"document.querySelector('#curves .xtitle') && {title} === 'rgb(29, 31, 35)'")
    assert page.evaluate(background) == "rgb(255, 255, 255)"


def test_paper_shows_all_and_no_controls(report: Callable[..., Any]) -> None:
    page = report(color_scheme="dark")
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    until(page, "document.querySelectorAll('.chart').length === document.querySelectorAll('.js-plotly-plot').length")
    assert not page.locator("#controls").is_visible() and not page.get_by_role("button", name="Swap").is_visible()
    assert page.locator("#printed").inner_text() == "ml-100k; history in the ranking; metric: NDCG@10."
    assert page.locator("main details:not([open])").count() == 0
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("main details[open]").count() == 0
