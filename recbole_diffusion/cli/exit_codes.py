"""What a command leaves behind: an exit code, and one line on stderr for a mistake."""

from __future__ import annotations

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ..common.signals import Ended, signals_interrupt
from ..errors import OutOfTime, ReportedElsewhere, UserError
from ..host.registry import OWN_MODULE


def run_command(action: Callable[[], None], debug: bool = False) -> int:
    """Run a command to its end; give the exit code.

    Parameters
    ----------
    action : callable
    debug : bool
        Whether to show the stack of an error.

    Returns
    -------
    int
        0 done; 1 an error of the program; 2 a mistake of the user's; 130 interrupted, 143 or 129 ended by SIGTERM or
        SIGHUP; 141 nobody reads stdout any more; 75 ended before `deadline`, with something left to do.
    """
    try:
        try:
            with signals_interrupt(), _quiet_libraries(debug):
                action()
        except SystemExit as ended:  # argparse's after --help
            if ended.code:
                raise
        sys.stdout.flush()
    except BrokenPipeError:
        _give_up_stdout()
        return 141
    except OutOfTime as ended:
        print(ended, file=sys.stderr)
        return ended.exit_code
    except Ended as ended:
        print(f"ended by {ended.name}", file=sys.stderr)
        return 128 + ended.number
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        if _lacks_memory(error):
            error = UserError(f"there is not enough memory: take smaller sizes or batches ({error})")
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            _give_up_stdout()
            error = UserError(f"{error.filename or 'the output'}: cannot be written ({error.strerror})")
        if isinstance(error, ReportedElsewhere):
            return 2
        if not isinstance(error, UserError) and (where := _own_line(error)) is not None:
            hint = "" if debug else "; --debug shows the stack"
            error = UserError(f"{where}: {type(error).__name__}: {error}{hint}")
        message = " ".join(str(error).split())
        if isinstance(error, UserError):
            print(f"error: {message}", file=sys.stderr)
            return 2
        hint = "" if debug else "; run again with --debug for the stack"
        print(f"internal error: {type(error).__name__}: {message}{hint}", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _quiet_libraries(debug: bool) -> Iterator[None]:
    """Keep from the user what other libraries warn of, which are things that the user cannot mend.

    Not with `debug`, nor where Python's own flag -W says what to show.
    """
    with warnings.catch_warnings():
        if not debug and not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield


def _own_line(error: Exception) -> str | None:
    """The last line of a user's own model that an error went through; None where there is none."""
    frames = [frame for frame in traceback.walk_tb(error.__traceback__) if _is_own(frame[0].f_globals.get("__name__"))]
    return f"{frames[-1][0].f_code.co_filename}, line {frames[-1][1]}" if frames else None


def _is_own(module: object) -> bool:
    return str(module).startswith(OWN_MODULE)


def _lacks_memory(error: Exception) -> bool:
    # torch has no class of its own for the memory of a CPU.
    words = ("can't allocate memory", "out of memory", "Storage size calculation overflowed", "array is too big")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _give_up_stdout() -> None:
    # Python flushes stdout once more at exit, which would complain again.
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
