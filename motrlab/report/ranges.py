"""Section: what each range is, and where it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from motrlab.quantization.analysis.layers import QuantisedTensor, read_table
from motrlab.report.blocks import Cell, Section, Source, table
from motrlab.report.values import signed

_INTRO = (
    "A quantised value is an integer times the step of its grid. “from” names the observer that chose the step; "
    "“fixed”: the integer function that makes the tensor is defined on that grid. Tensors of one group share a grid, "
    "because they are added or joined; it reaches as far as the widest of them needs. A weight has a step for every "
    "output channel: shown is the largest."
)
_COLUMNS: dict[str, Callable[[QuantisedTensor], str | Cell]] = {
    "graph": lambda t: t.graph,
    "kind": lambda t: t.kind,
    "operator": lambda t: t.operator,
    "from": lambda t: t.observer,
    "rule": lambda t: t.rule or "–",
    "bits": lambda t: str(t.bits),
    "lowest": lambda t: signed(f"{t.lowest * t.scale:.4g}"),
    "highest": lambda t: signed(f"{t.reach:.4g}"),
    "step": lambda t: f"{t.scale:.3g}",
    "group": lambda t: "–" if t.group is None else str(t.group),
}


def section(source: Source) -> Section:
    record = source.last("fixed_point", "layers")
    files, gone = source.files("the layer comparison", record)
    if "tensors.csv" not in files:
        return Section(missing=gone or ["the range of every tensor (notebook 05)"])
    tensors = read_table(files["tensors.csv"], QuantisedTensor)
    kinds = Counter(t.kind for t in tensors)
    groups = len({t.group for t in tensors} - {None})
    counted = f"{kinds['activation']} activations on {groups} grids, {kinds['weight']} weights, "
    counted += f"{kinds['function']} grids inside functions."
    listing = table(tensors, _COLUMNS, lambda t: t.tensor, corner="Tensor", num_texts=5)
    return Section([f"{_INTRO} {counted}", listing], gone)
