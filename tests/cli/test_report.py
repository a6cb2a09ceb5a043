from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion.cli.main import run
from recbole_diffusion.errors import UserError


def test_comparisons_are_joined(compared: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = compared["folder"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "results.json").write_bytes((folder / "results.json").read_bytes())
    run(["report", str(folder), str(other), "--output=all.html"])
    assert capsys.readouterr().out == "report: all.html\n"
    page = Path("all.html").read_text()
    # Of one dataset, so that the folder tells the second from the first.
    assert f"<title>ml-100k, ml-100k ({other}): models side by side</title>" in page
    run(["report", str(folder)])
    assert "<title>ml-100k: models side by side</title>" in Path("report.html").read_text()


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: must be the folder of a comparison, got one without results\.json"):
        run(["report", "nowhere"])
    (tmp_path / "results.json").write_text(json.dumps({"dataset": "d"}))
    with pytest.raises(UserError, match=r"results\.json: is damaged, as its seeds is missing"):
        run(["report", str(tmp_path)])
    (tmp_path / "results.json").write_text(json.dumps({"dataset": "d", "seeds": [1], "rows": [], "runs": []}))
    with pytest.raises(UserError, match=r"results\.json of d lacks"):
        run(["report", str(tmp_path)])
    with pytest.raises(UserError, match="FOLDER"):
        run(["report"])
