"""Host work of a frame step: all of it but pre-processing and the two networks, on NumPy arrays, batch 1.

    OMP_NUM_THREADS=1 python benchmarks/host_work.py

The networks are graphs that return prepared outputs at once, in the closed loop of the deployed tracker
(`track_streams`). Prints the processor, then for 512 slots (256 detect, 256 track, 256 channels) and 64 slots (40, 24,
96), for the rules of the presets mot17 and street and for those of street with `camera_motion`, and for 0, 10, three
quarters and all of the track slots live: median and 90th percentile of the host work in ms, and the medians of its
parts. `tracker`, `gather` and `state` are the laps of the frame step; `around` is the rest of a frame: what
`track_streams` does before and after it.

People stand in a grid in which neighbours overlap, less than duplicates do, and tremble. One track in ten is not seen
in every other frame. Where duplicates are suppressed, ten detect slots fire on top of tracks in every frame; with all
track slots live that costs less, because no slot is free. The networks do not run, so caches are warm.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from motrlab.config import TrackerConfig, mot17, street
from motrlab.machine import hardware
from motrlab.tracking.sequence import track_streams
from motrlab.tracking.step import Shapes

Float32 = NDArray[np.float32]
Outputs = tuple[Float32, Float32, Float32]  # logits, boxes before `decode`, embeddings: `[1, ..., N / W, W]`
PARTS = ("tracker", "gather", "state")
NETWORKS = ("preprocess", "base", "qim")
HIGH, LOW = 3.0, -3.0  # logits of slots that see somebody and of those that do not: scores .95 and .05
DUPLICATES = 10
WARM_UP = 20  # frames that are not counted


SIZES = (
    Shapes(height=800, width=1422, num_detect=256, num_track=256, d_model=256, slot_columns=128),
    Shapes(height=192, width=320, num_detect=40, num_track=24, d_model=96, slot_columns=8),
)


class PreparedGraphs:
    """Graphs that give births in the first frame and the same `num_live` people ever after."""

    def __init__(self, sizes: Shapes, num_live: int, *, duplicates: bool) -> None:
        random = np.random.default_rng(0)
        self._sizes, self._random = sizes, random
        rows, columns = sizes.num_detect // sizes.slot_columns, sizes.slot_columns
        self.detect_query = random.normal(size=(1, sizes.d_model, rows, columns)).astype(np.float32)
        self._updated = random.normal(size=(1, sizes.d_model, 1, sizes.num_track)).astype(np.float32)
        people = np.arange(num_live)
        unseen = people[::10]
        doubles = people[:DUPLICATES] if duplicates else people[:0]
        self._birth = self._outputs(detect=people, track=people[:0])
        self._cycle = (
            self._outputs(detect=doubles, track=people),
            self._outputs(detect=doubles, track=np.setdiff1d(people, unseen)),
        )
        self._frame = -1

    def base(self, frame: Float32, query: Float32, mask: Float32, reference: Float32) -> Any:
        self._frame += 1
        self.num_live = mask.sum()
        logits, boxes, embedding = self._cycle[self._frame % 2] if self._frame else self._birth
        return (logits,), (boxes,), embedding

    def qim(self, embedding: Float32, query: Float32, mask: Float32) -> Float32:
        assert all(x.flags.c_contiguous and x.dtype == np.float32 for x in (embedding, query, mask))
        return self._updated

    def decode(self, boxes: Float32) -> Float32:
        """As the deployed tracker decodes boxes in logit space."""
        decoded: Float32 = np.reciprocal(1 + np.exp(-np.clip(boxes, -50, 50)))
        return decoded

    def _outputs(self, detect: NDArray[np.int64], track: NDArray[np.int64]) -> Outputs:
        """Detect and track slots of these numbers see somebody: number i of either kind the i-th person."""
        sizes = self._sizes
        num_slots, side = sizes.num_detect + sizes.num_track, int(np.ceil(sizes.num_detect**0.5))
        who = np.concatenate((np.arange(sizes.num_detect), np.arange(sizes.num_track)))
        x, y = (who % side + 1) / (side + 1), (who // side + 1) / (side + 1)
        boxes = np.stack((x, y, np.full(num_slots, 0.7 / side), np.full(num_slots, 1.5 / side)))
        boxes += self._random.normal(0, 0.01 / side, boxes.shape)
        logits = np.full(num_slots, LOW)
        logits[np.concatenate((detect, sizes.num_detect + track))] = HIGH
        shape = (num_slots // sizes.slot_columns, sizes.slot_columns)
        parts = (logits[None], np.log(boxes / (1 - boxes)), self._random.normal(size=(sizes.d_model, num_slots)))
        first, second, third = (part.reshape(1, -1, *shape).astype(np.float32) for part in parts)
        return first, second, third


def measure(sizes: Shapes, rules: TrackerConfig, num_live: int, num_frames: int) -> dict[str, Float32]:
    """Milliseconds of every counted frame: `host` and its parts."""
    graphs = PreparedGraphs(sizes, num_live, duplicates=rules.suppress_iou is not None)
    image = np.zeros((1080, 1920, 3), np.uint8)
    # Two pictures in turn with corners to follow, as large as the network's input, without colours.
    coarse = np.random.default_rng(0).integers(0, 256, (30, 50), np.uint8)
    grey = cv2.resize(coarse, (sizes.width, sizes.height), interpolation=cv2.INTER_CUBIC)
    inputs = itertools.cycle([np.stack([np.roll(grey, shift, 1)] * 3, -1)[None] for shift in (0, 2)])
    seconds: dict[str, list[float]] = {}

    def images() -> Iterator[NDArray[np.uint8]]:
        for _ in range(num_frames + WARM_UP):
            yield image

    ends = [time.perf_counter()]
    for _ in track_streams(graphs, [images()], lambda _: next(inputs), sizes, rules, seconds):
        ends.append(time.perf_counter())
    assert graphs.num_live == num_live, f"{graphs.num_live} live tracks instead of {num_live}"
    laps = {name: np.array(values[WARM_UP:], np.float32) * 1e3 for name, values in seconds.items()}
    host = np.diff(ends)[WARM_UP:] * 1e3 - sum(laps[name] for name in NETWORKS)
    parts = {name: laps[name] for name in PARTS}
    return {"host": host, **parts, "around": host - sum(parts.values())}


def main() -> None:
    parser = argparse.ArgumentParser(description="host work of a frame step, the networks not counted")
    parser.add_argument("--frames", type=int, default=1000, help="counted frames of each case")
    options = parser.parse_args()
    print(f"{hardware()['cpu']}, NumPy {np.__version__}; ms a frame: median and 90th percentile, medians of the parts")
    names = (*PARTS, "around")
    print(f"{'slots':>5} {'rules':<6} {'live':>4} {'median':>7} {'p90':>7}  " + " ".join(f"{n:>7}" for n in names))
    for sizes in SIZES:
        street_rules = street().tracker
        all_rules = {"mot17": mot17().tracker, "street": street_rules}
        all_rules["plain"] = replace(street_rules, appearance=False)
        all_rules["camera"] = replace(street_rules, camera_motion=True)
        for name, rules in all_rules.items():
            for num_live in (0, 10, sizes.num_track * 3 // 4, sizes.num_track):
                found = measure(sizes, rules, num_live, options.frames)
                case = f"{sizes.num_detect + sizes.num_track:>5} {name:<6} {num_live:>4}"
                median, p90 = np.percentile(found["host"], (50, 90))
                parts = " ".join(f"{np.median(found[name]):7.3f}" for name in names)
                print(f"{case} {median:7.3f} {p90:7.3f}  {parts}")


if __name__ == "__main__":
    main()
