"""Tracking metrics of sequences: CLEAR, identity and HOTA under a protocol. A metric is one file and one entry here.

Equal to the benchmark's own tool, TrackEval, which the tests hold beside it.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from motrlab.data.motchallenge import Annotations
from motrlab.errors import UserError, tell
from motrlab.evaluation import clear, hota, identity, second_opinion
from motrlab.evaluation.folders import read_folders
from motrlab.evaluation.pairs import PairedSequence, pair_sequence
from motrlab.evaluation.protocols import PROTOCOLS, check_protocol
from motrlab.evaluation.tracks import Tracks

OVERALL = "OVERALL"
Results = dict[str, dict[str, float]]


class Metric(Protocol):
    """A file of metrics that are counted together."""

    def count(self, sequence: PairedSequence) -> dict[str, Any]:
        """What adds up over sequences: numbers, or arrays of them."""

    def metrics(self, counts: Mapping[str, Any], *, overall: bool) -> dict[str, float]:
        """The metrics that follow from the counts of a sequence, or from those of all (`overall`)."""


ENGINES: dict[str, tuple[Metric, ...]] = {"motrlab": (clear, identity, hota), "motmetrics": (second_opinion,)}


def evaluate(
    gt: Mapping[str, Annotations], pred: Mapping[str, Tracks], protocol: str = PROTOCOLS[0], engine: str = "motrlab"
) -> Results:
    """Metrics of every sequence of `gt` and, last, of all together (`OVERALL`: counts summed, not metrics averaged).

    Fractions (from 0 to 1; `mota` can be negative, `motp` is mean IoU) stand before counts. A sequence without
    predictions is all missed. Raises UserError for an unknown protocol, for no sequence at all, and for predictions
    of a sequence that is not in `gt`.
    """
    check_protocol(protocol)
    if not gt:
        raise UserError("no ground truth: nothing to evaluate; give at least one sequence")
    unknown = sorted(set(pred) - set(gt))
    if unknown:
        raise UserError(f"predictions of {unknown[0]!r}, but no ground truth of it; sequences are {', '.join(gt)}")
    counts: dict[str, list[dict[str, Any]]] = {}  # for each sequence those of each file of metrics
    for name in gt:
        sequence = pair_sequence(gt[name], pred.get(name, Tracks.empty()), protocol)
        counts[name] = [metric.count(sequence) for metric in ENGINES[engine]]
    total = [{key: sum(c[key] for c in own) for key in own[0]} for own in zip(*counts.values(), strict=True)]
    results: Results = {}
    for name, own in {**counts, OVERALL: total}.items():
        overall = own is total
        parts = [metric.metrics(c, overall=overall) for metric, c in zip(ENGINES[engine], own, strict=True)]
        values = {key: value for part in parts for key, value in part.items()}
        results[name] = dict(sorted(values.items(), key=lambda item: isinstance(item[1], int)))
    return results


def agreement(reference: Mapping[str, Tracks], other: Mapping[str, Tracks]) -> Results:
    """Metrics of `other` with `reference` as ground truth, protocol `hat`: 1 for the same tracks under any ids.

    Raises UserError if `other` has a sequence that `reference` lacks.
    """
    gt = {}
    for name, tracks in reference.items():
        ones = np.ones(len(tracks), np.int64)
        gt[name] = Annotations(tracks.frame, tracks.track_id, tracks.ltwh, ones, ones, ones.astype(float), False)
    return evaluate(gt, other, "hat")


def evaluate_folders(gt_dir: Path, pred_dir: Path, protocol: str = PROTOCOLS[0], engine: str = "motrlab") -> Results:
    """Metrics of MOTChallenge files, found and read as `read_folders` says; what is left out is told on stderr.

    Raises UserError as `evaluate` and `read_folders` do.
    """
    gt, pred, notes = read_folders(Path(gt_dir), Path(pred_dir))
    results = evaluate(gt, pred, protocol, engine)
    if not results[OVERALL]["num_gt"] and any(map(len, gt.values())):
        notes.append(f"no box of the ground truth counts under {protocol}; it has {_kinds(gt.values())}")
    for note in notes:
        tell(f"motrlab: {note}")
    return results


def _kinds(annotations: Iterable[Annotations]) -> str:
    """Classes and flags, and how often: `class 0 with flag 1 (75 boxes), ...`."""
    found = Counter(pair for a in annotations for pair in zip(a.class_id.tolist(), a.flag.tolist(), strict=True))
    return ", ".join(f"class {c} with flag {flag} ({n} boxes)" for (c, flag), n in sorted(found.items()))
