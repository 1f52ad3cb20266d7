"""The one exception that means: the user can mend this; and what a command makes of exceptions."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable


class UserError(ValueError):
    """A user's mistake: bad file, bad option, missing stage.

    The message is one line that says what is wrong, where, and what to do. The command line prints it on
    stderr and exits with status 2; notebooks show it as the cell's error.
    """


def exit_status(command: Callable[[], object]) -> int:
    """Run a command line's work: 0 when it ends well, 2 for a user's mistake (one line on stderr), 1 otherwise."""
    try:
        command()
    except UserError as error:
        print(f"motrlab: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print(f"motrlab: interrupted; {str(error) or 'the same command goes on from here'}", file=sys.stderr)
        return 1
    except Exception as error:
        details = getattr(error, "details", "")  # of a pipeline.NotebookError: the kernel's traceback
        if details:
            print(f"{details}\nmotrlab: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        return 1
    return 0
