"""A headless Chromium for the tests of pages; where there is none they are skipped."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

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
    """Opens a file in a window of its own; at the end, no page may have had an error or looked for another file."""
    contexts, problems = [], []

    def open_file(path: Path, **options: Any) -> Any:
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        # Also where other work has the cores.
        page.set_default_timeout(120_000)
        page.on("console", lambda message: problems.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        allowed = (path.as_uri(), "data:", "blob:")
        page.on("request", lambda request: None if request.url.startswith(allowed) else problems.append(request.url))
        page.goto(path.as_uri())
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert problems == []
