"""Do the forms of the fixed-point model give the same tracks? Compared byte for byte."""

import time
from collections.abc import Mapping
from typing import Any

from motrlab.deploy.runtime import Runtime, load_artifact
from motrlab.evaluation.metrics import OVERALL, agreement
from motrlab.evaluation.tracks import Tracks, format_tracks
from motrlab.machine import num_cpus
from motrlab.names import EVALUATED
from motrlab.run import Run
from motrlab.stages.accuracy import Engine, open_engine, stage_tracks, track_part
from motrlab.stages.chain import require
from motrlab.stages.data import has_unseen

_SCORES = ("mota", "idf1", "hota", "idsw", "fp", "fn")
FORMS = ("qat", "openvino")  # what is compared with the fixed-point model on ONNX Runtime


def measure_agreement(run: Run) -> dict[str, Any]:
    """Compare track files of QAT and of OpenVINO with those of ONNX Runtime, and score those of the portable files.

    Over all test halves and unseen videos. Record of stage `fixed_point`, kind `agreement`: `qat.equal_files` of
    `qat.num_files` are equal byte for byte, `qat.first_difference` names the first that is not; likewise `openvino`.
    Of the test halves the files are taken that the evaluations of both stages left.
    The portable files are not exact: `portable_onnxruntime.idf1` and so on score their tracks on the test halves with
    the fixed-point tracks as ground truth, `portable_openvino` those on OpenVINO's own int8 kernels.
    Raises UserError where the artefact is not of the QAT model as it is now.
    """
    require(run, "fixed_point")
    started = time.time()
    runtime = load_artifact(run.artifact, num_threads=num_cpus())
    other = load_artifact(run.artifact, num_threads=num_cpus(), backend="openvino")
    engines = {"fixed_point": _engine(runtime), "qat": open_engine(run, "qat"), "openvino": _engine(other)}
    tracks: dict[str, dict[str, Tracks]] = {}
    for form, engine in engines.items():
        tracks[form] = stage_tracks(run, form) if form in EVALUATED else track_part(run, engine, "test")
        tracks[form] |= track_part(run, engine, "unseen") if has_unseen(run) else {}
    metrics: dict[str, Any] = {}
    for form in FORMS:
        differing = different_files(tracks["fixed_point"], tracks[form])
        number = len(tracks[form])
        metrics |= {f"{form}.num_files": number, f"{form}.equal_files": number - len(differing)}
        metrics[f"{form}.first_difference"] = differing[0] if differing else ""
    for backend in ("onnxruntime", "openvino"):
        portable = runtime.on_files(run.artifact, num_threads=num_cpus(), backend=backend)
        found = track_part(run, _engine(portable), "test")
        reference = {name: tracks["fixed_point"][name] for name in found}
        scores = agreement(reference, found)[OVERALL]
        metrics |= {f"portable_{backend}.{score}": scores[score] for score in _SCORES}
    return run.add_record("fixed_point", "agreement", metrics, started=started)


def _engine(runtime: Runtime) -> Engine:
    return Engine(runtime.graphs, runtime.preprocess, 1)


def different_files(reference: Mapping[str, Tracks], other: Mapping[str, Tracks]) -> list[str]:
    """Sequences whose result files differ in a byte, by name."""
    return [name for name in sorted(reference) if format_tracks(reference[name]) != format_tracks(other[name])]
