"""What is quantised, and how: for notebooks, reports and whoever asks which rule put a quantiser where it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.fx import Node

from motrlab.quantization.fake_quantize import FakeQuantize, PerChannelFakeQuantize
from motrlab.quantization.prepare import Mark
from motrlab.quantization.quantized import QuantizedMotr


@dataclass(frozen=True)
class QuantisedTensor:
    """One quantised activation or weight.

    `tensor` is its node in the captured graph, `module` its quantiser there; `operator` and `path` are those that
    `rule` was looked up for. `scale`, of weights the largest over the channels, is one step in real units.
    """

    graph: str  # base | qim
    tensor: str
    module: str
    kind: str  # activation | weight
    operator: str
    path: str
    bits: int
    scale: float
    observer: str  # or `fixed`
    rule: str

    @property
    def reach(self) -> float:
        """What the largest positive integer stands for."""
        return (2 ** (self.bits - 1) - 1) * self.scale


def quantised_tensors(quantised: QuantizedMotr) -> list[QuantisedTensor]:
    """Every quantiser once, in graph order, base graph first."""
    marks = {(m.graph, m.tensor, m.user): m for m in reversed(quantised.marks)}
    found: dict[tuple[str, str], QuantisedTensor] = {}
    for name in ("base", "qim"):
        graph = getattr(quantised, name)
        for node in graph.graph.nodes:
            module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
            if isinstance(module, FakeQuantize | PerChannelFakeQuantize) and (name, str(node.target)) not in found:
                mark = _mark(marks, name, node)
                found[name, str(node.target)] = _describe(module, str(node.target), mark)
    return list(found.values())


def _mark(marks: dict[tuple[str, str, str], Mark], graph: str, node: Node) -> Mark:
    """The mark of a quantiser's node: by its tensor and one of its users, or by the tensor alone."""
    tensor = node.all_input_nodes[0].name
    for user in ("", *(u.name for u in node.users)):
        if (graph, tensor, user) in marks:
            return marks[graph, tensor, user]
    return next(m for (g, t, _), m in marks.items() if (g, t) == (graph, tensor))


def _describe(module: FakeQuantize | PerChannelFakeQuantize, name: str, mark: Mark) -> QuantisedTensor:
    weight = isinstance(module, PerChannelFakeQuantize)
    observer = "fixed" if not weight and module.fixed_scale is not None else mark.rule.observer
    return QuantisedTensor(
        graph=mark.graph,
        tensor=mark.tensor,
        module=name,
        kind="weight" if weight else "activation",
        operator=mark.operator,
        path=mark.path,
        bits=(module.quant_max + 1).bit_length(),
        scale=float(module.scale.max()),
        observer=("per channel" if module.per_channel else "per tensor") if weight else observer,
        rule=mark.rule.label,
    )


def listing_table(tensors: Sequence[QuantisedTensor]) -> str:
    """One line a tensor: graph, tensor, operator, module path, bits, scale, observer, rule."""
    header = ("graph", "tensor", "operator", "path", "bits", "scale", "observer", "rule")
    rows: list[Sequence[Any]] = [header]
    rows += [(t.graph, t.tensor, t.operator, t.path, t.bits, f"{t.scale:.3g}", t.observer, t.rule) for t in tensors]
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(header))]
    return "\n".join("  ".join(str(v).ljust(w) for v, w in zip(row, widths, strict=True)).rstrip() for row in rows)
