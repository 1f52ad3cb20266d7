"""Pictures of one video of a run: which slot follows whom, what a query looks at, two stages' tracks in one frame."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from motrlab.data.pictures import Image
from motrlab.evaluation.mistakes import find_mistakes
from motrlab.evaluation.tracks import read_tracks
from motrlab.run import Run
from motrlab.stages.accuracy import network_inputs, open_engine, read_frames, require_tracks
from motrlab.stages.data import open_store
from motrlab.tracking.replay import record_video
from motrlab.viz.curves import COLOURS
from motrlab.viz.overlay import AGREE_IOU, best_ious, draw_over_each_other, tracks_of_frame
from motrlab.viz.raster import bgr
from motrlab.viz.slots import SlotUse, slot_timeline, slot_use

if TYPE_CHECKING:
    from motrlab.viz.attention import QueryAttention


def follow_slots(run: Run, stage: str = "fixed_point", sequence: str = "") -> tuple[SlotUse, Figure]:
    """Who is in which track slot over the frames of a test video (by default the first), and the picture of it."""
    store, engine = open_store(run), open_engine(run, stage)
    name = sequence or store.sequences[0].name
    model = run.config.model
    recording = record_video(engine.graphs, read_frames(store, name), engine.preprocess, model, run.config.tracker)
    use = slot_use(recording, store.annotations(name), model.num_track, classes=store.classes)
    return use, slot_timeline(use, f"{name}: which slot follows whom")


def attend(run: Run, frame: int, sequence: str = "", layer: int = -1) -> tuple[QueryAttention, Figure]:
    """What the best scored track of a frame (from 1) of a test video looks at in a decoder layer of the float model.

    The best scored detect query instead where nobody is tracked; the last frame of a shorter video. The tracker runs up
    to that frame.
    """
    import torch

    from motrlab.model.motr import MotrGraphs
    from motrlab.quantization.calibration import closed_loop
    from motrlab.stages.models import load_float
    from motrlab.viz.attention import attention_figure, query_attention

    store, model = open_store(run), load_float(run)
    name = sequence or store.sequences[0].name
    frame = min(frame, store.info(name).num_frames)
    with torch.no_grad():
        loop = closed_loop(MotrGraphs(model), network_inputs(run, store, name, last=frame), run.config)
        step = next(itertools.islice(loop, frame - 1, None))
    detect, tracked = (
        torch.as_tensor(step.output.scores_and_boxes()[0])
        .flatten()
        .split_with_sizes((run.config.model.num_detect, run.config.model.num_track))
    )
    live = torch.as_tensor(np.asarray(step.base_inputs[2])).flatten() > 0
    slot = len(detect) + int(tracked.where(live, -1.0).argmax()) if live.any() else int(detect.argmax())
    found = query_attention(model, step.base_inputs, slot, layer)
    return found, attention_figure(store.image(name, frame), found)


def stages_over_each_other(
    run: Run, frame: int = 0, sequence: str = "", stages: tuple[str, str] = ("float", "fixed_point")
) -> tuple[Image, str]:
    """A frame of the test halves with the boxes in which two stages differ, blue and orange, and how many these are.

    `frame` from 1; 0: the frame of `sequence`, or of all videos, in which their boxes are farthest apart.
    """
    store, most = open_store(run), -1.0
    for stage in stages:
        require_tracks(run, stage)
    for name in [sequence] if sequence else [info.name for info in store.sequences]:
        both = [read_tracks(run.tracks(stage) / f"{name}.txt", store.classes) for stage in stages]
        for number in [frame] if frame else range(1, store.info(name).num_frames + 1):
            first, second = (tracks_of_frame(tracks, number) for tracks in both)
            ious = best_ious(first.ltwh, second.ltwh)
            if (distance := float(sum((1 - own).sum() for own in ious))) > most:
                most, shown, place = distance, (first, second), (name, number)
                odd = [f"{(own < AGREE_IOU).sum()} of {len(own)} of {s}" for s, own in zip(stages, ious, strict=True)]
    picture = draw_over_each_other(store.image(*place), *shown, [bgr(c) for c in COLOURS[:2]])
    return picture, f"{place[0]}, frame {place[1]}: boxes that differ: {', '.join(odd)}"


def mistakes_by_video(run: Run, stage: str = "fixed_point") -> dict[str, dict[str, int]]:
    """Of each test video: frames, boxes and tracks written, and mistakes. The video with most switches comes first, of
    those with as many the one with most other mistakes."""
    require_tracks(run, stage)
    store, found = open_store(run), {}
    for info in store.sequences:
        tracks = read_tracks(run.tracks(stage) / f"{info.name}.txt", store.classes)
        wrong = find_mistakes(store.annotations(info.name), tracks, classes=store.classes)
        found[info.name] = {
            "frames": info.num_frames,
            "boxes": len(tracks),
            "tracks": len(np.unique(tracks.track_id)),
            "missed": len(wrong.missed),
            "false": len(wrong.false),
            "switches": len(wrong.switched),
        }
    return dict(sorted(found.items(), key=lambda item: (-item[1]["switches"], -item[1]["missed"] - item[1]["false"])))
