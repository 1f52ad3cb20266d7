"""The tracker's rules replayed on what the networks gave under other rules, without the networks.

What a track slot is given depends on the tracker: a track that it ends, moves or never begins gives the network another
query in the next frame, and other outputs. So a replay is exact only for rules that decide nothing but what is written:
`EXACT`. For rules that make tracks end sooner (`STRICTER`) it is an approximation: a track that ends leaves its slot's
recorded outputs as they were, and is born again under a new id where its score allows, whatever its colours; what the
network would have found instead is not known. Held against the networks on `street` (30 frames of each train half, MOTA
in percent): 91.3 as recorded; `max_misses` 3 instead of 20: replayed 91.1, networks 90.9; `miss_score` and
`reset_score` 0.7 instead of 0.5: replayed 91.1, networks 92.0. So an approximation may have the wrong sign; try what it
finds in a closed loop.

What would let tracks live longer than in the recording cannot be replayed, for there was no slot; nor can another
suppression, another motion, or another `birth_score`: who is not born is looked for again by the detect slots, whose
scores are not those of the track (at 0.8 instead of 0.4 a replay gave 89.9, the networks 82.1). Run the networks.

A recording may hold several videos one behind the other: frames and ids then go on counting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np

from motrlab.config import ModelConfig, TrackerConfig
from motrlab.data.pictures import image_size
from motrlab.errors import UserError
from motrlab.tracking.rules import Rules
from motrlab.tracking.step import Array, FrameOutput, Graphs, Shapes, frame_loop
from motrlab.tracking.tracker import Decision, Int, LiveTracks, TrackedBoxes, threshold

# Also `appearance`, from on to off.
EXACT = ("output_score", "min_area_px", "coast_written")
STRICTER = {"miss_score": 1, "reset_score": 1, "max_misses": -1}  # which way is stricter
T = TypeVar("T")


@dataclass(frozen=True)
class Recording:
    """Every track that lived under `rules`, a row for each frame: of n rows `frame` int64 `[n]` from 1, `live` all
    their properties, `size` int64 `[n, 2]` width and height of the image in pixels. Rows are sorted by frame."""

    rules: TrackerConfig
    num_frames: int
    frame: Int
    size: Int
    live: LiveTracks

    def arrays(self) -> dict[str, Any]:
        """All but the rules, by name: the inverse of `from_arrays`."""
        own = {field.name: getattr(self.live, field.name) for field in fields(self.live)}
        return {"num_frames": np.array(self.num_frames), "frame": self.frame, "size": self.size, **own}

    @staticmethod
    def from_arrays(rules: TrackerConfig, arrays: dict[str, Any]) -> Recording:
        live = LiveTracks(**{field.name: arrays[field.name] for field in fields(LiveTracks)})
        return Recording(rules, int(arrays["num_frames"]), arrays["frame"], arrays["size"], live)


def record_video(
    graphs: Graphs,
    images: Iterable[Any],
    preprocess: Callable[[Any], Array],
    model: Shapes | ModelConfig,
    rules: TrackerConfig,
) -> Recording:
    """Track one video as `sequence.track_frames` does, and keep what the rules saw. Raises UserError without images."""
    decided = Rules(rules, model)
    found: list[LiveTracks] = []
    sizes: list[tuple[int, int]] = []

    def inputs() -> Iterable[Array]:
        for image in images:
            height, width = image_size(image)
            sizes.append((width, height))
            yield preprocess(image)

    def decide(output: FrameOutput) -> Decision:
        decision, live = decided.decide(output)
        found.extend(live)
        return decision

    for _ in frame_loop(graphs, inputs(), decide, model):
        pass
    if not found:
        raise UserError("recording: the video holds no frame; check the data")
    counts = [len(tracks.slot) for tracks in found]
    frame = np.repeat(np.arange(1, len(found) + 1), counts)
    return Recording(rules, len(found), frame, np.repeat(np.array(sizes), counts, axis=0), _joined(found))


def join(recordings: Sequence[Recording]) -> Recording:
    """Videos recorded under one set of rules, one behind the other."""
    frames = np.cumsum([0, *(r.num_frames for r in recordings)])
    ids = np.cumsum([0, *(int(r.live.life.max(initial=0)) for r in recordings)])
    live = [
        replace(r.live, track_id=r.live.track_id + first, life=r.live.life + first)
        for r, first in zip(recordings, ids, strict=False)
    ]
    frame = np.concatenate([r.frame + first for r, first in zip(recordings, frames, strict=False)])
    size = np.concatenate([r.size for r in recordings])
    return Recording(recordings[0].rules, int(frames[-1]), frame, size, _joined(live))


def replay(recording: Recording, rules: TrackerConfig) -> tuple[Int, TrackedBoxes]:
    """What would be written under `rules`: frames `[m]`, and boxes, fractions of the image. See the module for what is
    exact.

    Raises UserError where nothing can be said without the networks.
    """
    kept, frame, size = recording.live, recording.frame, recording.size
    if not rules.appearance:
        recording = replace(recording, live=replace(kept, track_id=kept.life))
        kept = recording.live
    if not is_exact(recording.rules, rules):
        kept, rows = _lived(recording, rules)
        frame, size = frame[rows], size[rows]
    # Rows are known by their number until it is settled which are written.
    boxes = replace(kept, track_id=np.arange(len(frame))).written(rules, size.prod(1))
    return frame[boxes.track_id], replace(boxes, track_id=kept.track_id[boxes.track_id])


def is_exact(recorded: TrackerConfig, rules: TrackerConfig) -> bool:
    """Whether a replay is exact. Raises UserError where it is not even an approximation."""
    changed = {f.name for f in fields(rules) if getattr(rules, f.name) != getattr(recorded, f.name)}
    changed -= {*EXACT, "output_scores"} | ({"appearance"} if recorded.appearance else set())
    for name in sorted(changed):
        before, now = getattr(recorded, name), getattr(rules, name)
        if name not in STRICTER or (now - before) * STRICTER[name] < 0:
            raise UserError(
                f"tracker.{name}: {now} cannot be replayed on a recording with {before}: the networks would have been"
                " given other queries, or colours were not recorded; run the closed loop"
            )
    return not changed


def _lived(recording: Recording, rules: TrackerConfig) -> tuple[LiveTracks, Int]:
    """The rows in which a track lives under stricter rules, and their numbers; who is born again gets a new id."""
    live = recording.live
    order = np.lexsort((recording.frame, live.life))
    first = np.flatnonzero(np.diff(live.life[order], prepend=-1))  # of every life
    length = np.diff(np.append(first, len(order)))
    claimed = live.unseen & (
        live.score >= threshold(recording.rules, "miss_score", live.kind)
    )  # lost to another track's better claim
    missed = claimed | (live.score < threshold(rules, "miss_score", live.kind))
    reset, birth = (threshold(rules, name, live.kind) + 0 * live.score for name in ("reset_score", "birth_score"))
    alive, misses = np.zeros(len(first), bool), np.zeros(len(first), np.int64)
    lives: Int = np.zeros(len(first), np.int64)  # begun so far
    again: Int = np.zeros(len(first), np.int64)  # the new id of a track that was born again, above all that are there
    above = live.life.max(initial=0) + 1
    result = {"on": np.zeros(len(order), bool), "id": np.zeros(len(order), np.int64)}
    counted = np.zeros(len(order), np.int64)
    for age in range(int(length.max(initial=0))):
        tracks = np.flatnonzero(length > age)
        rows = order[first[tracks] + age]
        score, was, miss = live.score[rows], alive[tracks], missed[rows]
        count = np.where(was & ~miss & (score >= reset[rows]), 0, misses[tracks]) + (was & miss)
        born = ~was & ~claimed[rows] & (score >= birth[rows])
        alive[tracks] = on = born | (was & (count < rules.max_misses))
        misses[tracks] = counted[rows] = np.where(born, 0, count)
        lives[tracks[born]] += 1
        again[tracks[born]] = above + rows[born]
        result["on"][rows] = on
        result["id"][rows] = np.where(lives[tracks] > 1, again[tracks], live.track_id[rows])
        missed[rows[born]] = False
    rows = np.flatnonzero(result["on"])
    names = {f.name: getattr(live, f.name)[rows] for f in fields(live)}
    unseen = missed[rows] if rules.coast else names["unseen"]
    return LiveTracks(**{**names, "track_id": result["id"][rows], "unseen": unseen, "misses": counted[rows]}), rows


def _joined(parts: Sequence[LiveTracks]) -> LiveTracks:
    return LiveTracks(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(LiveTracks)))
