"""What every config checks itself with."""

from __future__ import annotations

from motrlab.errors import UserError


def check(condition: bool, message: str) -> None:
    """Raise UserError with `message` unless `condition` holds."""
    if not condition:
        raise UserError(message)
