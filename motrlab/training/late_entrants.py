"""The late-entrant check: do detect slots fire on people who have no track, and stay silent on those who have one?

Loss curves do not show it. Everybody in a first frame is given the detect slot that fits best as a track; two frames
later a share of the tracks is dropped, and the detect slots of the next frame must tell the dropped people from the
tracked ones. The measure is the area under the ROC curve: 1 is perfect, 0.5 is chance.

Shape legend: B clips, L decoder layers, D detect and T track slots, N = D + T, detect slots first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from motrlab.boxes import box_cxcywh_to_xyxy, box_ltwh_to_cxcywh, pairwise_iou
from motrlab.config import ModelConfig
from motrlab.data.store import FrameStore
from motrlab.tracking.step import FrameOutput, Graphs, frame_loop
from motrlab.tracking.tracker import EMPTY, Decision
from motrlab.training.assignment import NO_OBJECT, FrameObjects
from motrlab.training.matcher import HungarianMatcher

Float = NDArray[np.floating]
Int = NDArray[np.int64]
NUM_FRAMES = 3  # births; tracks with a history, of which some are dropped; the frame that is looked at
DROPPED = 0.4  # share of the live tracks
_MIN_IOU = 0.5  # of a slot's box and a person's, to be about that person
_MIN_VISIBILITY = 0.3  # less visible people are neither tracked nor asked for
_MAX_PIXELS = 1_000_000  # of a batch


@dataclass(frozen=True)
class LateEntrants:
    """`auc`: 0 to 1, None where nobody was dropped or nobody kept; the numbers of people behind it."""

    auc: float | None
    num_dropped: int
    num_tracked: int

    def metrics(self) -> dict[str, float | None]:
        """For a record."""
        return {
            "late_entrant_auc": self.auc,
            "late_entrants": self.num_dropped,
            "late_entrant_tracked": self.num_tracked,
        }


class _Followed:
    """The decision of the check: births by ground truth in the first frame, drops in the last but one."""

    def __init__(self, frames: Sequence[Sequence[FrameObjects]], model: ModelConfig, rng: np.random.Generator) -> None:
        self.frames, self.model, self.rng = frames, model, rng  # [frame][clip]
        self.frame = 0
        self.ids: Int = np.full((len(frames[0]), model.num_track), NO_OBJECT, np.int64)
        self.dropped: list[Int] = [np.zeros(0, np.int64) for _ in frames[0]]

    def __call__(self, output: FrameOutput) -> Decision:
        scores, boxes = output.scores_and_boxes()
        if self.frame == 0:
            source = self._births(scores, boxes)
        else:
            own = self.model.num_detect + np.arange(self.model.num_track)
            source = np.where(self.ids != NO_OBJECT, own, EMPTY)
        self.frame += 1
        if self.frame == NUM_FRAMES - 1:
            drop = (self.ids != NO_OBJECT) & (self.rng.random(self.ids.shape) < DROPPED)
            self.dropped = [ids[d] for ids, d in zip(self.ids, drop, strict=True)]
            self.ids[drop], source[drop] = NO_OBJECT, EMPTY
        return Decision(source)

    def _births(self, scores: Float, boxes: Float) -> Int:
        source = np.full(self.ids.shape, EMPTY, np.int64)
        num_detect = self.model.num_detect
        for b, people in enumerate(self.frames[0]):
            seen = people.visibility >= _MIN_VISIBILITY
            slots, which = HungarianMatcher()(scores[b, :num_detect], boxes[b, :num_detect], people.boxes[seen])
            overlap = _overlaps(boxes[b, slots], people.boxes[seen][which]).diagonal()
            slots, which = slots[overlap > _MIN_IOU], which[overlap > _MIN_IOU]
            slots, which = slots[: self.model.num_track], which[: self.model.num_track]
            source[b, : len(slots)], self.ids[b, : len(slots)] = slots, people.ids[seen][which]
        return source


def late_entrants(
    graphs: Graphs,
    store: FrameStore,
    preprocess: Callable[[Any], Any],
    model: ModelConfig,
    *,
    num_clips: int = 96,
    seed: int = 0,
) -> LateEntrants:
    """Run the check on clips of three consecutive frames, drawn from all of `store`.

    Args:
        graphs: any stage's graphs; call under `torch.no_grad()`.
        store: frames with ground truth, best those not trained on.
        preprocess: image `uint8 [H, W, 3]`, BGR → what `graphs` takes, `[1, 3, height, width]`.
        model: shapes.
        num_clips: at most; sequences of fewer than three frames give none.
        seed: of the clips and of the tracks that are dropped.
    """
    rng = np.random.default_rng(seed)
    starts = [(s.name, f) for s in store.sequences for f in range(1, s.num_frames - NUM_FRAMES + 2)]
    picked = rng.permutation(len(starts))[:num_clips]
    size = max(1, min(16, _MAX_PIXELS // (model.height * model.width)))
    scores: list[Float] = []
    late: list[NDArray[np.bool_]] = []
    for first in range(0, len(picked), size):
        clips = [starts[i] for i in picked[first : first + size]]
        people = [[_people(store, name, start + t) for name, start in clips] for t in range(NUM_FRAMES)]
        images = [
            _stack([preprocess(store.image(name, start + t)) for name, start in clips]) for t in range(NUM_FRAMES)
        ]
        for found, is_late in check_clips(graphs, images, people, model, rng):
            scores.append(found)
            late.append(is_late)
    labels = np.concatenate([np.zeros(0, bool), *late])
    return LateEntrants(
        roc_auc(np.concatenate([np.zeros(0), *scores]), labels), int(labels.sum()), int((~labels).sum())
    )


def check_clips(
    graphs: Graphs,
    images: Sequence[Any],
    people: Sequence[Sequence[FrameObjects]],
    model: ModelConfig,
    rng: np.random.Generator,
) -> list[tuple[Float, NDArray[np.bool_]]]:
    """For each clip of a batch, the detect scores of the people in its last frame, and which of them were dropped.

    `images`: `[B, 3, height, width]` per frame; `people[frame][clip]`.
    """
    followed = _Followed(people, model, rng)
    *_, last = frame_loop(graphs, images, followed, model)
    scores, boxes = last.output.scores_and_boxes()
    results = []
    for b, seen in enumerate(people[-1]):
        firing = detect_scores(scores[b, : model.num_detect], boxes[b, : model.num_detect], seen.boxes)
        late = np.isin(seen.ids, followed.dropped[b])
        asked = (late | np.isin(seen.ids, followed.ids[b])) & (seen.visibility >= _MIN_VISIBILITY)
        results.append((firing[asked], late[asked]))
    return results


def detect_scores(scores: Float, boxes: Float, people: Float) -> Float:
    """The best score `[n]` of the slots that are about each person, 0 where none is.

    A slot (`scores` `[D]`, `boxes` `[D, 4]`) is about the person (`people` `[n, 4]`) it overlaps most, if by IoU > 0.5.
    """
    best = np.zeros(len(people))
    if len(people) == 0:
        return best
    overlap = _overlaps(boxes, people)
    about = overlap.argmax(1)
    good = overlap.max(1) > _MIN_IOU
    np.maximum.at(best, about[good], scores[good])
    return best


def roc_auc(scores: Float, labels: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve, ties counting half (Mann–Whitney); None without both kinds of label."""
    positive, negative = int(labels.sum()), int((~labels).sum())
    if positive == 0 or negative == 0:
        return None
    return float((rankdata(scores)[labels].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _overlaps(a: Float, b: Float) -> Float:
    result: Float = pairwise_iou(box_cxcywh_to_xyxy(a), box_cxcywh_to_xyxy(b))
    return result


def _people(store: FrameStore, name: str, frame: int) -> FrameObjects:
    info, people = store.info(name), store.annotations(name).people
    rows = people.frame == frame
    size = np.array([info.width, info.height, info.width, info.height])
    boxes = (box_ltwh_to_cxcywh(people.ltwh[rows]) / size).astype(np.float32)
    return FrameObjects(boxes, people.track_id[rows], people.visibility[rows])


def _stack(images: list[Any]) -> Any:
    if isinstance(images[0], np.ndarray):
        return np.concatenate(images)
    import torch

    return torch.cat(images)
