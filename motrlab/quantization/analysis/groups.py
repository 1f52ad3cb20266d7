"""Groups of quantised operators that belong together, and a model in which each can be turned on and off.

A group is a module of the network: a backbone stage, the self-attentions of a decoder layer, the class heads. It is on
when its products are int8, off when they are float, exactly as a rule with precision `float` would leave them.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from motrlab.config.scheme import PRODUCTS, TENSORS, Rule
from motrlab.quantization.analysis.taps import GRAPHS
from motrlab.quantization.calibration import Step
from motrlab.quantization.fake_quantize import BiasRounding, FakeQuantize, PerChannelFakeQuantize
from motrlab.quantization.graph_edits import VIEWS, pointwise_conv2d
from motrlab.quantization.listing import quantised_tensors
from motrlab.quantization.prepare import module_path
from motrlab.quantization.quantized import QuantizedMotr

aten = torch.ops.aten
INPUTS = "inputs"
_OPERATOR = {
    aten.conv2d.default: "conv",
    pointwise_conv2d: "conv",
    aten.linear.default: "linear",
    aten.matmul.default: "matmul",
    aten.grid_sampler.default: "sampling",
}
_TENSOR_GROUPS = {"input": INPUTS, "sampling": "sampling grids", "norm": "norms"}
_DECODER_PARTS = {"cross_attention": "cross-attention", "ffn": "feed-forward"}


def group_of(graph: str, operator: str, path: str) -> str:
    """The group of an operator: its graph, kind and module path as in `listing.QuantisedTensor`."""
    if operator in _TENSOR_GROUPS:
        return _TENSOR_GROUPS[operator]
    prefix = _prefix(graph, path).split(".")
    if graph == "qim":
        return "QIM attention" if prefix[0] == "attention" else "QIM feed-forward"
    if prefix[0] == "decoder" and len(prefix) == 3:
        return f"decoder {prefix[1]} {_DECODER_PARTS.get(prefix[2], 'self-attention')}"
    if prefix[0] == "backbone" and len(prefix) > 1:
        part = {"stem": "stem", "stages": f"stage {prefix[-1]}"}.get(prefix[1], "upsampling")
        return f"backbone {part}"
    return {"position": "position code"}.get(prefix[0], " ".join(prefix).replace("_", " "))


def _prefix(graph: str, path: str) -> str:
    """The part of a module path that a group has in common."""
    parts = path.split(".")
    depth = {"backbone": 3 if parts[1:2] == ["stages"] else 2, "encoder": 2, "decoder": 3}.get(parts[0], 1)
    return ".".join(parts[:depth])


@dataclass(frozen=True)
class Group:
    """`tensors`: (graph, module name) of the quantisers that were put in for it; every quantiser has one group."""

    name: str
    tensors: frozenset[tuple[str, str]]
    operators: frozenset[tuple[str, str, str]]  # graph, operator, path


def groups_of(quantised: QuantizedMotr) -> dict[str, Group]:
    """All groups by name, in graph order, base graph first; together they hold every quantiser exactly once."""
    tensors: dict[str, set[tuple[str, str]]] = {}
    for tensor in quantised_tensors(quantised):
        name = group_of(tensor.graph, tensor.operator, tensor.path)
        tensors.setdefault(name, set()).add((tensor.graph, tensor.module))
    operators: dict[str, set[tuple[str, str, str]]] = {}
    for graph, operator, path, _ in quantised.decisions:
        operators.setdefault(group_of(graph, operator, path), set()).add((graph, operator, path))
    return {name: Group(name, frozenset(tensors.get(name, ())), frozenset(found)) for name, found in operators.items()}


def float_rules(group: Group) -> list[Rule]:
    """Rules that leave the operators of a group in float."""
    name = f"{group.name} in float"
    kinds = {operator for _, operator, _ in group.operators}
    if kinds <= set(TENSORS):
        return [Rule(name=name, operator=kind, precision="float") for kind in sorted(kinds)]
    found: dict[tuple[str, str], None] = {}
    for graph, _, path in sorted(group.operators):
        prefix = _prefix(graph, path)
        found[graph, prefix if path == prefix else f"{prefix}.*"] = None
    return [Rule(name=name, graph=graph, path=path, precision="float") for graph, path in found]


class GroupSwitches:
    """A copy of a calibrated model in which each group can be on or off.

    Two neighbours share the quantiser between them. In the copy there is one for each reader, so that a group is off
    without its neighbour losing its int8 input. The quantisers keep their scales, and those of a producer are also
    taken for its consumers, as is right where both have the same observer.
    """

    def __init__(self, quantised: QuantizedMotr) -> None:
        self.groups = groups_of(quantised)
        self._decided = {(graph, operator, path) for graph, operator, path, _ in quantised.decisions}
        produced = {(t.graph, t.module): group_of(t.graph, t.operator, t.path) for t in quantised_tensors(quantised)}
        outputs = {(mark.graph, mark.tensor) for mark in quantised.marks if not mark.user}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, of copying an exported graph
            self.model = copy.deepcopy(quantised)
        self._needed: dict[tuple[str, str], frozenset[str]] = {}  # quantiser → groups that it is on for
        for graph in GRAPHS:
            for node in list(getattr(self.model, graph).graph.nodes):
                self._split(graph, node, produced, outputs)
            getattr(self.model, graph).recompile()
        self._edits = [found for graph in GRAPHS for found in self._runtime_edits(graph)]
        self.model.mode("evaluate")

    def _split(
        self, graph: str, node: Node, produced: dict[tuple[str, str], str], outputs: set[tuple[str, str]]
    ) -> None:
        """Give each reader of a quantiser's node a quantiser of its own."""
        graph_module = getattr(self.model, graph)
        module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(module, FakeQuantize | PerChannelFakeQuantize):
            return
        key = (graph, str(node.target))
        is_output = (graph, node.all_input_nodes[0].name) in outputs
        producer = frozenset({produced[key]} if is_output else ())
        readers: dict[frozenset[str], list[Node]] = {}
        for user in node.users:
            readers.setdefault(producer | self._readers(graph, node, user), []).append(user)
        first, *others = readers.items()
        self._needed[key] = self._needed.get(key, frozenset()) | first[0]
        for number, (needed, users) in enumerate(others):
            name = f"{node.target}_reader_{number}"
            graph_module.add_submodule(name, copy.deepcopy(module))
            self._needed[graph, name] = needed
            with graph_module.graph.inserting_after(node):
                own = graph_module.graph.call_module(name, (node.all_input_nodes[0],))
            own.meta = dict(node.meta)
            for user in users:
                user.replace_input_with(node, own)

    def _readers(self, graph: str, source: Node, user: Node) -> frozenset[str]:
        """Groups of the operators that take `source` as a quantised operand, looking through views."""
        if user.target in VIEWS:
            return frozenset().union(*(self._readers(graph, user, following) for following in user.users))
        if _operator(getattr(self.model, graph), user) == "sampling" and user.args[1] is not source:
            return frozenset()
        return self._group(graph, user)

    def _group(self, graph: str, node: Node) -> frozenset[str]:
        """The group of a quantised operator; empty for other nodes."""
        operator, path = _operator(getattr(self.model, graph), node), module_path(node)
        decided = (graph, operator, path) in self._decided
        return frozenset({group_of(graph, operator, path)} if decided else ())

    def _runtime_edits(self, graph: str) -> Iterator[tuple[Any, list[tuple[str, str]]]]:
        """What `graph_edits` put in, each with the quantisers of its product's operands; none where it has no product.

        A product is summed in integers, and its bias rounded, when both operands are quantised.
        """
        graph_module = getattr(self.model, graph)
        for node in graph_module.graph.nodes:
            module = graph_module.get_submodule(str(node.target)) if node.op == "call_module" else None
            if hasattr(module, "set_mode") and not isinstance(module, FakeQuantize | PerChannelFakeQuantize):
                product = next(iter(node.users)) if isinstance(module, BiasRounding) else node
                is_product = _operator(graph_module, product) in PRODUCTS
                yield module, [self._quantiser(graph, n) for n in product.args[:2]] if is_product else []

    def _quantiser(self, graph: str, node: Node) -> tuple[str, str]:
        """The quantiser that an operand comes from, looking through views."""
        while node.target in VIEWS:
            node = node.all_input_nodes[0]
        return graph, str(node.target)

    @contextmanager
    def on(self, names: Collection[str]) -> Iterator[QuantizedMotr]:
        """The model with the groups `names` on and all others off; afterwards all are on.

        Without any it is the float model as evaluation computes it: reductions in double (`graph_edits`).
        """
        unknown = set(names) - self.groups.keys()
        assert not unknown, unknown
        self.model.mode("float")
        for (graph, module), needed in self._needed.items():
            quantising = not needed.isdisjoint(names)
            getattr(self.model, graph).get_submodule(module).set_mode(observing=False, quantising=quantising)
        for edit, operands in self._edits:
            quantising = not any(self._needed[operand].isdisjoint(names) for operand in operands)
            edit.set_mode(observing=False, quantising=quantising)
            edit.quantising = quantising  # it may ask a quantiser that now serves another reader
        try:
            yield self.model
        finally:
            self.model.mode("evaluate")

    def macs(self, step: Step) -> dict[str, int]:
        """Multiply-accumulates of one frame by group, 0 for groups without products; "" for what is float anyway."""
        macs = dict.fromkeys((*self.groups, ""), 0)
        for graph, tensors in zip(GRAPHS, (step.base, step.qim), strict=True):
            for (operator, path), number in product_macs(getattr(self.model, graph), tensors).items():
                decided = (graph, operator, path) in self._decided
                macs[group_of(graph, operator, path) if decided else ""] += number
        return macs


def product_macs(graph_module: GraphModule, inputs: Sequence[Tensor]) -> dict[tuple[str, str], int]:
    """Multiply-accumulates of the products of a captured or prepared graph by (operator, module path)."""
    counter = _MacCounter(graph_module)
    with torch.no_grad():
        counter.run(*inputs)
    return counter.macs


def _operator(graph_module: Any, node: Node) -> str:
    """`conv`, `linear`, `matmul` or `sampling`, as rules have it; "" for other nodes."""
    target: Any = node.target
    if node.op == "call_module":  # an operator that `graph_edits` has replaced
        target = getattr(graph_module.get_submodule(str(target)), "operator", None)
    return _OPERATOR.get(target, "")


class _MacCounter(Interpreter):
    def __init__(self, graph_module: GraphModule) -> None:
        super().__init__(graph_module)
        self.macs: dict[tuple[str, str], int] = {}

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        operator = _operator(self.module, n)
        if operator in PRODUCTS:
            arguments: Any = n.args
            first, second = (self.env[argument] for argument in arguments[:2])
            # Every value of the result is a sum of so many products.
            terms = first.shape[-1] if operator == "matmul" else second[0].numel()
            key = (operator, module_path(n))
            self.macs[key] = self.macs.get(key, 0) + result.numel() * terms
        return result


def scheme_rules(groups: Iterable[Group]) -> tuple[Rule, ...]:
    """`float_rules` of several groups in order."""
    return tuple(rule for group in groups for rule in float_rules(group))
