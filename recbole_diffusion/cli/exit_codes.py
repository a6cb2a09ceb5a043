"""What a command leaves behind: an exit code, and one line on stderr for a mistake."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress

from ..common.signals import Ended, signals_interrupt
from ..errors import OutOfTime, UserError


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
            with signals_interrupt():
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
        message = " ".join(str(error).split())
        if isinstance(error, UserError):
            print(f"error: {message}", file=sys.stderr)
            return 2
        hint = "" if debug else "; run again with --debug for the stack"
        print(f"internal error: {type(error).__name__}: {message}{hint}", file=sys.stderr)
        return 1
    return 0


def _lacks_memory(error: Exception) -> bool:
    # torch has no class of its own for the memory of a CPU.
    words = ("can't allocate memory", "out of memory", "Storage size calculation overflowed", "array is too big")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _give_up_stdout() -> None:
    # Python flushes stdout once more at exit, which would complain again.
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
