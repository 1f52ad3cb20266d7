from __future__ import annotations

from dataclasses import replace

import numpy as np

from motrlab.viz.curves import figure_png
from motrlab.viz.slots import EMPTY, NOBODY, slot_timeline, slot_use
from tests.evaluation.test_tuning import video


def test_who_is_where() -> None:
    recording, gt = video(1)
    live = recording.live
    score = np.where((recording.frame == 4) & (live.slot == 2), 0.1, 1.0).astype(np.float32)
    recording = replace(recording, live=replace(live, score=score, cxcywh=gt_boxes(gt)))
    use = slot_use(recording, gt, num_slots=7)
    assert use.person.shape == (7, 20)
    assert (use.person[5:] == EMPTY).all()
    assert use.person[2, 3] == NOBODY
    assert (np.delete(use.person[2], 3) == 3).all()
    assert use.switches == [(11, slot) for slot in range(5)]  # `video` changes all ids in the middle
    assert (0, 1, 21, 1) in use.runs
    assert (2, 1, 4, 3) in use.runs
    assert (2, 5, 21, 3) in use.runs
    figure = slot_timeline(use, "walk")
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == [f"slot {i}" for i in range(5)]
    assert figure_png(figure)


def test_nobody_at_all() -> None:
    recording, gt = video(1)
    none = replace(recording, frame=recording.frame[:0], size=recording.size[:0], live=cut(recording.live))
    assert figure_png(slot_timeline(slot_use(none, gt, 3)))


def cut(live):  # type: ignore[no-untyped-def]
    return type(live)(*(getattr(live, name)[:0] for name in vars(live)))


def gt_boxes(gt):  # type: ignore[no-untyped-def]
    return (np.concatenate((gt.ltwh[:, :2] + gt.ltwh[:, 2:] / 2, gt.ltwh[:, 2:]), 1) / 200).astype(np.float32)
