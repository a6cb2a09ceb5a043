"""Imports go one way, and the top floor stays clear."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import recbole_diffusion

PACKAGE = Path(recbole_diffusion.__file__).parent
# A room may import from itself and from the rooms before it: neither from the package itself, nor from what gathers
# names for RecBole's users, as config, utils and quick_start do.
ROOMS = (
    *("errors", "common", "diffusion", "model", "host", "evaluation", "training", "inference", "explore", "compare"),
    "cli",
)
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(file: Path) -> Iterator[tuple[str, ...]]:
    """What a file imports from this package, as its path of names below the package."""
    folders = file.relative_to(PACKAGE.parent).parts[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = folders[: len(folders) - node.level + 1] if node.level else ()
            path = (*base, *node.module.split(".")) if node.module else base
            names = [(*path, alias.name) for alias in node.names]
        else:
            continue
        yield from (name[1:] for name in names if name[0] == PACKAGE.name and len(name) > 1)


def module_of(name: tuple[str, ...]) -> Path:
    """The file in which a name stands, which may be a module itself."""
    paths = [PACKAGE.joinpath(*name), PACKAGE.joinpath(*name[:-1])]
    files = [file for path in paths for file in (path.with_suffix(".py"), path / "__init__.py")]
    return next(file for file in files if file.is_file())


@pytest.mark.parametrize("file", MODULES, ids=[str(file.relative_to(PACKAGE)) for file in MODULES])
def test_imports_go_one_way(file: Path) -> None:
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    names = {name[0] for name in imported(file)}
    if room in ROOMS:
        allowed = ROOMS[: ROOMS.index(room) + 1]
        assert names <= set(allowed), f"{room} imports from {sorted(names - set(allowed))}"


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {file: {module_of(name) for name in imported(file)} for file in MODULES}
    TopologicalSorter(graph).prepare()


def test_the_top_floor_has_at_most_four_modules() -> None:
    loose = {file.stem for file in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert len(loose) <= 4, sorted(loose)


def test_every_room_has_its_place() -> None:
    folders = {folder.parent.name for folder in PACKAGE.glob("*/__init__.py")}
    assert folders == set(ROOMS) - {"errors"}
