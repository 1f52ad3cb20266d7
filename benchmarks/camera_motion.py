"""Does it help to tell coasting tracks how the camera moved? On train halves of `street`, in closed loop.

    MOTRLAB_HOME=. OMP_NUM_THREADS=1 python benchmarks/camera_motion.py --run demo

The run's artefact tracks the train half of every video whose camera moves (`--all`: of the others, too), with
`tracker.camera_motion` off and on, all other rules as they are. Prints MOTA, IDF1 and switches under `motchallenge`,
how far the motion found is from the true one, and the milliseconds of the frame step's part `tracker`, off and on.
Rules are chosen on these halves; the test halves are not looked at.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from motrlab.data.preprocess import preprocess_bytes
from motrlab.data.street import street_scene
from motrlab.deploy.runtime import Runtime, load_artifact
from motrlab.evaluation.metrics import OVERALL, evaluate
from motrlab.evaluation.tracks import Tracks
from motrlab.run import Run
from motrlab.stages.accuracy import read_frames
from motrlab.stages.data import open_store
from motrlab.tracking.camera import CameraMotion, grey_pictures


def main() -> None:
    parser = argparse.ArgumentParser(description="camera motion told to coasting tracks, off and on")
    parser.add_argument("--run", default="demo")
    parser.add_argument("--all", action="store_true", help="videos with a still camera, too")
    options = parser.parse_args()
    run = Run.open(options.run, create=False)
    store, runtime = open_store(run, "train"), load_artifact(run.artifact)
    cameras = {info.name: street_scene(info.name, run.config.street).camera for info in store.sequences}
    names = [name for name, camera in cameras.items() if np.ptp(camera, axis=0).any() or options.all]
    gt = {name: store.annotations(name) for name in names}
    print(f"run {run.name}, train halves of {', '.join(names)}")
    size = np.array([run.config.street.width, run.config.street.height])
    for name in names:
        found, still = errors(runtime, read_frames(store, name), cameras[name], size)
        print(f"{name}: motion off by {found:.2f} px a frame in the mean, {still:.2f} px if none is assumed")
    for on in (False, True):
        rules = replace(runtime.tracker, camera_motion=on)
        seconds: dict[str, list[float]] = {}
        tracker = replace(runtime, tracker=rules)
        tracks = {name: Tracks.of_frames(tracker.track(read_frames(store, name), seconds)) for name in names}
        results = evaluate(gt, tracks)
        laps = np.array(seconds["tracker"]) * 1e3
        print(f"camera_motion {on!s:<5} part `tracker`: median {np.median(laps):.3f} ms")
        for name in (*names, OVERALL):
            m = results[name]
            print(
                f"  {name:<10} MOTA {m['mota']:.4f} IDF1 {m['idf1']:.4f} HOTA {m['hota']:.4f} switches {m['idsw']:.0f}"
            )


def errors(runtime: Runtime, images: Iterable[Any], camera: Any, size: Any) -> tuple[float, float]:
    """Mean distance, in pixels of the video, of the found motion of the picture's middle from the true one; and that
    of no motion.
    """
    motion, found = CameraMotion(), []
    for image in images:
        (grey,) = grey_pictures(preprocess_bytes(image, runtime.shapes.height, runtime.shapes.width)[None])
        moved = motion.update(grey)
        found.append((moved[:, :2] @ [0.5, 0.5] + moved[:, 2] - 0.5) * size)
    true = -np.diff(camera[: len(found)], axis=0)  # the picture moves against the camera
    return (
        float(np.linalg.norm(np.array(found[1:]) - true, axis=1).mean()),
        float(np.linalg.norm(true, axis=1).mean()),
    )


if __name__ == "__main__":
    main()
