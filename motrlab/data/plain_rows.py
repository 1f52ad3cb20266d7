"""Rows of numbers, read at once: what a well-formed gt, det or result file is. Readers go through others by line."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

LARGEST = 2.0**53  # beyond it whole numbers are no longer exact


def plain_rows(text: str) -> NDArray[np.float64] | None:
    """Comma-separated numbers up to `LARGEST`, in rows of one length, `[n, columns]`; None where `text` is not that."""
    if not text.strip():
        return None
    try:
        table = np.loadtxt(io.StringIO(text), delimiter=",", comments=None, ndmin=2)
    except ValueError:
        return None
    return table if (np.abs(table) <= LARGEST).all() else None  # false for NaN


def are_whole(table: NDArray[np.float64]) -> bool:
    return bool((table == np.floor(table)).all())


def have_frame_and_id_once(table: NDArray[np.float64]) -> bool:
    """Whether no two rows begin with the same two numbers."""
    ordered = table[np.lexsort((table[:, 1], table[:, 0])), :2]
    return not (ordered[1:] == ordered[:-1]).all(1).any()
