"""A headless Chromium for the tests of pages; where there is none they are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# To be shown as text, wherever a name stands.
MARKUP = "<img src=x onerror=document.title='hit'><b>bold</b>&amp;"
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The browser."""
    reason = 'playwright is not installed: pip install -e ".[browser]"'
    sync_api = pytest.importorskip("playwright.sync_api", reason=reason)
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip(f"no Chromium is installed: none of {', '.join(NAMES)} is on the path")
    with sync_api.sync_playwright() as playwright:
        # Chromium's own sandbox does not start for root, as whom continuous integration may run.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens a file or an address in a window of its own; at the end, no page may have had an error or looked elsewhere.

    What has the words `expected` in it may stand in the console.
    """
    contexts, problems = [], []

    def open_page(place: Path | str, expected: str = "", **options: Any) -> Any:
        address = place.as_uri() if isinstance(place, Path) else place
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        # Also where other work has the cores.
        page.set_default_timeout(120_000)
        page.on("console", lambda message: problems.append(message.text) if is_problem(message, expected) else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        allowed = (address.partition("#")[0], "data:", "blob:")
        page.on("request", lambda request: None if request.url.startswith(allowed) else problems.append(request.url))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def until(page: Any, expression: str) -> None:
    """Wait until an expression is true."""
    for _ in range(600):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(expression)


def is_problem(message: Any, expected: str) -> bool:
    """Whether a message in the console is an error or a warning, and not an expected one."""
    return message.type != "log" and not (expected and expected in message.text)
