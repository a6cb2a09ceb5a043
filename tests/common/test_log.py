from __future__ import annotations

import io
import logging
import sys
from pathlib import Path
from typing import Any

import pytest
from recbole.utils import set_color
from tqdm import tqdm

from recbole_diffusion.common.log import LogFile, run_logging
from recbole_diffusion.errors import SettingError


class Screen(io.StringIO):
    """A stand-in for stderr that may be a terminal."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


def settings(folder: Path | None, **other: Any) -> dict[str, Any]:
    log_dir = None if folder is None else str(folder)
    return {"model": "SASRec", "dataset": "ml-100k", "log_dir": log_dir, "state": "INFO", "verbose": False, **other}


def show(monkeypatch: pytest.MonkeyPatch, terminal: bool = False) -> Screen:
    # Called in the test itself: pytest sets stderr anew after the fixtures.
    screen = Screen(terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    return screen


def test_a_line_stands_in_the_file_and_on_stderr_without_colour_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = show(monkeypatch)
    with run_logging(settings(tmp_path)) as path:
        logging.getLogger().info(set_color("epoch 3", "green") + " trained")
    assert path is not None
    assert path.parent == tmp_path / "SASRec"
    assert path.name.startswith("SASRec-ml-100k-")
    for text in (path.read_text(encoding="utf-8"), screen.getvalue()):
        assert text.endswith("INFO  epoch 3 trained\n")


@pytest.mark.parametrize(("no_colour", "coloured"), [("", True), ("1", False)])
def test_a_terminal_gets_colours_unless_no_color_is_set(
    monkeypatch: pytest.MonkeyPatch, no_colour: str, coloured: bool
) -> None:
    monkeypatch.setenv("NO_COLOR", no_colour)
    screen = show(monkeypatch, terminal=True)
    with run_logging(settings(None)):
        logging.getLogger().info(set_color("epoch", "green"))
    assert ("\x1b[" in screen.getvalue()) == coloured


def test_without_a_folder_there_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = show(monkeypatch)
    monkeypatch.chdir(tmp_path)
    with run_logging(settings(None)) as path:
        logging.getLogger().info("trained")
    assert path is None
    assert list(tmp_path.iterdir()) == []
    assert "trained" in screen.getvalue()


@pytest.mark.parametrize(("state", "shown"), [("debug", 3), ("INFO", 2), ("Warning", 1), (None, 2), ("?", 2)])
def test_state_is_the_level(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str | None, shown: int) -> None:
    screen = show(monkeypatch)
    with run_logging(settings(tmp_path, state=state)) as path:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            logging.getLogger().log(level, "line")
    assert path is not None
    assert path.read_text().count("line") == screen.getvalue().count("line") == shown


def test_two_runs_do_not_mix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show(monkeypatch)
    paths = []
    for number in ("first", "second"):
        with run_logging(settings(tmp_path)) as path:
            logging.getLogger().info(number)
        assert path is not None
        paths.append(path)
    assert paths[0] != paths[1]
    assert [path.read_text().split()[-1] for path in paths] == ["first", "second"]
    logging.getLogger().warning("after both")
    assert "after both" not in paths[0].read_text() + paths[1].read_text()


def test_handlers_and_level_of_the_host_stay_as_they_were_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    show(monkeypatch)
    root = logging.getLogger()
    handler = logging.NullHandler(logging.ERROR)
    root.addHandler(handler)
    root.setLevel(logging.ERROR)
    before = list(root.handlers)
    try:
        with pytest.raises(ZeroDivisionError), run_logging(settings(tmp_path)):
            added = [h for h in root.handlers if h not in before]
            assert root.handlers[: len(before)] == before
            raise ZeroDivisionError
        assert root.handlers == before
        assert root.level == handler.level == logging.ERROR
        in_file = next(h for h in added if isinstance(h, logging.FileHandler))
        assert in_file.stream is None
    finally:
        root.removeHandler(handler)
        root.setLevel(logging.WARNING)


def test_a_line_does_not_break_a_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = show(monkeypatch)
    with run_logging(settings(None)), tqdm(range(2), desc="Train", file=screen) as bar:
        bar.update()
        logging.getLogger().info("in between")
        bar.refresh()
    # The terminal shows what follows the last carriage return of a line.
    shown = [line.rsplit("\r", 1)[-1] for line in screen.getvalue().splitlines()]
    assert [line for line in shown if "in between" in line and "Train" not in line]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="log_dir") as error, run_logging(settings(tmp_path / "file")):
        pass
    assert "\n" not in str(error.value)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
def test_a_full_disk_ends_the_log_with_one_warning_not_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = show(monkeypatch)
    with run_logging(settings(tmp_path)):
        in_file = next(h for h in logging.getLogger().handlers if isinstance(h, LogFile))
        in_file.stream.close()
        in_file.stream = open("/dev/full", "w")  # noqa: SIM115 (the handler closes it)
        logging.getLogger().info("first")
        logging.getLogger().info("second")
    lines = screen.getvalue().splitlines()
    assert [line.split("INFO  ")[-1] for line in (lines[0], lines[2])] == ["first", "second"] and len(lines) == 3
    assert "cannot be written to (No space left on device); the log ends here" in lines[1]
