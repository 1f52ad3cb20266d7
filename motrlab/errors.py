"""The one exception that means: the user can mend this; and what a command makes of exceptions."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable

_FULL, _LOCKED = "make room", "make it writable, or choose another place"
_ADVICE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EROFS: _LOCKED,
    errno.EACCES: _LOCKED,
    errno.EPERM: _LOCKED,
}


class UserError(ValueError):
    """A user's mistake: bad file, bad option, missing stage.

    The message is one line that says what is wrong, where, and what to do. The command line prints it on
    stderr and exits with status 2; notebooks show it as the cell's error.
    """


def exit_status(command: Callable[[], object]) -> int:
    """Run a command line's work: 0 when it ends well, 2 for a user's mistake (one line on stderr), 1 otherwise.

    What the terminal's encoding lacks is printed as "?". A disk that is full or cannot be written, and output that
    nobody reads any more, are one line, too.
    """
    with contextlib.suppress(AttributeError):  # of a stream that is not a text file
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        command()
        sys.stdout.flush()
    except UserError as error:
        return _say(str(error), 2)
    except KeyboardInterrupt:
        return _say("interrupted; the same command goes on from here", 1)
    except BrokenPipeError:
        _forget_output()
        return _say("nobody reads the output any more: stopped; what was done is kept", 1)
    except OSError as error:
        if error.errno not in _ADVICE:
            traceback.print_exc()
            return 1
        _forget_output()  # it may be what is full
        return _say(os_error_line(error.errno, error.filename or "the output"), 1)
    except Exception as error:
        if not hasattr(error, "details"):
            traceback.print_exc()
            return 1
        details: str = error.details  # of a pipeline.NotebookError: the kernel's traceback
        print(details, file=sys.stderr, end="\n" if details else "")
        return _say(str(error), 1)
    return 0


def os_error_line(number: int, where: object) -> str:
    """`PATH: No space left on device: make room, then the same command goes on`."""
    advice = _ADVICE.get(number, "see what is there")
    return f"{where}: {os.strerror(number)}: {advice}, then the same command goes on"


def _say(message: str, status: int) -> int:
    print(f"motrlab: {' '.join(message.split())}", file=sys.stderr)
    return status


def _forget_output() -> None:
    """Or the interpreter would try to write what is left once more when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
