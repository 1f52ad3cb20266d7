"""Tracking metrics of sequences: CLEAR, identity and HOTA under a protocol. A metric is one file and one entry here.

Equal to the benchmark's own tool, TrackEval, which the tests hold beside it. Of several classes each is evaluated by
itself; what stands for all is the mean of their fractions and the sum of their counts (TrackEval: `cls_comb_cls_av`).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from motrlab.classes import PEOPLE, Classes
from motrlab.data.motchallenge import Annotations
from motrlab.errors import UserError, tell
from motrlab.evaluation import clear, hota, identity, second_opinion
from motrlab.evaluation.folders import read_folders
from motrlab.evaluation.pairs import PairedSequence, pair_rows
from motrlab.evaluation.protocols import PROTOCOLS, check_protocol
from motrlab.evaluation.tracks import Tracks

OVERALL, CLASSES = "OVERALL", "CLASSES"
Results = dict[str, dict[str, float]]
Counts = dict[str, list[dict[str, Any]]]  # for each sequence those of each file of metrics


class Metric(Protocol):
    """A file of metrics that are counted together."""

    def count(self, sequence: PairedSequence) -> dict[str, Any]:
        """What adds up over sequences: numbers, or arrays of them."""

    def metrics(self, counts: Mapping[str, Any], *, overall: bool) -> dict[str, float]:
        """The metrics that follow from the counts of a sequence, or from those of all (`overall`)."""


ENGINES: dict[str, tuple[Metric, ...]] = {"motrlab": (clear, identity, hota), "motmetrics": (second_opinion,)}


def evaluate(
    gt: Mapping[str, Annotations],
    pred: Mapping[str, Tracks],
    protocol: str = PROTOCOLS[0],
    engine: str = "motrlab",
    classes: Classes = PEOPLE,
) -> Results:
    """Metrics of every sequence of `gt` and, last, of all together (`OVERALL`: counts summed, not metrics averaged).

    Fractions (from 0 to 1; `mota` can be negative, `motp` is mean IoU) stand before counts. A sequence without
    predictions is all missed. With several `classes` these are averages over them, of a sequence over those that it
    has boxes or predictions of, and `CLASSES.NAME` are those of a class, all sequences together. Raises UserError for
    an unknown protocol, for no sequence at all, for predictions of a sequence that is not in `gt`, and for tracks with
    classes where only people are tracked.
    """
    check_protocol(protocol)
    if not gt:
        raise UserError("no ground truth: nothing to evaluate; give at least one sequence")
    unknown = sorted(set(pred) - set(gt))
    if unknown:
        raise UserError(f"predictions of {unknown[0]!r}, but no ground truth of it; sequences are {', '.join(gt)}")
    counts: list[Counts] = [{} for _ in classes]
    for name in gt:
        tracks = pred.get(name, Tracks.empty())
        for own, sequence in zip(counts, _by_class(gt[name], tracks, protocol, classes), strict=True):
            own[name] = [metric.count(sequence) for metric in ENGINES[engine]]
    each = [_results(own, engine) for own in counts]
    if len(classes) == 1:
        return each[0]
    found = {name: _mean([results[name] for results in each]) for name in each[0]}
    return found | {f"{CLASSES}.{name}": own[OVERALL] for name, own in zip(classes.names, each, strict=True)}


def _by_class(gt: Annotations, pred: Tracks, protocol: str, classes: Classes) -> list[PairedSequence]:
    sequence, gt_rows, pred_rows = pair_rows(gt, pred, protocol, classes)
    if len(classes) == 1:
        return [sequence]
    kinds = gt.class_id[gt_rows], pred.class_id[pred_rows]
    return [sequence.select(*(kind == number for kind in kinds)) for number in classes.numbers]


def _mean(each: Sequence[dict[str, float]]) -> dict[str, float]:
    """Counts summed; fractions averaged over the classes that there is anything of."""
    there = [own for own in each if own["num_gt"] or own["fp"]] or each
    return {
        key: sum(own[key] for own in each) if isinstance(value, int) else sum(own[key] for own in there) / len(there)
        for key, value in each[0].items()
    }


def as_json(results: Results) -> dict[str, Any]:
    """As printed: the classes, if there are several, under one key, `CLASSES`."""
    nested: dict[str, Any] = {name: own for name, own in results.items() if not name.startswith(f"{CLASSES}.")}
    classes = {name.partition(".")[2]: own for name, own in results.items() if name not in nested}
    return nested | ({CLASSES: classes} if classes else {})


def _results(counts: Counts, engine: str) -> Results:
    """From the counts of every sequence."""
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

    Of several classes averages, as `evaluate` gives them.

    Raises UserError if `other` has a sequence that `reference` lacks.
    """
    gt, known = {}, np.unique([n for own in (reference, other) for t in own.values() for n in np.unique(t.class_id)])
    several = bool((known >= 0).any())
    classes = Classes(tuple(known.astype(int).tolist()), tuple(map(str, known))) if several else PEOPLE
    for name, tracks in reference.items():
        ones = np.ones(len(tracks), np.int64)
        kinds = tracks.class_id if several else ones
        gt[name] = Annotations(tracks.frame, tracks.track_id, tracks.ltwh, ones, kinds, ones.astype(float), several)
    return evaluate(gt, other, "hat", classes=classes)


def evaluate_folders(gt_dir: Path, pred_dir: Path, protocol: str = PROTOCOLS[0], engine: str = "motrlab") -> Results:
    """Metrics of MOTChallenge files, found and read as `read_folders` says; what is left out is told on stderr.

    Raises UserError as `evaluate` and `read_folders` do.
    """
    gt, pred, classes, notes = read_folders(Path(gt_dir), Path(pred_dir))
    results = evaluate(gt, pred, protocol, engine, classes)
    if not results[OVERALL]["num_gt"]:
        there = _kinds(gt.values()) or "none at all"
        notes.append(f"no box of the ground truth counts under {protocol}; it has {there}")
    for note in notes:
        tell(f"motrlab: {note}")
    return results


def _kinds(annotations: Iterable[Annotations]) -> str:
    """Classes and flags, and how often: `class 0 with flag 1 (75 boxes), ...`."""
    found = Counter(pair for a in annotations for pair in zip(a.class_id.tolist(), a.flag.tolist(), strict=True))
    return ", ".join(f"class {c} with flag {flag} ({n} boxes)" for (c, flag), n in sorted(found.items()))
