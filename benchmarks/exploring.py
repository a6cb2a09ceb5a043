"""`python -m benchmarks.exploring`: how soon the explorer's page is there, and how fast it answers, as JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from time import perf_counter, sleep
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import torch

from benchmarks.machine import device_name
from recbole_diffusion.cli.arguments import Parser
from recbole_diffusion.cli.exit_codes import run_command
from recbole_diffusion.errors import SettingError, UserError
from recbole_diffusion.evaluation.environment import versions

# Seconds to wait for the users of the data, which are read beside the page.
SECONDS_FOR_USERS = 60
WARM_UPS = 3

EXAMPLES = """\
examples:
  python -m benchmarks.exploring --checkpoint saved/A.pth --checkpoint saved/B.pth
"""


def parser() -> Parser:
    """The flags."""
    about = "Time the explorer over HTTP, as its page asks it. One JSON object goes to stdout."
    made = Parser("python -m benchmarks.exploring", about, EXAMPLES)
    about = "a saved model; of a folder, the newest; twice for two models"
    made.add_argument("--checkpoint", required=True, action="append", metavar="PATH", help=about)
    made.add_argument("--data_path", metavar="DIR", help="the dataset's folder; by default that of training")
    made.add_argument("--timed_users", type=int, default=100, metavar="N", help="users asked for (default 100)")
    made.add_argument("--inference_steps", type=int, metavar="N", help="reverse steps (default: the model's)")
    return made


def run(argv: Sequence[str]) -> None:
    """Do what the command line says; a mistake is a `UserError`."""
    args = parser().read(argv)
    if args.timed_users <= WARM_UPS:
        raise SettingError("timed_users", args.timed_users, must=f"be above {WARM_UPS}")
    print(json.dumps(measure(args.checkpoint, args.data_path, args.timed_users, args.inference_steps), indent=2))


class Page(NamedTuple):
    """A page that is open, and the seconds from the command until it was there."""

    connection: HTTPConnection
    start_s: float

    def ask(self, path: str, question: Any = None) -> Any:
        """What the page gets: by GET, or by POST where there is a question.

        Raises
        ------
        UserError
            Where it gets a problem.
        """
        kind = {"Content-Type": "application/json"}
        body = None if question is None else json.dumps(question)
        self.connection.request("GET" if body is None else "POST", path, body, kind)
        answer = self.connection.getresponse().read().decode()
        if path == "/":
            return answer
        read = json.loads(answer)
        if isinstance(read, dict) and read.get("problem"):
            raise UserError(read["problem"])
        return read


@contextmanager
def opened(checkpoints: Sequence[str], data_path: str | None) -> Iterator[Page]:
    """The explorer in a process of its own, as its command starts it."""
    flags = [f"--checkpoint={path}" for path in checkpoints] + [f"--data_path={data_path}"] * bool(data_path)
    command = [sys.executable, "-m", "recbole_diffusion", "explore", *flags, "--port=0", "--no_browser"]
    begin = perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            address = urlsplit(process.stdout.readline().split(" ")[0])
            if not address.port:
                # Why stands on stderr.
                raise UserError("the explorer did not start")
            page = Page(HTTPConnection("127.0.0.1", address.port), 0.0)
            page.ask("/")
            yield page._replace(start_s=perf_counter() - begin)
        finally:
            process.terminate()


def measure(
    checkpoints: Sequence[str], data_path: str | None = None, timed: int = 100, steps: int | None = None
) -> dict[str, Any]:
    """Ask for the lists, and for the reverse process, of users of the data, picked at random, one by one.

    Parameters
    ----------
    checkpoints : sequence of str
        One model or two, which are asked together.
    data_path : str, optional
    timed : int
        Users.
    steps : int, optional
        Reverse steps; by default those that each model has.

    Returns
    -------
    dict
        Plain data; `start_s` is the time from the command to the page, the others are milliseconds, the median and
        the 95th percentile.

    Raises
    ------
    UserError
        Where the explorer does not start or has no users.
    """
    with opened(checkpoints, data_path) as page:
        _wait_for_users(page)
        settings = [{} if steps is None else {"inference_steps": steps}] * len(checkpoints)
        questions = [{"history": page.ask("/user")["history"], "settings": settings} for _ in range(timed)]
        return {
            "models": len(checkpoints),
            "users": len(questions),
            "start_s": round(page.start_s, 2),
            "lists_ms": _milliseconds(page, "/answer", questions),
            "process_ms": _milliseconds(page, "/process", questions),
            "versions": versions(),
            "device": device_name(torch.device("cpu")),
        }


def _wait_for_users(page: Page) -> None:
    until = perf_counter() + SECONDS_FOR_USERS
    while page.ask("/users")["count"] is None:
        if perf_counter() > until:
            raise UserError(f"the users of the data are not there after {SECONDS_FOR_USERS} s")
        sleep(0.1)


def _milliseconds(page: Page, path: str, questions: Sequence[Any]) -> dict[str, float]:
    seconds = []
    for question in questions:
        begin = perf_counter()
        page.ask(path, question)
        seconds.append(perf_counter() - begin)
    timed = np.multiply(seconds[WARM_UPS:], 1000)
    return {"median": round(float(np.median(timed)), 1), "95 %": round(float(np.percentile(timed, 95)), 1)}


if __name__ == "__main__":
    sys.exit(run_command(lambda: run(sys.argv[1:]), debug="--debug" in sys.argv))
