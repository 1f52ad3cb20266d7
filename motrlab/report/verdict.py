"""The verdict: what the fixed-point tracker costs, against the budgets that the config declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from motrlab.config import BudgetConfig
from motrlab.evaluation.protocols import PROTOCOLS
from motrlab.report import latency
from motrlab.report.blocks import Listing, Section, Source
from motrlab.report.pages import Card
from motrlab.report.values import METRIC_NAMES, number, overall, percent, plain, signed

_REFERENCES = {"float": "float", "float_extra": "float trained longer"}
_NOTE = (
    "Lost points are counted against the better of two float models: float, and float trained for as many further "
    "steps as QAT. Test halves, protocol motchallenge."
)


@dataclass(frozen=True)
class Verdict:
    """One budget: `value` is what was measured, in `unit`, None where nothing was; `told` says of what."""

    name: str
    unit: str
    budget: float
    value: float | None
    told: str

    @property
    def met(self) -> bool | None:
        return None if self.value is None else self.value <= self.budget

    @property
    def margin(self) -> str:
        """By how much: `0.58 points to spare`, `0.30 points too much`."""
        if self.value is None:
            return "not measured"
        words = "to spare" if self.met else "too much"
        return f"{_text(abs(self.budget - self.value))} {self.unit} {words}"


def verdicts(source: Source) -> list[Verdict]:
    """One for each declared budget, in the order of the config."""
    budgets, found = source.run.config.budgets, []
    for metric, points in (("mota", budgets.mota_points), ("idf1", budgets.idf1_points)):
        if points is not None:
            found.append(Verdict(f"{METRIC_NAMES[metric]} lost", "points", points, *_lost(source, metric)))
    if budgets.frame_ms is not None:
        name = f"A frame on {budgets.target}"
        found.append(Verdict(name, "ms", budgets.frame_ms, *_frame_ms(source, budgets.target)))
    if budgets.megabytes is not None:
        found.append(Verdict("Both graphs", "MB", budgets.megabytes, *_megabytes(source)))
    return found


def _lost(source: Source, metric: str) -> tuple[float | None, str]:
    """Points against the better of the float models, and both distances in words."""
    scores = {s: overall(source.last(s, "accuracy"), PROTOCOLS[0]).get(metric) for s in (*_REFERENCES, "fixed_point")}
    own, known = scores.pop("fixed_point"), {s: v for s, v in scores.items() if v is not None}
    if own is None or not known:
        missing = "fixed_point" if own is None else "float"
        return None, f"`python -m motrlab evaluate --run {source.run.name} --stage {missing}`"
    told = ", ".join(f"{_REFERENCES[s]} {percent(v, 2)} ({100 * (own - v):+.2f})" for s, v in known.items())
    return round(100 * (max(known.values()) - own), 2), signed(f"{percent(own, 2)}; {told}")


def _frame_ms(source: Source, target: str) -> tuple[float | None, str]:
    """Measured before predicted; of records without a `Performance`, the closed loop's median."""
    for result in latency.results(source):
        if result.values["target"] == target:
            frame, where = result.values["frame"], result.record["hardware"]["cpu"] if result.measured else "on paper"
            return float(frame["latency_ms"]), f"{result.values['kind']}, {where}; {frame['fps']:.0f} frames a second"
    record = source.last("perf", "latency")
    total = number(record["metrics"].get("step.total.p50_ms")) if record else None
    if record and total is not None and record["metrics"].get("target", BudgetConfig.target) == target:
        return total, f"measured, {record['hardware']['cpu']}"
    return None, f"`python -m motrlab perf --run {source.run.name} --target {target}`"


def _megabytes(source: Source) -> tuple[float | None, str]:
    metrics: Mapping[str, Any] = source.metrics("fixed_point", "integer")
    sizes = [number(metrics.get(f"{graph}.size_mb")) for graph in ("base", "qim")]
    if None in sizes:
        return None, "notebook 05"
    floats = [number(metrics.get(f"{graph}.fp32_size_mb")) for graph in ("base", "qim")]
    told = "" if None in floats else f"; fp32 {plain(sum(f for f in floats if f))}"
    return sum(s for s in sizes if s), f"base {plain(sizes[0])}, QIM {plain(sizes[1])}{told}"


def headline(found: Sequence[Verdict]) -> str:
    """All in a sentence; "" without budgets."""
    if not found:
        return ""
    missed, unknown = [v for v in found if v.met is False], [v for v in found if v.met is None]
    if not missed and not unknown:
        return f"All {len(found)} budgets are met."
    told = [f"{len(missed)} of {len(found)} budgets missed: {_joined(missed)}"] if missed else []
    met = len(found) - len(missed) - len(unknown)
    told += [] if missed else [f"{met} of {len(found)} budgets met"]
    told += [f"not measured: {', '.join(v.name for v in unknown)}"] if unknown else []
    text = "; ".join(told)
    return f"{text}."


def _joined(missed: Sequence[Verdict]) -> str:
    return ", ".join(f"{v.name} ({v.margin})" for v in missed)


def cards(found: Sequence[Verdict]) -> list[Card]:
    """A card for each budget."""
    tones = {True: "better", False: "worse", None: "even"}
    words = {True: "met", False: "missed", None: "unknown"}
    return [
        {
            "label": v.name,
            "value": f"{_text(v.value)} {v.unit}" if v.value is not None else "–",
            "note": f"budget {_text(v.budget)} {v.unit}: {words[v.met]}, {v.margin}",
            "tone": tones[v.met],
        }
        for v in found
    ]


def section(source: Source) -> Section:
    """What each value is of."""
    found = verdicts(source)
    if not found:
        return Section(["This run declares no budgets: `--set budgets.mota_points=1` does."])
    told = [v.told if v.value is not None else f"not measured: {v.told}" for v in found]
    return Section([Listing(told, terms=[v.name for v in found]), _NOTE])


def _text(value: float) -> str:
    """Two decimals where that says something."""
    return signed(f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}")
