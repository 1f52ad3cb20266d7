"""What is in records, and numbers as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from motrlab.names import STAGE_TITLES

Record = Mapping[str, Any]

COMPARED = ("mota", "idf1", "hota")  # shown with their distance from float
COUNTS = ("fp", "fn", "idsw", "frag", "mt", "pt", "ml", "num_gt")
METRICS = (*COMPARED, "deta", "assa", "idp", "idr", "motp", *COUNTS)
METRIC_NAMES = {m: m.upper() for m in METRICS} | {"deta": "DetA", "assa": "AssA", "frag": "Frag", "num_gt": "boxes"}
GRAPHS = {"base": "Base graph", "qim": "QIM"}
TITLES = {  # of a metric's last name, without its unit, where its words alone would not tell
    # data
    "num_sequences": "videos", "num_frames": "frames", "num_people": "people", "num_boxes": "boxes",
    "empty_frames": "frames without people", "boxes_outside": "boxes over the image's border",
    "boxes_ignored": "boxes ignored", "boxes_per_frame": "boxes a frame",
    "fraction_below_03": "boxes of visibility under 0.3", "fraction_below_07": "boxes of visibility under 0.7",
    # training
    "l1": "L1", "giou": "GIoU", "late_entrant_auc": "late entrants: AUC of their scores",
    "late_entrants": "late entrants: people without a query", "late_entrant_tracked": "late entrants: people with one",
    "init": "initial weights", "matched": "tensors taken", "mismatched": "tensors of another shape",
    "unused": "tensors of the source unused", "random": "tensors left random",
    "parameter_share": "parameters taken", "backbone_share": "of the backbone's parameters taken",
    # graphs
    "params": "parameters", "macs": "multiply-accumulates of convolutions and matrix products",
    "integer_macs_share": "products in integers, by multiply-accumulates", "integer_nodes_share": "by number",
    "num_products": "products", "num_float_products": "products in float", "num_nodes": "nodes",
    "float_nodes_share": "nodes that touch float32", "portable_size": "portable file", "fp32_size": "fp32 file",
    # time
    "p50": "median", "min": "shortest", "max": "longest", "std": "standard deviation",
    "jitter": "jitter (standard deviation)", "fps": "frames a second", "deadline_misses": "later than the next frame",
    "miss_share": "share of late frames",
    # forms of the networks and parts of the frame step
    "fixed_point": "fixed-point", "openvino_fixed_point": "OpenVINO fixed-point",
    "openvino_portable": "OpenVINO portable", "openvino_fp32": "OpenVINO fp32",
    "quantize_static": "ONNX Runtime's own int8", "torch": "PyTorch", "step": "frame step", "base": "base graph",
    "qim": "QIM", "preprocess": "pre-processing", "gather": "gathering of slots", "state": "next state",
    "fp32_total": "total in fp32",
    # kinds of records
    "accuracy_raw": "accuracy without duplicate suppression", "accuracy_unseen": "accuracy on unseen videos",
    "baseline_unseen": "baseline on unseen videos", "integer": "share of integers",
}  # fmt: skip
_UNITS = {"ms": "ms", "mb": "MB", "us": "µs", "s": "s", "px": "px"}


def last(records: Iterable[Record], stage: str, kind: str) -> Record | None:
    """The last record of a stage and kind counts."""
    found = [r for r in records if r["stage"] == stage and r["kind"] == kind]
    return found[-1] if found else None


def stage_word(stage: str) -> str:
    """A stage's title within a sentence."""
    return STAGE_TITLES[stage].lower().replace("qat", "QAT")


def number(value: Any) -> float | None:
    """The value if it is a number (a bool is none)."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def overall(record: Record | None, head: str) -> dict[str, float]:
    """Metrics `HEAD.mota`, `HEAD.idf1`, ... by their last names; `head`: a protocol, or PROTOCOL.SEQUENCE."""
    metrics = record["metrics"] if record else {}
    found = {m: number(metrics.get(f"{head}.{m}")) for m in METRICS}
    return {m: value for m, value in found.items() if value is not None}


def scores(records: Iterable[Record], stages: Iterable[str], head: str, kind: str = "accuracy") -> dict[str, Any]:
    """Stage → `overall` of its last record, of those that have one."""
    records = list(records)
    return {s: found for s in stages if (found := overall(last(records, s, kind), head))}


def medians(metrics: Mapping[str, Any], head: str) -> dict[str, float]:
    """Median milliseconds of the parts of `head` (`base`, `qim`, `step`), in recorded order."""
    parts = {tuple(key.split(".")): value for key, value in metrics.items() if number(value) is not None}
    return {key[1]: float(v) for key, v in parts.items() if len(key) == 3 and (key[0], key[2]) == (head, "p50_ms")}


def signed(text: str) -> str:
    """With a true minus sign."""
    return text.replace("-", "−")


def percent(value: float, decimals: int = 1) -> str:
    """A fraction as percent; "–" for NaN."""
    return "–" if math.isnan(value) else signed(f"{100 * value:.{decimals}f}")


def decibels(value: float) -> str:
    """SQNR; infinite where nothing was lost, NaN where there is no value."""
    return "–" if math.isnan(value) else "exact" if math.isinf(value) else signed(f"{value:.1f}")


def plain(value: Any) -> str:
    """Any metric as short text: thousands separated, floats to four digits."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, int):
        return signed(f"{value:,}").replace(",", "\u202f")
    if isinstance(value, float):
        return signed(f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}").replace(",", "\u202f")
    return "" if value is None else str(value)


def words(name: str) -> str:
    """A metric's name as a heading: `p90_ms` → `p90, ms`; `memory.total_mb` → `memory: total, MB`."""
    return ", ".join(filter(None, _titled(name)))


def value_line(name: str, value: Any) -> str:
    """A metric by its title, with its value and unit: `median: 6.872 ms`."""
    title, unit = _titled(name)
    return f"{title}: {' '.join(filter(None, (value_text(name, value), unit)))}"


def value_text(name: str, value: Any) -> str:
    """`plain`; a share as percent."""
    share = name.endswith("share") or name.rpartition(".")[2].startswith("fraction")
    return f"{percent(value)} %" if share and number(value) is not None else plain(value)


def _titled(name: str) -> tuple[str, str]:
    """Title, and unit where the name ends in one."""
    head, _, last_name = name.rpartition(".")
    stem, _, unit = last_name.rpartition("_")
    if not stem or unit not in _UNITS:
        stem, unit = last_name, ""
    title = TITLES.get(last_name) or TITLES.get(stem) or stem.replace("_", " ")
    return f"{words(head)}: {title}" if head else title, _UNITS.get(unit, "")
