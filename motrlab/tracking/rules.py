"""The tracker's rules as the decision of the frame step, of every stage and of the deployed runtime."""

from dataclasses import replace
from typing import Any

import numpy as np

from motrlab.config import ModelConfig, TrackerConfig
from motrlab.tracking.camera import CameraMotion, grey_pictures
from motrlab.tracking.identity import Identities, signatures
from motrlab.tracking.step import FrameOutput, Shapes
from motrlab.tracking.tracker import Decision, LiveTracks, Tracker


class Rules:
    """A `Tracker` of `batch` parallel streams that is shown each frame's outputs; `Rules(...)` is what `frame_step`
    takes as `decide`, where only decisions are of interest.

    With `camera_motion` the tracker is told how the picture moved. With `appearance`, where tracks coast, colours
    correct ids.
    """

    def __init__(self, config: TrackerConfig, shapes: Shapes | ModelConfig, batch: int = 1) -> None:
        self.tracker = Tracker(config, shapes.num_detect, shapes.num_track, batch, shapes.num_classes)
        self._several = shapes.num_classes > 1
        self._cameras = [CameraMotion() for _ in range(batch)] if config.coast and config.camera_motion else []
        self._identities = (
            [Identities(shapes.num_track) for _ in range(batch)] if config.coast and config.appearance else []
        )

    def __call__(self, output: FrameOutput) -> Decision:
        return self._update(output)[0]

    def decide(self, output: FrameOutput) -> tuple[Decision, list[LiveTracks]]:
        """The decision, and the tracks that live after it, for every stream."""
        decision, scores, boxes = self._update(output)
        live = self.tracker.live(decision, scores, boxes)
        for stream, identities in enumerate(self._identities):
            colours = signatures(output.frame, stream, live[stream].cxcywh)
            live[stream] = replace(live[stream], track_id=identities.update(colours, live[stream]))
        return decision, live

    def _update(self, output: FrameOutput) -> tuple[Decision, Any, Any]:
        """The decision, and the scores `[B, N]` and boxes `[B, N, 4]` that it was made on."""
        scores, boxes = output.scores_and_boxes()
        motion = None
        if self._cameras:
            greys = grey_pictures(output.frame)
            motion = np.stack([camera.update(grey) for camera, grey in zip(self._cameras, greys, strict=True)])
        kinds = output.kinds() if self._several else None
        return self.tracker.update(scores, boxes, motion, kinds), scores, boxes
