"""Rules of the tracker tried in closed loop: the float model of a run tracks its test halves once for each variant.

    python -m motrlab export --src runs/real --dst train-halves          # its train halves as folders
    python -m motrlab run --preset mot17_small --run rules --data-root train-halves --to 02
    python benchmarks/tracker_rules.py --run rules --set tracker.max_misses=10,20,40 --set tracker.suppress_iou=0.6,0.7

The run's data are halves of train halves, so nothing is chosen on test frames. Each `--set` is varied on its own, the
other rules as they are in the run's config; `--grid` takes all combinations.
"""

from __future__ import annotations

import argparse

from motrlab.config.fields import variants, with_fields
from motrlab.evaluation.metrics import OVERALL, evaluate
from motrlab.run import Run
from motrlab.stages.accuracy import open_engine, track_part
from motrlab.stages.data import open_store, read_ground_truth


def main() -> None:
    parser = argparse.ArgumentParser(description="rules of the tracker in closed loop")
    parser.add_argument("--run", required=True)
    parser.add_argument("--set", dest="fields", action="append", default=[], metavar="FIELD=VALUE[,VALUE]")
    parser.add_argument("--grid", action="store_true", help="all combinations instead of one field after the other")
    options = parser.parse_args()
    run = Run.open(options.run, create=False)
    engine, gt, classes = open_engine(run, "float"), read_ground_truth(run), open_store(run).classes
    single = [variant for field in options.fields for variant in variants([field])]
    for variant in [(), *(variants(options.fields) if options.grid else single)]:
        tracker = with_fields(run.config, variant).tracker
        found = evaluate(gt, track_part(run, engine, "test", tracker), classes=classes)[OVERALL]
        scores = " ".join(f"{key} {found[key] * 100:5.1f}" for key in ("mota", "idf1", "hota"))
        counts = " ".join(f"{key} {found[key]:.0f}" for key in ("fp", "fn", "idsw"))
        print(f"{' '.join(variant) or 'as configured':45s} {scores} {counts}", flush=True)


if __name__ == "__main__":
    main()
