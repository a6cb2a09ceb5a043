from __future__ import annotations

import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from recbole_diffusion.cli.exit_codes import run_command
from recbole_diffusion.common.signals import Ended
from recbole_diffusion.errors import OutOfTime, UserError


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (None, 0, ""),
        (UserError("x=1: less\n  would do"), 2, "error: x=1: less would do\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (OutOfTime("deadline: no time is left"), 75, "deadline: no time is left\n"),
        (Ended(signal.SIGTERM), 143, "ended by SIGTERM\n"),
        (ValueError("odd"), 1, "internal error: ValueError: odd; run again with --debug for the stack\n"),
    ],
)
def test_errors_take_one_line(
    error: BaseException | None, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def action() -> None:
        if error is not None:
            raise error

    assert run_command(action) == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(("error", "code"), [(UserError("x"), 2), (ValueError("x"), 1)])
def test_debug_shows_the_stack(error: Exception, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    def action() -> None:
        raise error

    assert run_command(action, debug=True) == code
    err = capsys.readouterr().err
    assert err.startswith("Traceback") and err.splitlines()[-1].endswith("x")


def test_a_reader_who_goes_away_is_no_error() -> None:
    code = "import sys; from recbole_diffusion.cli.exit_codes import run_command\n"
    code += "sys.exit(run_command(lambda: print('line\\n' * 100_000)))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == 141
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full here")
def test_a_full_disk_behind_stdout_takes_one_line() -> None:
    code = "import sys; from recbole_diffusion.cli.exit_codes import run_command\n"
    code += "sys.exit(run_command(lambda: print('line\\n' * 10)))"
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
    assert (done.returncode, done.stderr) == (2, "error: the output: cannot be written (No space left on device)\n")


def test_what_other_libraries_warn_of_is_shown_with_debug_alone(recwarn: pytest.WarningsRecorder) -> None:
    def action() -> None:
        warnings.warn("of a library's insides", UserWarning, stacklevel=1)

    assert run_command(action) == 0 and not recwarn.list
    assert run_command(action, debug=True) == 0 and len(recwarn.list) == 1
