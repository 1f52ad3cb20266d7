"""The one exception that means: the user can mend this."""

from __future__ import annotations


class UserError(ValueError):
    """A user's mistake: bad file, bad option, missing stage.

    The message is one line that says what is wrong, where, and what to do. The command line prints it on
    stderr and exits with status 2; notebooks show it as the cell's error.
    """
