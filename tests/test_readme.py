"""What README and the pages show works as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from recbole_diffusion.cli import parsers
from recbole_diffusion.inference import Recommender
from recbole_diffusion.training.run import train_and_test

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
IDS = [page.name for page in PAGES]
LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")
COMMANDS = {
    "train": parsers.train_parser,
    "compare": parsers.compare_parser,
    "tune": parsers.tune_parser,
    "report": parsers.report_parser,
    "evaluate": parsers.evaluate_parser,
    "recommend": parsers.recommend_parser,
    "explain": parsers.explain_parser,
    "explore": parsers.explore_parser,
}


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of a language, without the indentation of their fence."""
    text = page.read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, re.S | re.M)
    return [re.sub(rf"^{indent}", "", block, flags=re.M) for indent, block in found]


def commands(page: Path) -> list[list[str]]:
    """Every command line of ours on a page, as words."""
    lines = [line.split("#")[0] for block in blocks(page, "sh") for line in block.splitlines()]
    words = [shlex.split(part) for line in lines for part in line.split("&&") if part.strip()]
    return [line for line in words if line[0] == "recbole-diffusion" or "run_recbole_diffusion.py" in line]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_command_has_flags_that_are_there(page: Path) -> None:
    for words in commands(page):
        if words[0] == "recbole-diffusion":
            COMMANDS[words[1]]().read(words[2:])
        else:
            parsers.script_parser().read(words[words.index("run_recbole_diffusion.py") + 1 :])


def test_the_readme_has_commands_and_links_enough_to_mean_something() -> None:
    assert len(commands(ROOT / "README.md")) >= 3
    assert len(LINK.findall((ROOT / "README.md").read_text(encoding="utf-8"))) >= 10


def test_the_readme_reaches_its_links_within_two_screens() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text[: text.index("## Documentation")].splitlines()) <= 90


@pytest.mark.parametrize("page", [page for page in PAGES if page.name in ("index.md", "recbole-scripts.md")])
def test_the_examples_in_python_run(page: Path) -> None:
    examples = blocks(page, "python")
    assert examples
    for example in examples:
        quiet = example.replace('"epochs": 1', '"epochs": 1, "log_dir": None, "tensorboard_dir": None')
        exec(compile(quiet, str(page), "exec"), {})


@pytest.mark.parametrize("language", ["python", "yaml"])
def test_the_worked_examples_are_those_that_are_tested(language: str) -> None:
    ending = {"python": ".py", "yaml": ".yaml"}[language]
    files = {file.read_text(encoding="utf-8") for file in (ROOT / "tests" / "examples").glob(f"*{ending}")}
    shown = blocks(ROOT / "docs" / "adding-a-model.md", language)
    assert len(shown) == 4 and set(shown) <= files


def test_the_example_of_recommending_runs() -> None:
    settings = {"epochs": 1, "user_inter_num_interval": "[0,30]", "hidden_size": 16, "show_progress": False}
    train_and_test("DiffuRec", "ml-100k", config_dict={**settings, "log_dir": None, "tensorboard_dir": None})
    (example,) = blocks(ROOT / "docs" / "recommending.md", "python")
    names: dict[str, object] = {}
    exec(compile(example, "recommending.md", "exec"), names)
    assert isinstance(names["recommender"], Recommender)
