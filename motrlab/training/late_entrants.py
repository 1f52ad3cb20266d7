"""The late-entrant check: do detect slots fire on people who have no track, and stay silent on those who have one?

Loss curves do not show it. Everybody in a first frame is given the detect slot that fits best as a track; two frames
later a share of the tracks is dropped, and the detect slots of the next frame must tell the dropped people from the
tracked ones. The measure is the area under the ROC curve: 1 is perfect, 0.5 is chance.

Shape legend: B clips, L decoder layers, D detect and T track slots, N = D + T, detect slots first.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from motrlab.boxes import box_cxcywh_to_xyxy, pairwise_iou
from motrlab.config import ModelConfig, TrainConfig
from motrlab.data.clips import Objects, SequencePeople
from motrlab.data.store import FrameStore
from motrlab.tracking.step import FrameOutput, Graphs, frame_loop
from motrlab.tracking.tracker import EMPTY, Decision
from motrlab.training.assignment import NO_OBJECT, Float, HungarianMatcher, Int

NUM_FRAMES = 3  # births; tracks with a history, of which some are dropped; the frame that is looked at
DROPPED = 0.4  # share of the live tracks
_MIN_IOU = 0.5  # of a slot's box and a person's, to be about that person
_MIN_VISIBILITY = 0.3  # less visible people are neither tracked nor asked for
_MAX_PIXELS = 1_000_000  # of a batch
_MATCHER = HungarianMatcher(TrainConfig(steps=1))  # the reference's costs, whatever a run trains with
Scored = tuple[Float, NDArray[np.bool_]]  # of people: their detect scores, and which of them were dropped


class _Followed:
    """The decision of the check: births by ground truth in the first frame, drops in the last but one."""

    def __init__(self, frames: Objects, model: ModelConfig, rng: np.random.Generator) -> None:
        self.frames, self.model, self.rng = frames, model, rng
        self.frame = 0
        self.ids: Int = np.full((len(frames[0]), model.num_track), NO_OBJECT, np.int64)
        self.dropped = np.zeros_like(self.ids, bool)  # of the tracks in `ids`

    def __call__(self, output: FrameOutput) -> Decision:
        source: Int = np.where(self.ids != NO_OBJECT, self.model.num_detect + np.arange(self.model.num_track), EMPTY)
        if self.frame == 0:
            self._births(source, *output.scores_and_boxes())
        self.frame += 1
        if self.frame == NUM_FRAMES - 1:
            self.dropped = (self.ids != NO_OBJECT) & (self.rng.random(self.ids.shape) < DROPPED)
        return Decision(np.where(self.dropped, EMPTY, source))

    def _births(self, source: Int, scores: Float, boxes: Float) -> None:
        num_detect, room = self.model.num_detect, self.model.num_track
        for b, people in enumerate(self.frames[0]):
            seen = np.flatnonzero(people.visibility >= _MIN_VISIBILITY)
            slots, which = _MATCHER(scores[b, :num_detect], boxes[b, :num_detect], people.boxes[seen])
            good = _overlaps(boxes[b, slots], people.boxes[seen[which]]).diagonal() > _MIN_IOU
            slots, which = slots[good][:room], seen[which[good][:room]]
            source[b, : len(slots)], self.ids[b, : len(slots)] = slots, people.ids[which]


def late_entrants(
    graphs: Graphs,
    store: FrameStore,
    preprocess: Callable[[Any], torch.Tensor],
    model: ModelConfig,
    *,
    num_clips: int = 96,
    seed: int = 0,
) -> dict[str, float | None]:
    """Run the check on at most `num_clips` clips of three consecutive frames of `store`, best those not trained on.

    `graphs`: any stage's; call under `torch.no_grad()`. `preprocess`: image `uint8 [H, W, 3]`, BGR → what `graphs`
    takes, `[1, 3, height, width]`. `seed` draws the clips and the tracks that are dropped.

    Gives `late_entrant_auc`, 0 to 1, None where nobody was dropped or nobody kept, and the numbers of people behind it:
    `late_entrants` (dropped) and `late_entrant_tracked` (kept).
    """
    rng = np.random.default_rng(seed)
    starts = [(s.name, f) for s in store.sequences for f in range(1, s.num_frames - NUM_FRAMES + 2)]
    picked = rng.permutation(len(starts))[:num_clips]
    people = {name: SequencePeople(store, name) for name in {starts[i][0] for i in picked}}
    size = max(1, min(16, _MAX_PIXELS // (model.height * model.width)))
    found: list[Scored] = [(np.zeros(0), np.zeros(0, bool))]
    for first in range(0, len(picked), size):
        clips = [starts[i] for i in picked[first : first + size]]
        frames = [[(name, start + t) for name, start in clips] for t in range(NUM_FRAMES)]
        objects = [[people[name].at(frame) for name, frame in row] for row in frames]
        images = [torch.cat([preprocess(store.image(name, frame)) for name, frame in row]) for row in frames]
        found.append(check_clips(graphs, images, objects, model, rng))
    scores, late = map(np.concatenate, zip(*found, strict=True))
    dropped = int(late.sum())
    tracked = len(late) - dropped
    return {"late_entrant_auc": roc_auc(scores, late), "late_entrants": dropped, "late_entrant_tracked": tracked}


def check_clips(
    graphs: Graphs, images: Sequence[Any], objects: Objects, model: ModelConfig, rng: np.random.Generator
) -> Scored:
    """The people of the last frames of a batch of clips, who had a track before.

    `images`: `[B, 3, height, width]` per frame; `objects[frame][clip]`.
    """
    followed = _Followed(objects, model, rng)
    *_, last = frame_loop(graphs, images, followed, model)
    scores, boxes = last.output.scores_and_boxes()
    results: list[Scored] = []
    for b, people in enumerate(objects[-1]):
        asked = np.isin(people.ids, followed.ids[b]) & (people.visibility >= _MIN_VISIBILITY)
        own = detect_scores(scores[b, : model.num_detect], boxes[b, : model.num_detect], people.boxes)
        results.append((own[asked], np.isin(people.ids, followed.ids[b, followed.dropped[b]])[asked]))
    firing, late = map(np.concatenate, zip(*results, strict=True))
    return firing, late


def detect_scores(scores: Float, boxes: Float, people: Float) -> Float:
    """The best score `[n]` of the slots that are about each person, 0 where none is.

    A slot (`scores` `[D]`, `boxes` `[D, 4]`) is about the person (`people` `[n, 4]`) it overlaps most, if by IoU > 0.5.
    """
    best = np.zeros(len(people))
    if len(people):
        overlap = _overlaps(boxes, people)
        good = overlap.max(1) > _MIN_IOU
        np.maximum.at(best, overlap.argmax(1)[good], scores[good])
    return best


def roc_auc(scores: Float, labels: NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve, ties counting half (Mann–Whitney); None without both kinds of label."""
    from scipy.stats import rankdata  # half a second to import, and only a training asks

    positive, negative = int(labels.sum()), int((~labels).sum())
    if positive == 0 or negative == 0:
        return None
    return float((rankdata(scores)[labels].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _overlaps(a: Float, b: Float) -> Float:
    return pairwise_iou(box_cxcywh_to_xyxy(a), box_cxcywh_to_xyxy(b))
