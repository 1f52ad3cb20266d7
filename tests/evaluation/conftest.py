"""Small tracking problems, and TrackEval as the oracle that judges our numbers."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from motrlab.data.motchallenge import Annotations, format_annotations
from motrlab.evaluation.tracks import Tracks, write_tracks

Results = dict[str, dict[str, float]]
Oracle = Callable[[Mapping[str, Annotations], Mapping[str, Tracks], str], Results]
MakeGt = Callable[..., Annotations]


@pytest.fixture(scope="session")
def make_gt() -> MakeGt:
    """gt from rows `frame, id, x` (10×20 boxes at y = 0), or with `flag` and `class` behind."""

    def make(rows: list[tuple[float, ...]], has_class: bool = True) -> Annotations:
        table = np.array([(*row, 1, 1)[:5] for row in rows], dtype=float).reshape(-1, 5)
        integers = table.astype(np.int64)
        class_id = integers[:, 4] if has_class else np.ones(len(table), np.int64)
        visibility = np.ones(len(table))
        ltwh = _boxes(table[:, 2])
        return Annotations(integers[:, 0], integers[:, 1], ltwh, integers[:, 3], class_id, visibility, has_class)

    return make


@pytest.fixture(scope="session")
def make_pred() -> Callable[[list[tuple[float, ...]]], Tracks]:
    """Tracks from rows `frame, id, x` (10×20 boxes at y = 0)."""

    def make(rows: list[tuple[float, ...]]) -> Tracks:
        table = np.array(rows, dtype=float).reshape(-1, 3)
        integers = table.astype(np.int64)
        return Tracks(integers[:, 0], integers[:, 1], _boxes(table[:, 2]), np.ones(len(table)))

    return make


def _boxes(x: np.ndarray) -> np.ndarray:
    return np.stack([x, np.zeros_like(x), np.full_like(x, 10), np.full_like(x, 20)], axis=1)


@pytest.fixture(scope="session")
def oracle() -> Oracle:
    """TrackEval's results for the same data, read by its MOTChallenge reader, under our names."""
    with contextlib.redirect_stdout(io.StringIO()):
        trackeval = pytest.importorskip("trackeval", reason="TrackEval is the oracle: pip install --no-deps trackeval")

    def judge(gt: Mapping[str, Annotations], pred: Mapping[str, Tracks], protocol: str) -> Results:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            dataset = _dataset(trackeval, Path(folder), gt, pred, protocol)
            quiet = {"PRINT_CONFIG": False}
            metrics = (trackeval.metrics.CLEAR(quiet), trackeval.metrics.Identity(quiet), trackeval.metrics.HOTA())
            found: list[dict[str, Any]] = [{} for _ in metrics]
            for name in gt:
                data = dataset.get_preprocessed_seq_data(dataset.get_raw_seq_data("ours", name), "pedestrian")
                for results, metric in zip(found, metrics, strict=True):
                    results[name] = metric.eval_sequence(data)
            for results, metric in zip(found, metrics, strict=True):
                results["OVERALL"] = metric.combine_sequences(dict(results))
        return {name: _our_names(*(results[name] for results in found)) for name in found[0]}

    return judge


def _dataset(
    trackeval: Any, folder: Path, gt: Mapping[str, Annotations], pred: Mapping[str, Tracks], protocol: str
) -> Any:
    lengths = {}
    for name, boxes in gt.items():
        tracks = pred.get(name, Tracks.empty())
        (folder / "gt" / name / "gt").mkdir(parents=True)
        (folder / "gt" / name / "gt" / "gt.txt").write_text(format_annotations(boxes))
        write_tracks(folder / "pred" / "ours" / "data" / f"{name}.txt", tracks)
        lengths[name] = int(max(boxes.frame.max(initial=1), tracks.frame.max(initial=1)))
    has_class = next(iter(gt.values())).has_class
    config = {
        "GT_FOLDER": str(folder / "gt"),
        "TRACKERS_FOLDER": str(folder / "pred"),
        "TRACKERS_TO_EVAL": ["ours"],
        "BENCHMARK": "MOT17" if has_class else "MOT15",
        "SEQ_INFO": lengths,
        "SKIP_SPLIT_FOL": True,
        "DO_PREPROC": protocol == "motchallenge",  # without: every box with a flag, nothing removed, which is `hat`
        "PRINT_CONFIG": False,
    }
    return trackeval.datasets.MotChallenge2DBox(config)


def _our_names(clear: Mapping[str, Any], identity: Mapping[str, Any], hota: Mapping[str, Any]) -> dict[str, float]:
    values = {ours: clear[theirs] for ours, theirs in [
        ("mota", "MOTA"), ("motp", "MOTP"), ("fp", "CLR_FP"), ("fn", "CLR_FN"), ("idsw", "IDSW"), ("frag", "Frag"),
        ("mt", "MT"), ("pt", "PT"), ("ml", "ML"),
    ]}  # fmt: skip
    values.update({name: identity[name.upper()] for name in ("idf1", "idp", "idr")})
    values.update({name: np.mean(hota[theirs]) for name, theirs in
                   [("hota", "HOTA"), ("deta", "DetA"), ("assa", "AssA")]})  # fmt: skip
    values["num_gt"] = clear["CLR_TP"] + clear["CLR_FN"]
    return {name: float(value) for name, value in values.items()}
