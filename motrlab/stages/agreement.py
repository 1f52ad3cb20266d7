"""Do the stages that should compute the same give the same tracks? Fixed point against QAT, OpenVINO against it."""

from __future__ import annotations

import time
from typing import Any

from motrlab.deploy.runtime import load_artifact
from motrlab.evaluation.agreement import track_agreement
from motrlab.evaluation.metrics import OVERALL
from motrlab.evaluation.tracks import Tracks, read_tracks
from motrlab.run import Run, num_cpus
from motrlab.stages.accuracy import Engine, track_part
from motrlab.stages.data import open_store, read_ground_truth, score_tracks

_SCORES = ("mota", "idf1", "hota", "idsw", "fp", "fn")


def measure_agreement(run: Run) -> dict[str, Any]:
    """Score the fixed-point tracks with those of QAT as ground truth, and OpenVINO's with those of ONNX Runtime.

    Record of stage `fixed_point`, kind `agreement`: `qat.idf1` and so on, `openvino.idf1` and so on, and OpenVINO's own
    accuracy as `openvino.motchallenge.mota`. Raises UserError if QAT or fixed point was not evaluated.
    """
    started = time.time()
    fixed = _written(run, "fixed_point")
    runtime = load_artifact(run.artifact, num_threads=num_cpus(), backend="openvino")
    openvino = track_part(run, Engine(runtime.graphs, runtime.preprocess, 1), "test")
    metrics: dict[str, float | None] = {}
    for name, reference, other in (("qat", _written(run, "qat"), fixed), ("openvino", fixed, openvino)):
        found = track_agreement(reference, other)[OVERALL]
        metrics |= {f"{name}.{score}": found[score] for score in _SCORES}
    scores = score_tracks(read_ground_truth(run), openvino)["motchallenge"][OVERALL]
    metrics |= {f"openvino.motchallenge.{score}": scores[score] for score in _SCORES}
    return run.add_record("fixed_point", "agreement", metrics, started=started)


def _written(run: Run, stage: str) -> dict[str, Tracks]:
    return {info.name: read_tracks(run.tracks(stage) / f"{info.name}.txt") for info in open_store(run).sequences}
