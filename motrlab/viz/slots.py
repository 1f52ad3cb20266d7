"""Which slot follows whom over time: a row for each track slot, a column for each frame."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from motrlab.classes import PEOPLE, Classes
from motrlab.data.motchallenge import Annotations
from motrlab.evaluation.mistakes import find_mistakes
from motrlab.evaluation.protocols import PROTOCOLS
from motrlab.evaluation.tuning import Half
from motrlab.tracking.replay import Recording
from motrlab.viz.curves import heading, panels
from motrlab.viz.overlay import track_colour

EMPTY, NOBODY = -2, -1


@dataclass(frozen=True)
class SlotUse:
    """`person` int64 `[slots, frames]`: the ground truth's id of whom a slot follows, `NOBODY` where it lives and is
    not written or matches nobody, `EMPTY` where it is free. `switches`: frame and slot where a person goes on in
    another track than before."""

    person: NDArray[np.int64]
    switches: list[tuple[int, int]]

    @property
    def runs(self) -> list[tuple[int, int, int, int]]:
        """Slot, first frame, frame behind the last (both from 1), and person, wherever a slot follows one person."""
        found = []
        for slot, row in enumerate(self.person):
            edges = np.flatnonzero(np.diff(row, prepend=EMPTY - 1, append=EMPTY - 1)).tolist()
            pairs = itertools.pairwise(edges)
            found += [(slot, a + 1, b + 1, int(row[a])) for a, b in pairs if row[a] >= 0]
        return found


def slot_use(
    recording: Recording,
    gt: Annotations,
    num_slots: int,
    protocol: str = PROTOCOLS[0],
    classes: Classes = PEOPLE,
) -> SlotUse:
    """From the recording of one video and its ground truth."""
    tracks = Half.of({"": recording}, {"": gt}, classes).tracks(recording.rules)
    found = find_mistakes(gt, tracks, protocol, classes)
    person = np.full((num_slots, recording.num_frames), EMPTY, np.int64)
    live = recording.live
    person[live.slot, recording.frame - 1] = NOBODY
    keys = zip(recording.frame.tolist(), live.track_id.tolist(), strict=True)
    place = dict(zip(keys, live.slot.tolist(), strict=True))

    def slot_of(row: int) -> tuple[int, int]:
        frame = int(tracks.frame[row])
        return frame, place[frame, int(tracks.track_id[row])]

    for gt_row, row in found.matched.tolist():
        frame, slot = slot_of(row)
        person[slot, frame - 1] = gt.track_id[gt_row]
    return SlotUse(person, [slot_of(row) for row in found.switched[:, 1].tolist()])


def slot_timeline(use: SlotUse, title: str = "") -> Figure:
    """The slots that ever live; a colour and a number for each person, grey where a slot follows nobody, crosses where
    a person's id changes."""
    used = np.flatnonzero((use.person != EMPTY).any(1))
    shown = use.person[used]
    picture = np.ones((*shown.shape, 3))
    picture[shown == NOBODY] = 0.82
    for person in np.unique(shown[shown >= 0]):
        picture[shown == person] = np.array(track_colour(int(person))[::-1]) / 255
    figure, (ax,) = panels(10.0, 1.2 + 0.26 * max(1, len(used)), grid="")
    heading(ax, title)
    if len(used):
        ax.imshow(
            picture, aspect="auto", interpolation="nearest", extent=(0.5, shown.shape[1] + 0.5, len(used) - 0.5, -0.5)
        )
    row_of = {int(slot): row for row, slot in enumerate(used)}
    for slot, first, last, person in use.runs:
        if last - first > 0.02 * shown.shape[1]:
            ax.text((first + last - 1) / 2, row_of[slot], str(person), ha="center", va="center", fontsize=7)
    if use.switches:
        ax.plot([f for f, _ in use.switches], [row_of[s] for _, s in use.switches], "kx", label="id switch")
        ax.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 1))
    ax.set_yticks(range(len(used)), [f"slot {slot}" for slot in used], fontsize=7)
    ax.set_xlabel("frame; numbers: people of the ground truth")
    return figure
