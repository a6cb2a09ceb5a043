"""`python docs/pictures.py`: the pictures of report and explorer on these pages.

Those of the pages are of the archived comparison, which trains nothing, and of two models with their defaults:

    recbole-diffusion compare --config_files=results/ml-100k-family.yaml
    recbole-diffusion train --model=DiffuRec --dataset=ml-100k --seed=2024
    recbole-diffusion train --model=DreamRec --dataset=ml-100k --seed=2024
    python docs/pictures.py --report compare/ml-100k/report.html --checkpoint saved/A.pth --checkpoint saved/B.pth

Without --report or without --checkpoint the other pictures alone are made.

It needs `pip install -e ".[compare,explore,browser]"` and Chromium.
"""

from __future__ import annotations

import argparse
import io
import shutil
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import sync_playwright

from recbole_diffusion.explore.explorer import Explorer
from recbole_diffusion.explore.server import Server
from recbole_diffusion.inference import Recommender

PICTURES = Path(__file__).parent / "pictures"
USER = "196"
SETTINGS = {"0.inference_steps": 32, "0.inference_seeds": 8, "0.noise_scale": 0.1}
# Pixels of the window, and of a picture's width.
SIZE, WIDTH = {"width": 1240, "height": 900}, 1000


def save(page: Any, name: str, top: str, bottom: str | None = None) -> None:
    """Save what stands from one element to the end of another, as wide as the page."""
    page.wait_for_timeout(3000)
    boxes = [page.locator(place).first.bounding_box() for place in (top, bottom or top)]
    scrolled = page.evaluate("scrollY")
    begin, end = boxes[0]["y"] + scrolled, boxes[1]["y"] + boxes[1]["height"] + scrolled
    clip = {"x": 0, "y": max(0, begin - 8), "width": SIZE["width"], "height": end - begin + 16}
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip)))
    picture = picture.resize((WIDTH, round(picture.height * WIDTH / picture.width)), Image.Resampling.LANCZOS)
    PICTURES.mkdir(exist_ok=True)
    picture.save(PICTURES / f"{name}.webp", quality=40, method=6)


def window(browser: Any, address: str, scheme: str) -> Any:
    """A page in a window of its own."""
    page = browser.new_page(viewport=SIZE, color_scheme=scheme)
    page.set_default_timeout(200_000)
    page.goto(address)
    return page


def report(browser: Any, path: Path) -> None:
    """The leaderboard in light, and the groups of the test set in dark."""
    for scheme, name, top in (("light", "report", "header"), ("dark", "report-groups", "#groups")):
        page = window(browser, path.resolve().as_uri(), scheme)
        page.locator("#groups .chart").first.scroll_into_view_if_needed()
        page.locator("#groups .trace").first.wait_for()
        # What stays at the top of the window would cover a part.
        page.add_style_tag(content="#controls { position: static !important; }")
        save(page, name, top, "#noise" if top == "header" else "#groups")
        page.close()


def explorer(browser: Any, paths: list[str]) -> None:
    """The lists of two models for a user in light, and their processes in dark."""
    made = Explorer([Recommender.load(path, device="cpu") for path in paths])
    made.read_users()
    picked = made.user(USER)
    chosen = [("item", item) for item in picked["history"]]
    chosen += [("held_out", picked["held_out"]), ("user", USER), *SETTINGS.items()]
    with Server(made, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for scheme, name, part in (("light", "explorer", "header"), ("dark", "explorer-process", "#process")):
            page = window(browser, f"{server.url}#{urlencode(chosen)}", scheme)
            # The time that an answer took says more of the machine that made the picture.
            page.add_style_tag(content="#models article > :last-child { display: none; }")
            page.locator("#models tbody tr").first.wait_for()
            for chart in page.locator(".chart").all():
                chart.scroll_into_view_if_needed()
                chart.locator(".trace").first.wait_for()
            save(page, name, part, "#lists" if part == "header" else part)
            page.close()
        server.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, help="the html file of a comparison")
    parser.add_argument("--checkpoint", action="append", help="a saved model, twice")
    args = parser.parse_args()
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        if args.report:
            report(browser, args.report)
        if args.checkpoint:
            explorer(browser, args.checkpoint)
        browser.close()


if __name__ == "__main__":
    main()
