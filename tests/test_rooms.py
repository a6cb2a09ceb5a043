"""Imports go one way, and the top floor stays clear."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import recbole_diffusion

PACKAGE = Path(recbole_diffusion.__file__).parent
# A room may import from itself and from the rooms before it.
ROOMS = (
    *("errors", "common", "diffusion", "model", "host", "evaluation", "training", "inference", "explore", "compare"),
    "cli",
)
# What RecBole's users know under these names gathers what stands in the rooms; no room imports them.
FACADES = ("config", "utils", "quick_start")
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(file: Path) -> Iterator[str]:
    """Rooms, facades and modules of this package that a file imports from, by their first name."""
    folders = file.relative_to(PACKAGE.parent).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = list(folders[: len(folders) - node.level + 1]) if node.level else []
            path = [*base, *(node.module or "").split(".")] if node.module else base
            names = [path] if len(path) > 1 else [[*path, alias.name] for alias in node.names]
        else:
            continue
        yield from (name[1] for name in names if name[0] == PACKAGE.name and len(name) > 1)


@pytest.mark.parametrize("file", MODULES, ids=[str(file.relative_to(PACKAGE)) for file in MODULES])
def test_imports_go_one_way(file: Path) -> None:
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    names = {name for name in imported(file) if name in ROOMS or name in FACADES}
    if room in ROOMS:
        allowed = ROOMS[: ROOMS.index(room) + 1]
        assert names <= set(allowed), f"{room} imports from {sorted(names - set(allowed))}"


def test_the_top_floor_has_at_most_four_modules() -> None:
    loose = {file.stem for file in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert len(loose) <= 4, sorted(loose)


def test_every_room_has_its_place() -> None:
    folders = {folder.parent.name for folder in PACKAGE.glob("*/__init__.py")}
    assert folders == set(ROOMS) - {"errors"}
