"""What counts as ground truth and as a prediction: a protocol is one entry in `RULES`. No NumPy here, for `--help`.

`motchallenge` is the benchmark's rule: people with a non-zero flag count, and a prediction that lies on something
person-like (a reflection, a mannequin, someone on a vehicle) is neither right nor wrong. `hat` is the rule of the
reference system: every box with a non-zero flag counts, whatever its class, and nothing is forgiven.

Where other classes than people are tracked (`seqinfo.ini` says which), these are the targets under both, and none of
them is forgiven.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from motrlab.classes import PEOPLE, Classes
from motrlab.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Classes of MOT16 (arXiv 1603.00831, table 3); files without classes (MOT15) have the flag only."""

    told: str  # what a report says of it
    targets: frozenset[int] | None  # a tracker has to find these, where the flag is not 0; None: of every class
    removed: frozenset[int] = frozenset()  # predictions matched to these are taken away first

    def of(self, classes: Classes) -> Rule:
        """The rule where these are tracked."""
        if classes == PEOPLE:
            return self
        tracked = frozenset(classes.numbers)
        removed = self.removed - tracked if PEOPLE.numbers[0] in tracked else frozenset[int]()
        return replace(self, targets=tracked, removed=removed)


RULES = {
    "motchallenge": Rule(
        told="Ground truth of flag ≠ 0 and class 1; predictions matched to distractors are removed first.",
        targets=frozenset({1}),
        removed=frozenset({2, 7, 8, 12}),
    ),
    "hat": Rule(
        told="Ground truth of flag ≠ 0, nothing removed: a box on a distractor counts as a false positive.",
        targets=None,
    ),
}
PROTOCOLS = tuple(RULES)  # the first is the default


def check_protocol(protocol: str) -> str:
    """`protocol` itself. Raises UserError when there is none of that name."""
    if protocol not in RULES:
        raise UserError(f"unknown protocol {protocol!r}: choose one of {', '.join(RULES)}")
    return protocol
