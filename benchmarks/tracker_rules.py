"""Rules of the tracker tried in closed loop: the float model of a run tracks its test halves once for each variant.

    python -m motrlab export --src runs/real --dst train-halves          # its train halves as folders
    python -m motrlab run --preset mot17_small --run rules --data-root train-halves --to 02
    python benchmarks/tracker_rules.py --run rules --set tracker.max_misses=10,20,40 --set tracker.suppress_iou=0.6,0.7

The run's data are halves of train halves, so nothing is chosen on test frames. `--part train` takes the frames that the
network has learned: of use for rules that only change ids. `--backwards` plays the videos from their end, which gives
other crossings and other births. Each `--set` is varied on its own, the other rules as they are in the run's config;
`--grid` takes all combinations.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from motrlab.config import TrackerConfig
from motrlab.config.fields import variants, with_fields
from motrlab.evaluation.metrics import OVERALL, evaluate
from motrlab.evaluation.tracks import Tracks
from motrlab.run import Run
from motrlab.stages.accuracy import Engine, open_engine, read_frames
from motrlab.stages.data import open_store
from motrlab.tracking.sequence import track_frames


def tracks(run: Run, engine: Engine, part: str, rules: TrackerConfig, *, backwards: bool) -> dict[str, Tracks]:
    """Of every video of `part`, one after the other."""
    store, found = open_store(run, part), {}
    for info in store.sequences:
        frames = list(read_frames(store, info.name))[:: -1 if backwards else 1]
        with torch.no_grad():
            video = list(track_frames(engine.graphs, frames, engine.preprocess, run.config.model, rules))
        found[info.name] = Tracks.of_frames(video, store.classes)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="rules of the tracker in closed loop")
    parser.add_argument("--run", required=True)
    parser.add_argument("--set", dest="fields", action="append", default=[], metavar="FIELD=VALUE[,VALUE]")
    parser.add_argument("--grid", action="store_true", help="all combinations instead of one field after the other")
    parser.add_argument("--part", choices=("test", "train"), default="test")
    parser.add_argument("--backwards", action="store_true", help="from the last frame to the first")
    options = parser.parse_args()
    run = Run.open(options.run, create=False)
    engine, store = open_engine(run, "float"), open_store(run, options.part)
    gt = {info.name: store.annotations(info.name) for info in store.sequences}
    if options.backwards:
        length = {info.name: info.num_frames for info in store.sequences}
        gt = {name: replace(boxes, frame=length[name] + 1 - boxes.frame) for name, boxes in gt.items()}
    single = [variant for field in options.fields for variant in variants([field])]
    for variant in [(), *(variants(options.fields) if options.grid else single)]:
        tracker = with_fields(run.config, variant).tracker
        pred = tracks(run, engine, options.part, tracker, backwards=options.backwards)
        found = evaluate(gt, pred, classes=store.classes)[OVERALL]
        scores = " ".join(f"{key} {found[key] * 100:5.1f}" for key in ("mota", "idf1", "hota"))
        counts = " ".join(f"{key} {found[key]:.0f}" for key in ("fp", "fn", "idsw"))
        print(f"{' '.join(variant) or 'as configured':45s} {scores} {counts}", flush=True)


if __name__ == "__main__":
    main()
