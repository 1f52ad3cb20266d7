"""Names that folders, records, options and reports share: stages of a run, parts of its data."""

from __future__ import annotations

CHAIN = ("data", "float", "calibration", "qat", "fixed_point")  # each is made from all before it
# A tracker each, in the order of tables. `float_extra`: float trained longer, for as many steps as QAT.
EVALUATED = ("float", "calibration", "qat", "float_extra", "fixed_point")
STAGE_TITLES = {
    "data": "Data",
    "float": "Float",
    "calibration": "Calibration",
    "qat": "QAT",
    "float_extra": "Float, trained longer",
    "fixed_point": "Fixed-point",
    "perf": "Performance",
}
PARTS = ("train", "test", "unseen")


def lineage(stage: str) -> tuple[str, ...]:
    """What a stage is made from, in order, and the stage itself; `perf` leaves nothing of its own."""
    if stage == "perf":
        return CHAIN
    return ("data", "float", "float_extra") if stage == "float_extra" else CHAIN[: CHAIN.index(stage) + 1]
