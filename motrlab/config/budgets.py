"""What the deployed tracker may cost: the report says whether it does."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from motrlab.config.checks import check


@dataclass(frozen=True, kw_only=True)
class BudgetConfig:
    """Limits of the fixed-point tracker; None: no limit. No stage depends on them: they may change at any time.

    Lost points are percentage points against the better of float and float trained longer, for as many steps as QAT.
    """

    mota_points: float | None = None
    idf1_points: float | None = None
    frame_ms: float | None = None  # latency of a frame, pre-processing and host included...
    target: str = "onnxruntime-cpu"  # ...there: a name as `perf --target` takes it
    megabytes: float | None = None  # both graphs, as the device loads them

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name != "target" and value is not None:
                check(value >= 0, f"budgets: {field.name} must not be negative, and is {value}; null means no limit")
        check(bool(self.target), "budgets: target must name a target, such as onnxruntime-cpu")
