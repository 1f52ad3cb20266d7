"""What is quantised, and how: for notebooks and reports."""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import GraphModule

from motrlab.quantization.fake_quantize import FakeQuantize
from motrlab.quantization.quantized import QuantizedMotr


@dataclass(frozen=True)
class ActivationScale:
    """An int8 activation: `tensor` is its node in the captured graph; its range is ±`range` in real units."""

    graph: str
    tensor: str
    scale: float

    @property
    def range(self) -> float:
        """What the largest positive integer stands for."""
        return 127 * self.scale


def activation_scales(quantised: QuantizedMotr) -> list[ActivationScale]:
    """Every quantised activation in graph order, base graph first; shared quantisers are listed once."""
    found: dict[tuple[str, str], ActivationScale] = {}
    for name in ("base", "qim"):
        graph = getattr(quantised, name)
        assert isinstance(graph, GraphModule)
        for node in graph.graph.nodes:
            module = graph.get_submodule(str(node.target)) if node.op == "call_module" else None
            if isinstance(module, FakeQuantize):
                scale = float(module.calculate_qparams()[0])
                found.setdefault((name, str(node.target)), ActivationScale(name, node.args[0].name, scale))
    return list(found.values())
