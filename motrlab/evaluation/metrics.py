"""Tracking metrics of sequences and of folders: CLEAR, identity and HOTA under a protocol.

Equal to the benchmark's own tool, TrackEval, which the tests hold beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

from motrlab.data.motchallenge import Annotations, SequenceInfo, read_annotations, read_sequence_info
from motrlab.errors import UserError
from motrlab.evaluation.clearmot import ClearCounts, IdCounts, count_clear, count_identity
from motrlab.evaluation.hota import HotaCounts, count_hota
from motrlab.evaluation.protocols import PROTOCOLS, check_protocol, prepare_sequence
from motrlab.evaluation.tracks import Tracks, read_tracks

OVERALL = "OVERALL"
_ENDLESS = 2**53  # beyond any frame number, and exact as a float
Results = dict[str, dict[str, float]]
Counts = TypeVar("Counts", ClearCounts, IdCounts, HotaCounts)


@dataclass(frozen=True)
class SequenceCounts:
    """Everything that adds up over sequences."""

    clear: ClearCounts
    identity: IdCounts
    hota: HotaCounts

    def metrics(self) -> dict[str, float]:
        """Fractions from 0 to 1 (`mota` can be negative, `motp` is mean IoU) and counts of boxes and people."""
        clear, identity, hota = self.clear, self.identity, self.hota
        return {
            "mota": clear.mota,
            "motp": clear.motp,
            "idf1": identity.idf1,
            "idp": identity.idp,
            "idr": identity.idr,
            "hota": hota.hota,
            "deta": hota.deta,
            "assa": hota.assa,
            "fp": clear.fp,
            "fn": clear.fn,
            "idsw": clear.idsw,
            "frag": clear.frag,
            "mt": clear.mt,
            "pt": clear.pt,
            "ml": clear.ml,
            "num_gt": clear.num_gt,
        }


def count_sequence(gt: Annotations, pred: Tracks, protocol: str) -> SequenceCounts:
    """All counts of one sequence under `protocol`."""
    sequence = prepare_sequence(gt, pred, protocol)
    return SequenceCounts(count_clear(sequence), count_identity(sequence), count_hota(sequence))


def evaluate(gt: Mapping[str, Annotations], pred: Mapping[str, Tracks], protocol: str = "motchallenge") -> Results:
    """Metrics of every sequence of `gt` and, last, of all together (`OVERALL`: counts summed, not metrics averaged).

    A sequence without predictions is all missed. Raises UserError for an unknown protocol, for no sequence at all,
    and for predictions of a sequence that is not in `gt`.
    """
    check_protocol(protocol)
    if not gt:
        raise UserError("no ground truth: nothing to evaluate; give at least one sequence")
    unknown = sorted(set(pred) - set(gt))
    if unknown:
        raise UserError(f"predictions of {unknown[0]!r}, but no ground truth of it; sequences are {', '.join(gt)}")
    counts = {name: count_sequence(gt[name], pred.get(name, Tracks.empty()), protocol) for name in gt}
    every = list(counts.values())
    total = SequenceCounts(
        _sum([c.clear for c in every]), _sum([c.identity for c in every]), _sum([c.hota for c in every])
    )
    return {name: c.metrics() for name, c in {**counts, OVERALL: total}.items()}


def _sum(counts: Sequence[Counts]) -> Counts:
    kind = type(counts[0])
    return kind(**{field.name: sum(getattr(c, field.name) for c in counts) for field in fields(kind)})


def evaluate_folders(gt_dir: Path, pred_dir: Path, protocol: str = "motchallenge") -> Results:
    """Metrics of MOTChallenge files: `gt_dir/SEQ/gt/gt.txt` (seqinfo.ini beside `gt/` optional), `pred_dir/SEQ.txt`.

    Raises UserError for folders without such files, unreadable files, and frames beyond the sequence's end.
    """
    gt_dir, pred_dir = Path(gt_dir), Path(pred_dir)
    gt_files = sorted(gt_dir.glob("*/gt/gt.txt"))
    if not gt_files:
        raise UserError(f"{gt_dir}: no SEQ/gt/gt.txt in it; --gt is the folder that holds the sequences")
    if not pred_dir.is_dir():
        raise UserError(f"{pred_dir}: no such folder; --pred is the folder that holds SEQ.txt files")
    infos = {file.parent.parent.name: _sequence_info(file.parent.parent) for file in gt_files}
    gt = {file.parent.parent.name: read_annotations(file, infos[file.parent.parent.name]) for file in gt_files}
    pred = {file.stem: _read_pred(file, infos.get(file.stem)) for file in sorted(pred_dir.glob("*.txt"))}
    return evaluate(gt, pred, protocol)


def _sequence_info(folder: Path) -> SequenceInfo:
    """What seqinfo.ini says; without one, a sequence that is never over."""
    if (folder / "seqinfo.ini").is_file():
        return read_sequence_info(folder)
    return SequenceInfo(name=folder.name, num_frames=_ENDLESS, width=1, height=1, frame_rate=1)


def _read_pred(file: Path, info: SequenceInfo | None) -> Tracks:
    tracks = read_tracks(file)
    last = int(tracks.frame.max(initial=0))
    if info is not None and last > info.num_frames:
        raise UserError(
            f"{file}: a box in frame {last}, but {info.name} has {info.num_frames} frames; the tracks of a whole video"
            " need the gt of the whole video"
        )
    return tracks


def flatten(results: Results, protocol: str) -> dict[str, float]:
    """Keys of a record: `PROTOCOL.mota` for the overall value, `PROTOCOL.SEQ.mota` for a sequence's."""
    assert protocol in PROTOCOLS, protocol
    flat = {}
    for name, metrics in results.items():
        prefix = protocol if name == OVERALL else f"{protocol}.{name}"
        flat.update({f"{prefix}.{key}": value for key, value in metrics.items()})
    return flat
