"""Who a track is, by colours: who returns gets the old id back, and ids that were mixed up are put right.

A track query follows a place. Where people cross, it may leave with the wrong one, and a newborn takes the person it
left; who was away for longer than `max_misses` comes back as a newborn. Both show in the colours of what the boxes
hold. So a histogram of each box is kept (a colour histogram and its Bhattacharyya coefficient, as Comaniciu, Ramesh and
Meer track by, IEEE TPAMI 25(5), 2003), from frames in which no other box is on it, and compared where a mistake is
possible: at a birth, and between tracks that have just been on top of each other. Only ids change: the networks see
the same queries as without.

Every stage takes the colours from the bytes of the network's input, so all stages see the same ones.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from motrlab.boxes import box_cxcywh_to_xyxy, pairwise_iou
from motrlab.data.preprocess import input_bytes
from motrlab.tracking.step import to_numpy
from motrlab.tracking.tracker import EMPTY, Float, Int, LiveTracks

# Chosen on train halves, forwards and backwards, of the real videos by three models: docs/LOG.md.
REMEMBERED = 200  # frames for which somebody lost is remembered
_ROWS, _COLUMNS = 16, 8  # pixels of a box that are looked at
_HEIGHT, _WIDTH = 0.8, 0.6  # of the middle of a box in which they lie
_LUMA_BINS, _CHROMA_BINS, _CHROMA_REACH = 8, 4, 24  # U and V lie within 128 ± 24, or in the outermost bin
_BINS = 2 * _LUMA_BINS * _CHROMA_BINS**2  # of the upper and the lower half of a box
_TOUCHES = 0.3  # IoU from which on two boxes hide each other's colours
_SUSPECT = 30  # frames after a touch in which ids may be corrected
_SETTLED = 5  # clear frames after a touch until the colours are believed to be the track's own
_FEWEST = 3  # frames that colours must be of to be compared
_SLOW, _FAST = 0.05, 0.3  # least weights of the newest frame in a track's colours, and in those since the last touch
_ALIKE = 0.6  # least similarity of a newborn to whom it is taken for
_BETTER = 0.05  # least gain in similarity, for each of the ids that change
_NEAR = 2.0  # box widths, and half as many heights, between a newborn and where that one was
_SIZE = 2.0  # largest ratio of their heights

_DOWN = np.linspace(-_HEIGHT / 2, _HEIGHT / 2, _ROWS, dtype=np.float32)
_ACROSS = np.linspace(-_WIDTH / 2, _WIDTH / 2, _COLUMNS, dtype=np.float32)
_HALF = np.arange(_ROWS)[:, None] * 2 // _ROWS * (_BINS // 2)
_ROOTS = np.sqrt(np.arange(_ROWS * _COLUMNS + 1, dtype=np.float32) / (_ROWS * _COLUMNS))  # of the share of n pixels
_LUMA_BIN = np.arange(256) * _LUMA_BINS // 256
_CHROMA_BIN = np.clip((np.arange(256) - 128 + _CHROMA_REACH) * _CHROMA_BINS // (2 * _CHROMA_REACH), 0, _CHROMA_BINS - 1)
_BIN_OF = _LUMA_BIN * _CHROMA_BINS**2, _CHROMA_BIN * _CHROMA_BINS, _CHROMA_BIN  # of Y, U and V, from 0 to 127


def signatures(frame: Any, stream: int, boxes: Float) -> Float:
    """Colours of `boxes` `[n, 4]` (cxcywh, fractions) in one picture of a batch: `[n, 256]`, each of length 1.

    The products of two are between 0 and 1, the Bhattacharyya coefficient of two histograms. `frame`: what a base graph
    is given, bytes `uint8 [B, H, W, 3]` or input `[B, 3, H, W]` from -1 to 1, any array.
    """
    is_bytes = isinstance(frame, np.ndarray) and frame.dtype == np.uint8
    height, width = frame.shape[1:3] if is_bytes else frame.shape[2:4]
    boxes = np.nan_to_num(boxes)
    down, across = boxes[:, 1:2] + boxes[:, 3:4] * _DOWN, boxes[:, 0:1] + boxes[:, 2:3] * _ACROSS
    row = np.minimum(np.maximum(down * height, 0), height - 1).astype(np.int64)
    column = np.minimum(np.maximum(across * width, 0), width - 1).astype(np.int64)
    pixel = (row[:, :, None] * width + column[:, None, :]).ravel()
    yuv = frame[stream].reshape(-1, 3).take(pixel, 0) if is_bytes else _bytes_at(frame[stream], pixel)
    colour = _BIN_OF[0].take(yuv[:, 0]) + _BIN_OF[1].take(yuv[:, 1]) + _BIN_OF[2].take(yuv[:, 2])
    place = colour.reshape(len(boxes), _ROWS, _COLUMNS) + _HALF
    place += np.arange(0, len(boxes) * _BINS, _BINS)[:, None, None]
    counts = np.bincount(place.ravel(), minlength=len(boxes) * _BINS).reshape(-1, _BINS)
    return _ROOTS.take(counts)


def _bytes_at(planes: Any, pixel: Int) -> Any:
    """Bytes `[n, 3]` at places `[n]` of input `[3, H, W]`."""
    return input_bytes(to_numpy(planes.reshape(3, -1)[:, pixel])[..., None])[:, 0]


def _similarity(one: Float, other: Float) -> Float:
    """Products of signatures, summed over the last axis; the same bits on every processor, which `@` does not give."""
    return (one * other).sum(-1)


@dataclass(frozen=True)
class _Lost:
    """Somebody who is not tracked any more: colours, class, where believed to be in the end, last frame seen.

    `touched` `[T]`: the frame of the last touch with the track in each slot; `last_touch`: of the last of all.
    """

    colours: Float
    kind: int
    box: Float
    frame: int
    touched: Int
    last_touch: int


class Identities:
    """The ids of one stream of `num_track` slots, frame by frame."""

    def __init__(self, num_track: int) -> None:
        self._frame = 0
        self._life, self._id = np.full((2, num_track), EMPTY, np.int64)
        self._kind, self._born, self._last, self._clear = np.zeros((4, num_track), np.int64)
        self._box: Float = np.zeros((num_track, 4), np.float32)
        # Of each slot's track: how it looks in this frame, since it last touched another, and by all that is known.
        self._now, self._recent, self._own = np.zeros((3, num_track, _BINS), np.float32)
        self._known: Int = np.zeros(num_track, np.int64)  # frames that `_own` is of
        self._touched: Int = np.full((num_track, num_track), -_SUSPECT, np.int64)  # the frame in which two last did
        self._lost: dict[int, _Lost] = {}

    def update(self, colours: Float, live: LiveTracks) -> Int:
        """The ids of the `n` live tracks of a frame: `live.life` of each, or that of an earlier one.

        `colours` `[n, 256]`: their `signatures`. No id stands twice in a frame.
        """
        self._frame += 1
        self._lost = {track: lost for track, lost in self._lost.items() if lost.frame >= self._frame - REMEMBERED}
        life = np.full_like(self._life, EMPTY)
        life[live.slot] = live.life
        changed = np.flatnonzero(life != self._life)
        for slot in changed[self._life[changed] != EMPTY].tolist():
            self._lose(slot)
        self._life, self._id[changed] = life, life[changed]
        if not len(live.slot):
            return live.life
        self._now[live.slot], self._kind[live.slot] = colours, live.kind
        self._box[live.slot] = np.where(live.unseen[:, None], live.believed, live.cxcywh)
        born = changed[life[changed] != EMPTY]
        self._born[born] = self._last[born] = self._frame
        self._start(born)
        seen = live.slot[~live.unseen]
        hidden = self._touch(seen, live.slot)
        if len(born):
            self._welcome(born, np.setdiff1d(live.slot, born), live.slot[live.unseen])
        self._look(seen, hidden)
        clear = seen[(self._clear[seen] >= _FEWEST) & (self._known[seen] >= _FEWEST)]
        self._exchange(clear)
        self._reclaim(clear)
        return self._id[live.slot]

    def _start(self, slots: Any) -> None:
        """Nothing is known of the tracks of `slots` but how they look now."""
        self._known[slots], self._clear[slots] = 0, _SETTLED
        self._touched[slots] = self._touched[:, slots] = -_SUSPECT
        self._recent[slots] = self._own[slots] = self._now[slots]

    def _lose(self, slot: int) -> None:
        """Remember who is in `slot`."""
        if self._known[slot] >= _FEWEST:
            colours, box, touched = (x[slot].copy() for x in (self._own, self._box, self._touched))
            told = int(self._kind[slot]), box, int(self._last[slot]), touched, int(touched.max())
            self._lost[int(self._id[slot])] = _Lost(colours, *told)

    def _become(self, slot: int, track: int) -> None:
        """`slot` gets id and colours of `track`, who was lost or is in another slot, which then gets this one's id."""
        lost = self._lost.pop(track, None)
        if lost is not None:
            self._own[slot] = lost.colours
        else:
            other = np.flatnonzero(self._id == track)[0]
            self._id[other], self._own[slot] = self._id[slot], self._own[other]
            self._start(other)
        self._id[slot] = track
        self._known[slot] = max(self._known[slot], round(1 / _SLOW))

    def _touch(self, seen: Int, live: Int) -> Any:
        """Which of the `seen` another of the `live` is on; all are slots."""
        boxes = box_cxcywh_to_xyxy(self._box[live])
        own = np.searchsorted(live, seen)
        touch = pairwise_iou(boxes[own], boxes) > _TOUCHES
        touch[np.arange(len(seen)), own] = False
        row, column = np.nonzero(touch)
        self._touched[seen[row], live[column]] = self._touched[live[column], seen[row]] = self._frame
        self._clear[seen[row]] = self._clear[live[column]] = 0
        return touch.any(1)

    def _welcome(self, born: Int, others: Int, unseen: Int) -> None:
        """Newborns that are somebody known get that id and those colours, the most similar first; all are slots.

        Known are the lost, and of the `others` those that coast, or look less like themselves than the newborn does.
        """
        others = others[self._known[others] >= _FEWEST]
        lost = list(self._lost.values())
        tracks = [*self._lost, *self._id[others].tolist()]
        if not tracks:
            return
        colours = np.concatenate([[one.colours for one in lost] or self._own[:0], self._own[others]])
        boxes = np.concatenate([[one.box for one in lost] or self._box[:0], self._box[others]])
        kinds = np.array([one.kind for one in lost] + self._kind[others].tolist())
        likeness = np.where(np.isin(others, unseen), -1, _similarity(self._now[others], self._own[others]))
        least = np.maximum(_ALIKE, np.concatenate([np.full(len(lost), -1), likeness]) + _BETTER)
        new = self._box[born][:, None]
        away = np.abs(new[..., :2] - boxes[:, :2]) / np.maximum((new[..., 2:] + boxes[:, 2:]) / 2, 1e-6)
        ratio = np.maximum(new[..., 3], 1e-6) / np.maximum(boxes[:, 3], 1e-6)
        similarity = _similarity(self._now[born][:, None], colours)
        alike = (similarity > least) & (self._kind[born][:, None] == kinds)
        alike &= (np.maximum(away[..., 0], 2 * away[..., 1]) < _NEAR) & (np.maximum(ratio, 1 / ratio) < _SIZE)
        slots, free = set(born.tolist()), set(tracks)
        for i, j in sorted(np.argwhere(alike).tolist(), key=lambda pair: -similarity[tuple(pair)]):
            slot, track = int(born[i]), tracks[j]
            if slot in slots and track in free:
                slots.remove(slot)
                free.remove(track)
                self._become(slot, track)

    def _look(self, seen: Int, hidden: Any) -> None:
        """The colours of those `seen` whom nobody is on; slots, and `hidden` of each."""
        self._last[seen] = self._frame
        clear = seen[~hidden]
        self._clear[clear] += 1
        _mix(self._recent, self._now, clear, self._clear[clear], _FAST)
        settled = clear[self._clear[clear] > _SETTLED]
        self._known[settled] += 1
        _mix(self._own, self._now, settled, self._known[settled], _SLOW)

    def _exchange(self, clear: Int) -> None:
        """Two tracks that were on each other and now have each other's colours exchange ids; `clear`: slots."""
        if len(clear) < 2:
            return
        suspect = self._touched[np.ix_(clear, clear)] > self._frame - _SUSPECT
        suspect &= self._kind[clear, None] == self._kind[clear]
        for i, j in np.argwhere(np.triu(suspect, 1)):
            pair = clear[[i, j]]
            gain = _similarity(self._recent[pair], self._own[pair[::-1]] - self._own[pair]).sum()
            if gain > 2 * _BETTER:
                for kept in (self._id, self._own, self._known):
                    kept[pair] = kept[pair[::-1]]

    def _reclaim(self, clear: Int) -> None:
        """A track that was on one which then ended, and now has its colours, is that one; `clear`: slots."""
        since = self._frame - _SUSPECT + 1
        for track, lost in [(track, lost) for track, lost in self._lost.items() if lost.last_touch >= since]:
            touched = lost.touched[clear] >= np.maximum(self._born[clear], since)
            slots = clear[touched & (self._kind[clear] == lost.kind) & (self._clear[clear] >= _FEWEST)]
            gain = _similarity(self._recent[slots], lost.colours - self._own[slots])
            if gain.max(initial=0) > _BETTER:
                slot = int(slots[gain.argmax()])
                self._lose(slot)
                self._become(slot, track)
                self._clear[slot] = 0


def _mix(kept: Float, now: Float, slots: Int, count: Int, least: float) -> None:
    """The mean of the first frames, then one in which the newest has the weight `least`; `count` includes it."""
    weight = np.maximum(1 / np.maximum(count, 1), least)[:, None].astype(np.float32)
    kept[slots] += weight * (now[slots] - kept[slots])
