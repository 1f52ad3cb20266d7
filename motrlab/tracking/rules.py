"""The tracker's rules as the decision of the frame step, of every stage and of the deployed runtime."""

from typing import Any

import numpy as np

from motrlab.config import ModelConfig, TrackerConfig
from motrlab.tracking.camera import CameraMotion, grey_pictures
from motrlab.tracking.step import FrameOutput, Shapes
from motrlab.tracking.tracker import Decision, Tracker


class Rules:
    """A `Tracker` of `batch` parallel streams that is shown each frame's outputs, and, with `camera_motion`, told how
    the picture moved; `Rules(...)` is what `frame_step` takes as `decide`.
    """

    def __init__(self, config: TrackerConfig, shapes: Shapes | ModelConfig, batch: int = 1) -> None:
        self.tracker = Tracker(config, shapes.num_detect, shapes.num_track, batch, shapes.num_classes)
        self._several = shapes.num_classes > 1
        self._cameras = [CameraMotion() for _ in range(batch)] if config.coast and config.camera_motion else []

    def __call__(self, output: FrameOutput) -> Decision:
        return self.decide(output)[0]

    def decide(self, output: FrameOutput) -> tuple[Decision, Any, Any]:
        """The decision, and the scores `[B, N]` and boxes `[B, N, 4]` that it was made on."""
        scores, boxes = output.scores_and_boxes()
        motion = None
        if self._cameras:
            greys = grey_pictures(output.frame)
            motion = np.stack([camera.update(grey) for camera, grey in zip(self._cameras, greys, strict=True)])
        kinds = output.kinds() if self._several else None
        return self.tracker.update(scores, boxes, motion, kinds), scores, boxes
