"""Which tensors the integer form has, and which of them share a grid: found by running the model once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from scipy.cluster.hierarchy import DisjointSet
from torch import Tensor, nn

from motrlab.config import ModelConfig
from motrlab.config.checks import check
from motrlab.config.scheme import Scheme
from motrlab.errors import UserError
from motrlab.model.motr import Motr
from motrlab.quantization.grid_operations import GridOperations
from motrlab.quantization.grids import CONSTANT_SCALE
from motrlab.quantization.tensors import Key, TensorSpec, Value, grid_ends

_FIXED = {"image": 1 / 128, "position.sine": CONSTANT_SCALE}  # bytes; sines reach from -1 to 1


def example_inputs(config: ModelConfig) -> dict[str, tuple[Tensor, ...]]:
    """Inputs of one frame, of the right shapes for `base` and `qim`; the values are arbitrary."""
    channels, tracks = config.d_model, config.num_track
    rows = (tracks // config.slot_columns, config.slot_columns)
    image, state = torch.zeros(1, 3, config.height, config.width), torch.zeros(1, channels, *rows)
    mask, slots = torch.ones(1, 1, 1, tracks), torch.zeros(1, channels, 1, tracks)
    return {"base": (image, state, mask, torch.full((1, 4, *rows), 0.5)), "qim": (slots, slots.clone(), mask)}


def module_paths(model: Motr) -> dict[int, Key]:
    """id of every module → its graph and its path there."""
    parts = {"base": model.base, "qim": model.qim}
    return {id(module): (graph, path) for graph, part in parts.items() for path, module in part.named_modules()}


def declare(model: Motr, scheme: Scheme) -> dict[Key, TensorSpec]:
    """Every tensor of a folded model in the order in which it is computed, base graph first.

    Raises UserError where tensors that share a grid are asked for in different precisions or scales, and where two
    parts of the slots share a weight that is to have other scales for each.
    """
    net = _Declaring(model, scheme)
    inputs = example_inputs(model.config)
    with torch.no_grad():
        model.base(*inputs["base"], net=net)
        memory = net.last
        model.qim(*inputs["qim"], net=net)
    # What leaves one graph enters the other: the state passes between them in integers. But a query shares its grid in
    # the QIM with the branch that is added to it, which reaches further.
    net.grids.merge(memory, ("qim", "embedding"))
    net.grids.merge(net.last, ("base", "track_query"))
    return net.grouped()


class _Declaring(GridOperations):
    """Notes every tensor that is asked for."""

    def __init__(self, model: Motr, scheme: Scheme) -> None:
        super().__init__(module_paths(model), {}, None, scheme)
        self.found: dict[Key, TensorSpec] = {}
        self.grids: DisjointSet = DisjointSet()  # of tensors that share one
        self.last: Key = ("", "")
        self._numel: dict[Key, int] = {}

    def spec(
        self, module: nn.Module | str, operator: str, sources: Sequence[Value] = (), part: str = "", **facts: Any
    ) -> TensorSpec:
        key = self.key(module, part)
        if key not in self.found:
            self.found[key] = self._declared(key, operator, facts.get("ceiling"), unsigned=bool(facts.get("relu")))
            self.grids.add(key)
        for source in sources:
            if source.spec is not None:
                source.spec.readers.append(key)
        return self.found[key]

    def _declared(self, key: Key, operator: str, ceiling: float | None, *, unsigned: bool) -> TensorSpec:
        rule, whole = (self.scheme.find(key[0], operator, path) for path in (key[1], key[1].partition("/")[0]))
        where = f"quantisation rule {rule.label!r}: {key[0]} {key[1]}"
        told = f"{where} has the weights of the other part; set per_channel by the path without a part"
        check(rule.per_channel == whole.per_channel, told)
        low, high = grid_ends(rule.precision, self.scheme.levels, unsigned=unsigned)
        fixed = _FIXED.get(key[1], rule.scale)
        if rule.scale not in (None, fixed):
            raise UserError(f"{where} has the scale {fixed:.6g}, no other")
        if ceiling is not None and fixed is not None:  # an observed scale ends the grid there
            high = min(high, round(ceiling / fixed))
            check(high > 0, f"{where} ends at {ceiling:g}; give it a scale below that, not {fixed:g}")
        return TensorSpec(*key, operator, rule, 0, low, high, fixed, ceiling)

    def look(self, value: Value, steps: Tensor | None = None) -> None:
        assert value.spec is not None
        self._numel[value.spec.key] = value.data.numel()

    def output(self, x: Value) -> Tensor:
        assert x.spec is not None
        self.last = x.spec.key
        return super().output(x)

    def share(self, *tensors: TensorSpec | None) -> None:
        keys = [t.key for t in tensors if t is not None]
        for key in keys[1:]:
            self.grids.merge(keys[0], key)

    def grouped(self) -> dict[Key, TensorSpec]:
        """The tensors with the numbers of their groups."""
        groups: dict[Key, tuple[int, TensorSpec]] = {}  # number and first tensor, of those on grids if there is one
        result: dict[Key, TensorSpec] = {}
        for key, spec in self.found.items():
            root = self.grids[key]
            group, first = groups.setdefault(root, (len(groups), spec))
            result[key] = replace(spec, group=group, numel=self._numel.get(key, 0))
            if {first.rule.precision, spec.rule.precision} == {"int8", "int16"} or first.fixed != spec.fixed:
                facts = (
                    (s.graph, s.name, s.rule.label, s.rule.precision, s.fixed or "observed") for s in (first, spec)
                )
                told = " and ".join("{} {} ({!r}: {}, scale {})".format(*fact) for fact in facts)
                raise UserError(f"quantisation scheme: {told} share one grid; give them one precision and scale")
            if not first.quantised:
                groups[root] = group, spec
        return result
