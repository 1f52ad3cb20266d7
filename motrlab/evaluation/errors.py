"""Where misses and switches come from: what the ground truth says of every box that was missed or changed its track.

Counted by the rules of CLEAR (`clear.py`), so that the sums are the metrics' `fn` and `idsw`. Who is hidden is told by
the visibility of the annotations; where a file has none, everybody is in full view.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from motrlab.boxes import box_ltwh_to_xyxy, pairwise_iou
from motrlab.data.motchallenge import Annotations, SequenceInfo
from motrlab.evaluation import clear
from motrlab.evaluation.pairs import pair_sequence
from motrlab.evaluation.tracks import Tracks

HIDDEN = 0.3  # a visibility below
_HEIGHTS, _VISIBLE, _OVERLAPS = (0.05, 0.1, 0.2, 0.4), (HIDDEN, 0.7, 0.95), (0.01, 0.2, 0.5)
_NEW_S, _AFTER_S = 0.5, 1.0  # seconds
# Factor → its levels, each box has one of each.
FACTORS: Mapping[str, Sequence[str]] = {
    "Size": tuple(
        f"{told} of the frame's height" for told in ("under 5 %", "5 to 10 %", "10 to 20 %", "20 to 40 %", "over 40 %")
    ),
    "Visibility": ("under 0.3", "0.3 to 0.7", "0.7 to 0.95", "in full view"),
    "Crowding": ("alone", "overlap up to 0.2", "overlap 0.2 to 0.5", "overlap over 0.5"),
    "Border": ("inside", "within a box's width of the border", "cut by the border"),
    "After occlusion": (
        "first half second of a person", "hidden", "first second after it was hidden", "longer in view",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class ErrorRow:
    """Boxes of one level of a factor, and what became of them."""

    factor: str
    level: str
    boxes: int
    missed: int
    switches: int


@dataclass(frozen=True)
class Event:
    """A person who was missed (`frame`: where it was seen best; `length` boxes in a row), or who changed its track
    (`before`: the frame of its earlier track). `severity` orders events of one kind.
    """

    kind: str  # miss | switch
    sequence: str
    person: int
    frame: int
    before: int
    length: int
    visibility: float
    severity: float


@dataclass(frozen=True)
class Outcome:
    """What became of the boxes of `people`, `[n]` in their order: bool `missed`, bool `switched`, the earlier box of
    who switched (a row, else -1), and of each factor the level's number.
    """

    people: Annotations
    missed: np.ndarray
    switched: np.ndarray
    earlier: np.ndarray
    levels: Mapping[str, np.ndarray]


def outcome(gt: Annotations, tracks: Tracks, info: SequenceInfo) -> Outcome:
    """Of one sequence, under protocol `motchallenge`; a frame's size of 0 (unknown) is the furthest edge of a box."""
    people, sequence = gt.counted(info.tracked), pair_sequence(gt, tracks, "motchallenge", info.tracked)
    assert np.array_equal(people.frame, sequence.gt_frame)  # one order: boxes can be named by their row
    matches = clear.correspondences(sequence)
    missed, switched = np.ones(len(people), bool), np.zeros(len(people), bool)
    earlier = np.full(len(people), -1)
    missed[sequence.pair_gt[matches]] = False
    now, before = (sequence.pair_gt[pairs] for pairs in clear.switches(sequence, matches))
    switched[now], earlier[now] = True, before
    return Outcome(people, missed, switched, earlier, _levels(people, info))


def _levels(people: Annotations, info: SequenceInfo) -> dict[str, np.ndarray]:
    corners = box_ltwh_to_xyxy(people.ltwh)
    width, height = info.width or corners[:, 2].max(initial=1), info.height or corners[:, 3].max(initial=1)
    margins = np.stack([corners[:, 0], corners[:, 1], width - corners[:, 2], height - corners[:, 3]])
    border = np.where(margins.min(0) < 0, 2, np.where(margins.min(0) < people.ltwh[:, 2], 1, 0))
    found = (
        np.digitize(people.ltwh[:, 3] / height, _HEIGHTS),
        np.digitize(people.visibility, _VISIBLE),
        np.digitize(_largest_overlap(people.frame, corners), _OVERLAPS),
        border,
        _history(people, info.frame_rate),
    )
    return dict(zip(FACTORS, found, strict=True))


def _largest_overlap(frame: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """IoU of each box with the nearest other one of its frame."""
    found = np.zeros(len(frame))
    for rows in np.split(np.arange(len(frame)), np.flatnonzero(np.diff(frame)) + 1):
        iou = pairwise_iou(corners[rows], corners[rows])
        np.fill_diagonal(iou, 0.0)
        found[rows] = iou.max(1, initial=0.0)
    return found


def _history(people: Annotations, frame_rate: float) -> np.ndarray:
    """Levels of "After occlusion"; a person who is not annotated for some frames was hidden."""
    level = np.full(len(people), 3)
    for person in np.unique(people.track_id):
        rows = np.flatnonzero(people.track_id == person)  # in the order of frames
        frames, hidden = people.frame[rows], people.visibility[rows] < HIDDEN
        returned = np.concatenate([[False], np.diff(frames) > 1])
        last = np.maximum.accumulate(np.where(hidden, frames, np.where(returned, frames - 1, -(10**9))))
        own = np.where(frames - last <= _AFTER_S * frame_rate, 2, 3)
        own[frames - frames[0] < _NEW_S * frame_rate] = 0
        own[hidden] = 1
        level[rows] = own
    return level


def error_rows(outcomes: Sequence[Outcome]) -> list[ErrorRow]:
    """Sums over sequences, a row for each level that any box has."""
    found = []
    for factor, names in FACTORS.items():
        level = np.concatenate([o.levels[factor] for o in outcomes])
        missed = np.concatenate([o.missed for o in outcomes])
        switched = np.concatenate([o.switched for o in outcomes])
        sums = [np.bincount(level[mask], minlength=len(names)) for mask in (slice(None), missed, switched)]
        found += [ErrorRow(factor, n, *map(int, row)) for n, *row in zip(names, *sums, strict=True) if row[0]]
    return found


def worst_events(outcomes: Mapping[str, Outcome], number: int = 6) -> list[Event]:
    """At most so many misses and so many switches, the worst first, by sequence's name; one for each person.

    A miss weighs as much as could be seen of the person, added up over the boxes missed in a row; a switch as much as
    could be seen before and after it.
    """
    found: list[Event] = []
    for name, one in outcomes.items():
        found += [*_misses(name, one), *_switches(name, one)]
    found.sort(key=lambda event: -event.severity)
    chosen: dict[tuple[str, str, int], Event] = {}
    for event in found:
        chosen.setdefault((event.kind, event.sequence, event.person), event)
    return [e for kind in ("miss", "switch") for e in [e for e in chosen.values() if e.kind == kind][:number]]


def _misses(name: str, one: Outcome) -> list[Event]:
    people, events = one.people, []
    for person in np.unique(people.track_id):
        rows = np.flatnonzero(people.track_id == person)
        cuts = np.flatnonzero((np.diff(one.missed[rows]) != 0) | (np.diff(people.frame[rows]) > 1)) + 1
        for run in np.split(rows, cuts):
            if one.missed[run[0]]:
                seen = people.visibility[run]
                best = run[seen.argmax()]
                frame, weight = int(people.frame[best]), float(seen.sum())
                events.append(Event("miss", name, int(person), frame, 0, len(run), float(seen.max()), weight))
    return events


def _switches(name: str, one: Outcome) -> list[Event]:
    people, events = one.people, []
    for row in np.flatnonzero(one.switched):
        before = one.earlier[row]
        seen, gap = people.visibility[[before, row]], int(people.frame[row] - people.frame[before])
        person, frames = int(people.track_id[row]), (int(people.frame[row]), int(people.frame[before]))
        events.append(Event("switch", name, person, *frames, gap, float(seen[1]), float(seen.sum()) / gap))
    return events
