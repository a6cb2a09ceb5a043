"""One run's log: on stderr and in a file of its own."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from tqdm import tqdm

from ..errors import SettingError

logger = logging.getLogger(__name__)

# `extra` of a record that is meant for the file: pages of settings and layers.
DETAIL = {"detail": True}
SECONDS_BETWEEN_LINES = 60
COLOUR_CODE = re.compile(r"\x1b\[[0-9;]*m")


class PlainFormatter(logging.Formatter):
    """Takes out the colour codes that RecBole's messages carry."""

    def format(self, record: logging.LogRecord) -> str:
        return COLOUR_CODE.sub("", super().format(record))


class ScreenHandler(logging.StreamHandler):
    """Writes to stderr around the progress bars, not into them."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=self.stream)
        except Exception:
            self.handleError(record)


class LogFile(logging.FileHandler):
    """A log file that ends, with one warning elsewhere, where it cannot be written to: the run goes on."""

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        root = logging.getLogger()
        if self in root.handlers:
            root.removeHandler(self)
            logger.warning("%s cannot be written to (%s); the log ends here", self.baseFilename, error.strerror)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def screen_handler() -> logging.Handler:
    """A handler for stderr; colours only on a terminal and where NO_COLOR is not set."""
    handler = ScreenHandler(sys.stderr)
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    formatter = logging.Formatter if coloured else PlainFormatter
    handler.setFormatter(formatter("%(asctime)s %(levelname)s  %(message)s", "%d %b %H:%M"))
    return handler


@contextmanager
def on_screen(log: logging.Logger) -> Iterator[None]:
    """Show what a logger records, from level info on, on stderr for as long as the context lasts."""
    handler = screen_handler()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)


def file_handler(folder: str, model: str, dataset: str) -> logging.FileHandler:
    """A handler for a new file `<folder>/<model>/<model>-<dataset>-<time>-<unique>.log`.

    Raises
    ------
    SettingError
        Where no file can be written there.
    """
    name = f"{model}-{dataset}-{datetime.now():%b-%d-%Y_%H-%M-%S}-{uuid4().hex[:8]}.log"
    path = Path(folder) / model / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # "x" makes sure that no two runs share a file.
        handler = LogFile(path, mode="x", encoding="utf-8")
    except OSError as error:
        must = f"be a folder that can be written to, or ~ for no log file ({error.strerror})"
        raise SettingError("log_dir", folder, must=must) from error
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s  %(message)s", "%a %d %b %Y %H:%M:%S"))
    return handler


def shows_progress() -> bool:
    """Whether somebody sees a progress bar move: on a terminal or in a notebook, not in a file."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class Heartbeat:
    """Says once a minute that it is time for a line."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether a minute has passed since the start, or since it was due."""
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES:
            return False
        self._last = now
        return True


@contextmanager
def run_logging(config: Any) -> Iterator[Path | None]:
    """Log to stderr and to a new file for as long as the context lasts.

    The handlers stand on the root logger, where RecBole logs; those of a host application stay as they are.

    Parameters
    ----------
    config : mapping
        Read are `model`, `dataset`, `log_dir` (None for no file), `state`, RecBole's key for the level, and `verbose`:
        whether records of `DETAIL` are shown on stderr, too.

    Yields
    ------
    Path or None
        The log file.

    Raises
    ------
    SettingError
        Where `log_dir` cannot be written to.
    """
    screen = screen_handler()
    if not config["verbose"]:
        screen.addFilter(lambda record: not getattr(record, "detail", False))
    handlers = [screen]
    path = None
    if config["log_dir"]:
        in_file = file_handler(config["log_dir"], config["model"], config["dataset"])
        path = Path(config["log_dir"], *Path(in_file.baseFilename).parts[-2:])
        handlers.append(in_file)

    level = getattr(logging, str(config["state"]).upper(), logging.INFO)
    root = logging.getLogger()
    level_before = root.level
    root.setLevel(level)
    for handler in handlers:
        handler.setLevel(level)
        root.addHandler(handler)
    try:
        yield path
    finally:
        root.setLevel(level_before)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
