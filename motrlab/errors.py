"""The one exception that means: the user can put this right; what a command makes of exceptions; words on the way."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import traceback
from collections.abc import Callable

DISK_ADVICE = {  # what the user can do where the system refuses to write
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space and run again"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "choose a folder that can be written"),
    errno.ENAMETOOLONG: "choose a shorter name",
}


class UserError(ValueError):
    """A user's mistake: bad file, bad option, missing stage.

    The message is one line that says what is wrong, where, and what to do. The command line prints it on
    stderr and exits with status 2; notebooks show it as the cell's error.
    """


def tell(text: str) -> None:
    """Say something that is no result: on stderr, or in a notebook among the cell's output.

    Commands have nothing but results on stdout. A notebook shows stderr in red, as if something had failed.
    """
    in_notebook = type(sys.stdout).__module__.partition(".")[0] == "ipykernel"
    print(text, file=sys.stdout if in_notebook else sys.stderr)


def exit_status(command: Callable[[], object]) -> int:
    """Run a command line's work: 0 when it ends well, 2 for a user's mistake (one line on stderr), 1 otherwise.

    What the terminal's encoding lacks is printed as "?". A disk that is full or cannot be written, and output that
    nobody reads any more, are one line, too. Streams that were closed before the start lead nowhere.
    """
    for name in ("stdin", "stdout", "stderr"):  # or the next file that is opened would get the number of one
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
    with contextlib.suppress(AttributeError):  # of a stream that is not a text file
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        command()
        sys.stdout.flush()
        return 0
    except UserError as error:
        message, status = str(error), 2
    except ModuleNotFoundError as error:
        if (error.name or "motrlab").partition(".")[0] == "motrlab":
            traceback.print_exc()
            return 1
        message, status = f"this needs {error.name}, which is not installed: pip install 'motrlab[kit]'", 2
    except KeyboardInterrupt as error:
        message, status = f"interrupted; {str(error) or 'run the same command to continue'}", 1
    except Exception as error:
        message, status = _one_line(error), 1
        if not message:
            traceback.print_exc()
            return 1
    print(f"motrlab: {' '.join(message.split())}", file=sys.stderr)
    return status


def _one_line(error: Exception) -> str:
    """What is no bug of ours, in words; "" where a traceback is wanted."""
    if isinstance(error, OSError) and error.errno in (*DISK_ADVICE, errno.EPIPE):
        with contextlib.suppress(OSError, ValueError):  # or the interpreter would write what is left when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:
            return "stopped, because nobody reads the output; finished work is kept"
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{os.strerror(error.errno)}; {DISK_ADVICE[error.errno]}"
    details = getattr(error, "details", None)  # of a pipeline.NotebookError: the kernel's traceback
    if details:
        print(details, file=sys.stderr)
    return "" if details is None else str(error)
