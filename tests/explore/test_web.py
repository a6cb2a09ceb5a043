"""The page of the explorer, driven in a browser."""

from __future__ import annotations

import csv
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from browser import MARKUP, until
from saved_models import Saved

from recbole_diffusion.explore.explorer import Explorer
from recbole_diffusion.explore.server import Server
from recbole_diffusion.inference import Recommender

HISTORY = "#item=258&item=286&item=288"


@pytest.fixture(scope="module")
def explorer(saved: Callable[..., Saved]) -> Explorer:
    """DiffuRec and SASRec; one title is markup, and one a script."""
    recommenders = [Recommender.load(saved(model).path, device="cpu") for model in ("DiffuRec", "SASRec")]
    for one in recommenders:
        titles = dict(zip(one.vocabulary.tokens[1:], one.vocabulary.names()[1:], strict=True))
        one.vocabulary.entitle({**titles, "50": MARKUP, "258": "</script><script>document.title='hit'</script>"})
    made = Explorer(recommenders)
    made.read_users()
    return made


@contextmanager
def serving(explorer: Explorer) -> Iterator[Server]:
    with Server(explorer, "127.0.0.1", 0) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def server(explorer: Explorer) -> Iterator[Server]:
    with serving(explorer) as made:
        yield made


@pytest.fixture
def visit(server: Server, opened: Callable[..., Any]) -> Callable[..., Any]:
    """Opens the page at a link's fragment, and waits for its answer."""

    def open_page(fragment: str = "", **options: Any) -> Any:
        page = opened(server.url + fragment, **options)
        if fragment.startswith(HISTORY):
            listed(page)
        return page

    return open_page


def listed(page: Any, number: int = 0) -> list[str]:
    """Titles of a model's list, once there is one and nothing is being asked."""
    rows = f"document.querySelectorAll('#models article')[{number}].querySelector('tbody tr')"
    until(page, f"!document.body.hasAttribute('aria-busy') && {rows}")
    return page.locator("#models article").nth(number).locator("tbody .title").all_inner_texts()


def history(page: Any) -> list[str]:
    listed(page)
    return page.locator("#history .title").all_inner_texts()


def titles_of(explorer: Explorer, number: int, tokens: list[str], **options: Any) -> list[str]:
    """What `recommend` gives."""
    return explorer.recommenders[number].recommend(tokens, **options).titles[0].tolist()  # type: ignore[index]


def test_a_history_is_searched_for_built_and_asked(visit: Callable[..., Any], explorer: Explorer) -> None:
    page = visit()
    assert page.locator("#shared").inner_text() == "Add items to the history, or pick a user."
    search = page.get_by_label("Find an item")
    search.fill("scream")
    page.get_by_role("button", name="Add Scream", exact=True).click()
    assert history(page) == ["Scream"]
    # By the keyboard, the nearest.
    search.fill("titanic")
    page.get_by_role("button", name="Add Titanic").wait_for()
    search.press("Enter")
    until(page, "document.querySelectorAll('#history li').length === 2")
    search.fill("50")
    page.get_by_role("button", name=f"Add {MARKUP}", exact=True).click()
    until(page, "document.querySelectorAll('#history li').length === 3")
    search.fill("no such film")
    page.get_by_text("No item has this in its title or id.").wait_for()
    page.get_by_role("button", name="Move Titanic earlier").click()
    until(page, "document.querySelector('#history .title').textContent === 'Titanic'")
    assert history(page) == ["Titanic", "Scream", MARKUP]
    page.get_by_role("button", name="Remove Scream").click()
    until(page, "document.querySelectorAll('#history li').length === 2")
    tokens = ["313", "50"]
    # The models answer the page one question at a time: the test asks them when the page has its answer.
    shown = [listed(page, number) for number in range(2)]
    lists = [titles_of(explorer, number, tokens) for number in range(2)]
    assert shown == lists
    both = len(set(lists[0]) & set(lists[1]))
    assert page.locator("#shared").inner_text().startswith(f"{both} of 10 items are in both lists; ")
    assert page.locator("#models article").first.locator("tr.both").count() == both
    # Where a held-out item stands.
    item = explorer.recommenders[0].recommend(tokens).items[0][3]
    search.fill(item)
    page.get_by_role("button", name=f"Hold out {lists[0][3]}", exact=True).click()
    rank = page.locator("#models .rank").first
    until(page, "document.querySelector('#models .rank').textContent")
    count = len(explorer.vocabulary) - 2
    assert rank.inner_text() == f"{lists[0][3]} stands at 4 of {count:,}."
    assert page.locator("#models article").first.locator("tr.held .title").inner_text() == lists[0][3]
    assert (
        page.locator("main img, main b, main script").count() == 0 and page.title() == "Explorer: A DiffuRec, B SASRec"
    )


def test_a_model_that_draws_nothing_has_neither_seed_nor_diversity(
    loaded: Callable[[str], Recommender], opened: Callable[..., Any]
) -> None:
    with serving(Explorer([loaded("RFMRec")])) as made:
        page = opened(f"{made.url}{HISTORY}&0.seed=3&0.diversify=true&0.inference_steps=4")
        assert len(listed(page)) == 10
        panel = page.locator("#models article").first
        assert panel.locator("label").all_inner_texts() == ["Steps"]
        assert panel.get_by_label("Steps").get_attribute("aria-valuetext") == "4"
        panel.get_by_role("button", name="Reset").click()
        until(page, "!document.body.hasAttribute('aria-busy')")
        assert "inference_steps" not in page.url


def test_sliders_act_at_once(visit: Callable[..., Any], explorer: Explorer) -> None:
    page = visit(HISTORY)
    tokens = ["258", "286", "288"]
    sliders = page.locator("#models article").first
    assert page.locator("#models article").nth(1).get_by_role("slider").count() == 0
    steps, noises = sliders.get_by_label("Steps"), sliders.get_by_label("Noises")
    steps.press("End")
    assert steps.get_attribute("aria-valuetext") == "32"
    sliders.get_by_label("Noise scale").press("End")
    until(page, "location.hash.includes('0.noise_scale')")
    diversify = sliders.get_by_label("Diversify")
    assert diversify.is_disabled()
    noises.press("ArrowRight")
    noises.press("ArrowRight")
    diversify.check()
    until(page, "location.hash.includes('0.diversify')")
    scale = float(page.evaluate("new URLSearchParams(location.hash.slice(1)).get('0.noise_scale')"))
    once = Recommender.load(explorer.recommenders[0].path, device="cpu", settings={"noise_scale": scale})
    given = once.recommend(tokens, inference_steps=32, inference_seeds=4, diversify=True)
    names = explorer.vocabulary.names()[explorer.vocabulary.ids(given.items[0])].tolist()
    assert listed(page) == names
    shares = [f"{round(100 * share)} %" for share in given.certainty.share[0]]  # type: ignore[union-attr]
    assert sliders.locator(".bar").all_inner_texts() == shares
    kept = len(set(names) & set(titles_of(explorer, 0, tokens)))
    change = sliders.locator(".change")
    assert change.inner_text() == f"As trained: {kept} of these 10 items."
    # The lists begin at the same height.
    assert len({round(box.bounding_box()["y"]) for box in page.locator("#models table").all()}) == 1
    page.get_by_role("button", name="Reset the settings of A DiffuRec").click()
    until(page, "!location.hash.includes('0.')")
    assert listed(page) == titles_of(explorer, 0, tokens) and change.inner_text() == ""
    assert steps.get_attribute("aria-valuetext") == "1" and sliders.locator(".bar").count() == 0


def test_a_link_opens_the_same_view_and_back_undoes(visit: Callable[..., Any], server: Server) -> None:
    page = visit(f"{HISTORY}&held_out=50&topk=5&include_seen=true&0.inference_steps=7&0.inference_seeds=2&0.seed=3")
    first = page.locator("#models").inner_text()
    assert "7" in page.locator("#models output").all_inner_texts() and len(listed(page)) == 5
    assert page.get_by_role("combobox", name="Items").input_value() == "5"
    page.get_by_label("items of the history, too").uncheck()
    until(page, "!location.hash.includes('include_seen')")
    listed(page)
    page.go_back()
    until(page, "location.hash.includes('include_seen')")
    listed(page)
    again = visit(page.url.removeprefix(server.url))
    for shown in (page, again):
        assert without_times(shown.locator("#models").inner_text()) == without_times(first)
    assert again.locator("#held-out .title").inner_text() == MARKUP


def test_a_link_may_say_anything(visit: Callable[..., Any]) -> None:
    page = visit("#item=%3Cimg%20src%3Dx%3E&0.seed=x&topk=9", expected="responded with a status of 400")
    page.get_by_role("alert").wait_for()
    assert page.get_by_role("alert").inner_text().startswith("item '<img src=x>': not among")
    page.get_by_role("button", name="Any user").click()
    assert history(page) and not page.get_by_role("alert").is_visible()


def without_times(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.endswith(" ms.")]


def test_a_user_is_picked_and_the_lists_are_saved(
    visit: Callable[..., Any], explorer: Explorer, tmp_path: Path
) -> None:
    page = visit()
    token = explorer.recommenders[0].users.tokens[4]
    page.get_by_label("User of the data").fill(token)
    page.get_by_label("User of the data").press("Enter")
    picked = explorer.user(token)
    assert history(page) == [explorer.item(item)["title"] for item in picked["history"]]
    assert page.locator("#held-out .token").inner_text() == picked["held_out"]
    assert page.locator("#history-note").inner_text().endswith(f"; of user {token}")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as csv").click()
    assert download.value.suggested_filename == "ml-100k-lists.csv"
    download.value.save_as(tmp_path / "lists.csv")
    rows = list(csv.DictReader((tmp_path / "lists.csv").open(encoding="utf-8")))
    for number, label in enumerate(("A DiffuRec", "B SASRec")):
        assert [row["title"] for row in rows if row["model"] == label] == listed(page, number)
    page.get_by_role("button", name="Any user").click()
    until(page, f"!document.querySelector('#history-note').textContent.endsWith('; of user {token}')")
    page.get_by_role("button", name="Clear").click()
    until(page, "document.querySelectorAll('#history li').length === 0")


def test_the_process_goes_step_by_step_on_a_phone_in_the_dark(visit: Callable[..., Any], explorer: Explorer) -> None:
    fragment = f"{HISTORY}&item=50&held_out=1&0.inference_steps=4&0.inference_seeds=2&0.noise_scale=3"
    page = visit(fragment, viewport={"width": 360, "height": 740}, color_scheme="dark")
    box = page.locator("#processes article").first
    box.locator(".map").scroll_into_view_if_needed()
    box.locator(".map .trace").first.wait_for()
    assert box.locator(".note").first.inner_text() == "4 steps. It is that of the first of 2 noises."
    names = [trace["name"] for trace in page.evaluate("document.querySelector('.map').data.map(({name}) => ({name}))")]
    assert names == ["history, old to new", "x_T to x_0", "draws of x_0", "the state", "recommended", "held out"]
    # The library of the charts reads tags in what it shows.
    assert page.evaluate("document.querySelector('.map').data[0].text.at(-1)").startswith("&lt;img src=x")
    near = box.locator(".near .title")
    last = near.all_inner_texts()
    slider = box.get_by_role("slider", name="State")
    assert slider.get_attribute("aria-valuetext") == "x_0, the answer"
    slider.press("Home")
    assert slider.get_attribute("aria-valuetext") == "x_t at t = 31" and near.all_inner_texts() != last
    slider.press("End")
    assert near.all_inner_texts() == last
    # A model without a process has its map.
    other = page.locator("#processes article").nth(1)
    other.locator(".map").scroll_into_view_if_needed()
    other.locator(".map .trace").first.wait_for()
    assert (
        other.get_by_role("slider", name="State").is_visible() is False and "no reverse process" in other.inner_text()
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 28)"
