"""Life and death of tracks, vectorised over slots, for parallel streams.

What compares boxes with boxes goes stream by stream and looks at live tracks and candidates only: few of the slots.

Shape legend: B streams, D detect and T track slots, N = D + T, detect slots first. Boxes are cxcywh as fractions of
the image.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motrlab.boxes import box_cxcywh_to_xyxy, box_iou
from motrlab.config import TrackerConfig

Int = NDArray[np.int64]
Float = NDArray[np.floating]
Bool = NDArray[np.bool_]
EMPTY = -1


@dataclass(frozen=True)
class Decision:
    """Which slot every track slot continues from: `source` `[B, T]`, a slot number from 0 to N - 1, or `EMPTY`.

    `shift` `[B, 4, T]`, if given, moves the next reference boxes (fractions of the image). `hold` `[B, T]`, if given,
    marks tracks that keep the query they came with: the QIM's update is not taken.
    """

    source: Int
    shift: Float | None = None
    hold: Bool | None = None


@dataclass(frozen=True)
class TrackedBoxes:
    """Boxes of one frame of one stream: `track_id` `[n]` from 1, `cxcywh` `[n, 4]` in fractions, `score` `[n]`.

    `kind` `[n]`: classes, counted from 0.
    """

    track_id: Int
    cxcywh: Float
    score: Float
    kind: Int


@dataclass(frozen=True)
class LiveTracks:
    """The tracks that live in one frame of one stream, written or not, n of them.

    `life` `[n]`: the tracker's own number of each, from 1 in order of birth; `track_id` `[n]` is another one where
    colours correct it (`identity`). `slot` `[n]` of the T, ascending. `score` `[n]` and `cxcywh` `[n, 4]` are the
    network's. `believed` `[n, 4]`: where the rules believe a coasting track to be; `unseen` `[n]`: it coasts in this
    frame; `misses` `[n]` so far; `kind` `[n]`: its class, counted from 0.
    """

    track_id: Int
    life: Int
    slot: Int
    score: Float
    cxcywh: Float
    believed: Float
    unseen: Bool
    misses: Int
    kind: Int

    def written(self, config: TrackerConfig, image_area_px: Any) -> TrackedBoxes:
        """What is written of them: those seen now that score high enough and are large enough.

        `image_area_px` is of the original image: one number, or one for each.
        """
        keep, box = self.score > threshold(config, "output_score", self.kind), self.cxcywh
        if config.coast:  # without, only the score decides
            coasting = self.unseen & (self.misses <= config.coast_written)
            box = np.where(coasting[:, None], self.believed, box)
            keep = (keep & ~self.unseen) | coasting
        keep &= box[:, 2] * box[:, 3] * image_area_px > config.min_area_px
        return TrackedBoxes(self.track_id[keep], box[keep], self.score[keep], self.kind[keep])


def threshold(config: TrackerConfig, name: str, kind: Int) -> Any:
    """One of `config.tracker.SCORES`: for each of `kind` its class's, float32, or the one for all."""
    own = getattr(config, f"{name}s")
    return np.array(own, np.float32)[kind] if own else getattr(config, name)


class Tracker:
    """The rules by which tracks live and die, for `batch` parallel streams that start together.

    A track keeps its slot; a newborn takes a free one, best score first. Ids count from 1 in order of birth, per
    stream. When all slots are taken, births wait.

    With `config.suppress_iou`, of two that overlap more than that the later is a duplicate. Tracks come in order of
    birth, then candidates for birth, best score first. Duplicates are found before slots are handed out, so none takes
    a slot from a new person: a candidate that is one is no candidate, and uses no id. A track that is one ends, and its
    slot is free in the same frame, like that of a track with too many misses. What a duplicate overlaps is one as well:
    of three in a row, each on the next one but not on the one after, only the first is left.

    With `config.coast`, a track that is not seen in a frame (its score is below `miss_score`, or another track has the
    better claim to the same person) keeps its query and moves on at its last velocity, instead of being drawn to
    whoever stands in front of it. Of two tracks with one box the claim is with the one that comes nearer to where its
    own motion put it. No track ends as a duplicate; candidates are compared with where each track is believed to be.
    Where it is told how the picture moved, all that moves along, and velocities are those in the scene.

    With several classes a slot's score is that of its best class. A newborn is judged by the thresholds of that class,
    a track by those of its own: the class with the largest sum of scores in the frames it was seen in, of equal ones
    the first. So one frame's mistake does not change it, a mistake at birth is corrected, and no frame is waited for.
    Only tracks and candidates of one class can be duplicates.
    """

    def __init__(
        self, config: TrackerConfig, num_detect: int, num_track: int, batch: int = 1, num_classes: int = 1
    ) -> None:
        config.check_classes(num_classes)
        self.config = config
        self.num_detect = num_detect
        self._own_slot: Int = num_detect + np.arange(num_track)
        self.track_id: Int = np.full((batch, num_track), EMPTY, np.int64)
        self.misses: Int = np.zeros((batch, num_track), np.int64)
        self.next_id: Int = np.ones(batch, np.int64)
        self.unseen: Bool = np.zeros((batch, num_track), bool)  # coasting in this frame
        self.box: Float = np.zeros((batch, num_track, 4), np.float32)  # where each track is believed to be
        self.velocity: Float = np.zeros((batch, num_track, 2), np.float32)  # of its centre, per frame
        self.kind: Int = np.zeros((batch, num_track), np.int64)  # class of each track
        self._votes: Float = np.zeros((batch, num_track, num_classes), np.float32)  # sums of scores
        self._several = num_classes > 1

    def update(self, scores: Float, boxes: Float, motion: Float | None = None, kinds: Int | None = None) -> Decision:
        """One frame: `scores` `[B, N]` from 0 to 1, `boxes` `[B, N, 4]` → where each track slot continues from.

        `motion` `[B, 2, 3]`: of the picture since the frame before, as `CameraMotion.update` gives it. `kinds`
        `[B, N]`, needed with several classes: which one the score of each slot is of.
        """
        self._kinds: Int = np.zeros(scores.shape, np.int64) if kinds is None else kinds
        if motion is not None:
            self._move(motion.astype(np.float32))
        own_scores = scores[:, self.num_detect :]
        live: Bool = self.track_id != EMPTY
        missed = live & (own_scores < threshold(self.config, "miss_score", self.kind))
        if kinds is not None:
            self._vote(live & ~missed, kinds[:, self.num_detect :], own_scores)
        if self.config.coast and self.config.suppress_iou is not None:
            missed |= self._outclaimed(live & ~missed, boxes[:, self.num_detect :], self.config.suppress_iou)
        away = self.misses + 1  # frames since each track was last seen, for those seen now
        live = self._age(live, missed, own_scores)
        source = np.where(live, self._own_slot, EMPTY)
        self.track_id[~live] = EMPTY
        if self.config.coast:
            self.unseen = missed & live
        born = self._give_birth(source, scores, boxes)
        return self._coast(source, boxes, born, away) if self.config.coast else Decision(source)

    def _vote(self, seen: Bool, kinds: Int, scores: Float) -> None:
        """Each track that is seen says which class it is of; all `[B, T]`."""
        stream, slot = np.nonzero(seen)
        self._votes[stream, slot, kinds[stream, slot]] += scores[stream, slot]
        self.kind = self._votes.argmax(-1)

    def _move(self, motion: Float) -> None:
        """Where tracks are believed to be, and their velocities, from the last frame's picture to this one's."""
        turn = motion[:, :, :2]
        scale = np.sqrt(np.maximum(np.linalg.det(turn), 0))[:, None, None]
        centre, size = self.box[..., :2], self.box[..., 2:]
        self.box = np.concatenate((centre @ turn.swapaxes(1, 2) + motion[:, None, :, 2], size * scale), -1)
        self.velocity = self.velocity @ turn.swapaxes(1, 2)

    def _age(self, live: Bool, missed: Bool, scores: Float) -> Bool:
        """Count misses; `[B, T]` of the tracks that live on."""
        self.misses[live & ~missed & (scores >= threshold(self.config, "reset_score", self.kind))] = 0
        self.misses += missed
        return live & (self.misses < self.config.max_misses)

    def _outclaimed(self, seen: Bool, boxes: Float, iou: float) -> Bool:
        """Tracks with a box that another track has the better claim to; `seen`, result `[B, T]`."""
        result = np.zeros_like(seen)
        for stream, row in enumerate(seen):
            slots = np.flatnonzero(row)
            if len(slots) < 2:
                continue
            box = boxes[stream, slots]
            expected = self.box[stream, slots, :2] + self.velocity[stream, slots]
            surprise = (np.abs(box[:, :2] - expected) / np.maximum(box[:, 2:], 1e-6)).sum(-1)
            order = surprise + 1e-9 * self.track_id[stream, slots]  # the older one where both are as near
            kind = self.kind[stream, slots] if self._several else None
            result[stream, slots] = duplicates(box, order, iou, kind=kind)
        return result

    def _give_birth(self, source: Int, scores: Float, boxes: Float) -> Bool:
        """Fill free entries of `source` `[B, T]` with candidates that are no duplicates; `[B, T]` of these."""
        born = np.zeros(source.shape, bool)
        for stream, row in enumerate(source):
            candidates = self._candidates(scores[stream], self._kinds[stream])
            if self.config.coast and not (len(candidates) and (row == EMPTY).any()):
                continue  # no birth, and where tracks coast none ends here
            if self.config.suppress_iou is not None:
                candidates = self._suppress(stream, row, candidates, boxes[stream], self.config.suppress_iou)
            slots = np.flatnonzero(row == EMPTY)[: len(candidates)]
            row[slots] = candidates[: len(slots)]
            self.track_id[stream, slots] = self.next_id[stream] + np.arange(len(slots))
            self.next_id[stream] += len(slots)
            self.misses[stream, slots] = 0
            self.kind[stream, slots] = found = self._kinds[stream, row[slots]]
            self._votes[stream, slots] = 0
            self._votes[stream, slots, found] = scores[stream, row[slots]]
            born[stream, slots] = True
        return born

    def _candidates(self, scores: Float, kinds: Int) -> Int:
        """Detect slots at or above the birth score, best first; `scores` and `kinds` `[N]` of one stream."""
        least = threshold(self.config, "birth_score", kinds[: self.num_detect])
        slots = np.flatnonzero(scores[: self.num_detect] >= least)
        return slots[np.argsort(-scores[slots], kind="stable")]

    def _suppress(self, stream: int, source: Int, candidates: Int, boxes: Float, iou: float) -> Int:
        """The candidates that are no duplicates; ends the tracks that are. `source` `[T]`, `boxes` `[N, 4]`."""
        tracks = np.flatnonzero(source != EMPTY)
        tracks = tracks[np.argsort(self.track_id[stream, tracks])]
        places = boxes[source[tracks]]
        if self.config.coast:
            places = np.where(self.unseen[stream, tracks, None], self.box[stream, tracks], places)
        everyone = np.concatenate((places, boxes[candidates]))  # in the order in which the later is the duplicate
        settled = len(tracks) if self.config.coast else 0
        kinds = np.concatenate((self.kind[stream, tracks], self._kinds[stream, candidates]))
        kind = kinds if self._several else None
        double = duplicates(everyone, np.arange(len(everyone)), iou, settled, kind)
        ended = tracks[double[: len(tracks)]]
        source[ended] = self.track_id[stream, ended] = EMPTY
        return candidates[~double[len(tracks) :]]

    def _coast(self, source: Int, boxes: Float, born: Bool, away: Int) -> Decision:
        """Follow the motion of tracks that are seen, and move those that are not along; `away` `[B, T]` in frames."""
        live = np.nonzero(source != EMPTY)
        found, unseen = boxes[live[0], source[live]], self.unseen[live][:, None]
        box, velocity = self.box[live], self.velocity[live]
        # A track that comes back has coasted: what its box is off by has grown over all the frames it was away.
        step = velocity + (found[:, :2] - box[:, :2] - velocity) / away[live][:, None]
        gain = self.config.velocity_gain
        velocity = np.where(unseen, velocity, (1 - gain) * velocity + gain * step)
        velocity[born[live]] = 0
        self.velocity[live] = velocity
        box[:, :2] += self.velocity[live]
        self.box[live] = np.where(unseen, box, found)
        shift = np.zeros((len(source), 4, source.shape[1]), boxes.dtype)
        shift[live[0], :, live[1]] = np.where(unseen, box - found, 0)
        return Decision(source, shift, self.unseen.copy())

    def live(self, decision: Decision, scores: Float, boxes: Float) -> list[LiveTracks]:
        """All that live after `decision`, per stream, in the order of their slots."""
        result = []
        for stream, source in enumerate(decision.source):
            slots = np.flatnonzero(source != EMPTY)
            own = (state[stream, slots] for state in (self.box, self.unseen, self.misses, self.kind))
            place, life = (stream, source[slots]), self.track_id[stream, slots]
            result.append(LiveTracks(life, life, slots, scores[place], boxes[place], *own))
        return result


def duplicates(boxes: Float, order: Any, iou: float, settled: int = 0, kind: Int | None = None) -> Bool:
    """Which of `boxes` `[n, 4]` overlap more than `iou` with one that comes before it in `order` `[n]`; bool `[n]`.

    The first `settled` boxes are none, whatever they overlap. With `kind` `[n]` only boxes of one class are compared.

    Not all n × n pairs are looked at. With an IoU above s, two boxes have an IoU above s in x alone; their left and
    right ends are then together less than (1 - s) / s widths of either apart, and their centres less than half of that:
    few neighbours in the sorted row of all centres, and fewer that are as near in y.
    """
    x, y = boxes[:, 0], boxes[:, 1]
    reach = boxes[:, 2:] * (0.505 * (1 - iou) / max(iou, 1e-9))  # a hundredth more, for rounding
    row = np.argsort(x)
    asked = np.arange(settled, len(boxes))
    first = np.searchsorted(x[row], (x - reach[:, 0])[asked])
    count = np.maximum(np.searchsorted(x[row], (x + reach[:, 0])[asked]) - first, 0)
    one = np.repeat(asked, count)
    other = row[np.arange(len(one)) + np.repeat(first - np.cumsum(count) + count, count)]
    near = np.flatnonzero((order[one] > order[other]) & (np.abs(y[one] - y[other]) <= reach[:, 1][one]))
    if kind is not None:
        near = near[kind[one[near]] == kind[other[near]]]
    one, other = one[near], other[near]
    corners = box_cxcywh_to_xyxy(boxes)
    result = np.zeros(len(boxes), bool)
    result[one[box_iou(corners[one], corners[other]) > iou]] = True
    return result
