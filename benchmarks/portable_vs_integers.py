"""Tracks of the portable file against those of our exact integers, and what nearly nothing costs in the same loop.

    OMP_NUM_THREADS=1 python benchmarks/portable_vs_integers.py --run demo [--sequences STREET-01] [--seeds 2]

The portable file (`base.onnx`, `qim.onnx`) is what chips' compilers get; between quantiser pairs it computes in float,
so last steps differ, and the closed loop amplifies that. By how much it amplifies anything says the exact integers
themselves, run again with one byte of every frame changed by one step at a random place: no form that is not exact can
be expected to keep more. "From our state" is without the loop: each frame has the state that ours came to.

Prints IDF1 of the test halves, protocol hat, with our tracks as ground truth.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from motrlab.boxes import box_cxcywh_to_ltwh
from motrlab.deploy.runtime import Runtime, load_artifact
from motrlab.errors import UserError
from motrlab.evaluation.metrics import OVERALL, agreement
from motrlab.evaluation.tracks import Tracks
from motrlab.run import Run
from motrlab.stages.accuracy import read_frames
from motrlab.stages.data import open_store
from motrlab.tracking.rules import Rules
from motrlab.tracking.sequence import FrameTracks
from motrlab.tracking.step import FrameOutput, empty_state, frame_step

Images = Iterable[Any]
Follow = Callable[[Images], Iterator[FrameTracks]]


def main() -> None:
    parser = argparse.ArgumentParser(description="how far a form that is not exact keeps the tracks")
    parser.add_argument("--run", default="demo", help="a run that has been converted")
    parser.add_argument("--sequences", nargs="+", default=[], help="of the test halves; default: all")
    parser.add_argument("--seeds", type=int, default=2, help="how often pictures are changed")
    options = parser.parse_args()
    try:
        run = Run.open(options.run, create=False)
        ours, store = load_artifact(run.artifact), open_store(run)
    except UserError as error:
        sys.exit(str(error))
    names = options.sequences or [info.name for info in store.sequences]
    portable = ours.on_files(run.artifact)
    forms: dict[str, Follow] = {
        "portable": portable.track,
        "portable, from our state": partial(one_step, ours, portable),
    }
    forms |= {f"ours, byte changed, {seed}": changed(ours, seed).track for seed in range(options.seeds)}

    def half(follow: Follow, name: str) -> Tracks:
        return Tracks.of_frames(follow(read_frames(store, name)))

    reference = {name: half(ours.track, name) for name in names}
    for form, follow in forms.items():
        found = agreement(reference, {name: half(follow, name) for name in names})
        each = " ".join(f"{found[name]['idf1']:.3f}" for name in names)
        print(f"{form:<25} IDF1 {found[OVERALL]['idf1']:.4f}: {each}", flush=True)


def changed(runtime: Runtime, seed: int) -> Runtime:
    """The same with a byte of every frame a step higher or lower."""
    random, base = np.random.default_rng(seed), runtime.graphs.base_network

    def network(inputs: dict[str, Any]) -> list[Any]:
        image = inputs["image"].copy()
        image.flat[random.integers(image.size)] ^= 1
        return base(inputs | {"image": image})

    return replace(runtime, graphs=replace(runtime.graphs, base_network=network))


def one_step(ours: Runtime, other: Runtime, images: Images) -> Iterator[FrameTracks]:
    """Tracks of `other` in each frame, from the state that ours came to before it."""
    shapes, rules = ours.shapes, Rules(ours.tracker, ours.shapes)
    state = empty_state(1, shapes.d_model, shapes.num_track, shapes.slot_columns)
    for image in images:
        (height, width), fork = image.shape[:2], copy.deepcopy(rules)
        frame = other.preprocess(image)
        logits, boxes, embedding = other.graphs.base(frame, state.query, state.mask, state.reference)
        decoded = tuple(other.graphs.decode(b) for b in boxes)
        _, (live,) = fork.decide(FrameOutput(logits, decoded, embedding, frame))
        found = live.written(ours.tracker, height * width)
        pixels = found.cxcywh * np.array([width, height, width, height], np.float64)
        yield FrameTracks(found.track_id, box_cxcywh_to_ltwh(pixels), found.score)
        state = frame_step(ours.graphs, ours.preprocess(image), state, rules).state


if __name__ == "__main__":
    main()
