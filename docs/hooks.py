"""What the site takes from the code as it is built: tables of settings, and the pages of results."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
# A line of this form in a page is replaced by a table of the settings of that yaml.
MARK = "<!-- settings: "
# A link of a page of results to a file that the site does not have.
OUTSIDE = re.compile(r"\[([^]]*)\]\(\.\./tests/[^)]*\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of results, and what they link to, from outside of the folder of pages."""
    for path in sorted((ROOT / "results").rglob("*")):
        if path.is_file():
            name = path.relative_to(ROOT).as_posix()
            files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put tables of settings where a page asks for them, and lead links to where things are on the site."""
    lines: list[str] = []
    # In the repository the pages of results and the property files lie beside the folder of pages.
    led = markdown.replace("](../results/", "](results/").replace("](../docs/", "](../")
    for line in OUTSIDE.sub(r"\1", led).splitlines():
        if line.startswith("[`properties/"):
            continue
        if line.startswith(MARK):
            lines += table(ROOT / "properties" / line.removeprefix(MARK).removesuffix(" -->"))
        else:
            lines.append(line)
    return "\n".join(lines)


def table(file: Path) -> list[str]:
    """The keys of a property file as a table: name, default, type, and what the comment says."""
    rows = ["| key | default | type | what it does |", "|---|---|---|---|"]
    for name, default, kind, text in settings_of(file):
        rows.append(f"| `{name}` | `{default}` | {kind} | {text.replace('|', chr(92) + '|')} |")
    return [*rows, ""]


def settings_of(file: Path) -> list[tuple[str, str, str, str]]:
    """Name, default, type and explanation of every key of a property file, in its order."""
    found: list[tuple[str, str, str, str]] = []
    for line in file.read_text(encoding="utf-8").splitlines():
        code, _, comment = line.partition("#")
        comment = comment.strip()
        if code and not code[0].isspace() and ":" in code:
            name, _, default = code.partition(":")
            kind, _, text = comment.removeprefix("(").partition(")")
            found.append((name, default.strip() or "see the file", kind, text.strip()))
        elif found and comment and (not code.strip() or code[0].isspace()) and (code or line.startswith(" ")):
            name, default, kind, text = found[-1]
            part = code.strip().partition(":")[0]
            found[-1] = (name, default, kind, f"{text} `{part}`: {comment}" if part else f"{text} {comment}")
    return found
