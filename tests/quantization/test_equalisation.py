"""Equalisation keeps what the model computes, levels the ranges, and finds every pair."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from motrlab.config import BackboneStage
from motrlab.config.scheme import Scheme
from motrlab.model.motr import Motr, MotrGraphs, build_motr, folded_copy
from motrlab.quantization.declare import declare
from motrlab.quantization.equalisation import equalisable, equalise, product
from tests.tiny import tiny

Inputs = tuple[torch.Tensor, ...]


def pairs(model: Motr) -> dict[str, str]:
    return {first[1]: second[1] for first, second in equalisable(declare(model, Scheme())).items()}


@torch.no_grad()
def test_the_function_stays_and_the_ranges_are_level(float_model: Motr, base_inputs: Inputs) -> None:
    model = copy.deepcopy(float_model)
    expand, project = model.qim.ffn.expand, model.qim.ffn.project
    expand.weight *= torch.logspace(-2, 2, len(expand.weight))[:, None, None, None]
    expand.bias.normal_(generator=torch.Generator().manual_seed(0))
    slots = torch.randn(2, model.config.d_model, 1, model.config.num_track, generator=torch.Generator().manual_seed(1))
    graphs = MotrGraphs(model)
    before = (*graphs.base(*base_inputs), graphs.qim(slots, slots.flip(3), base_inputs[2]))
    weights = {name: value.clone() for name, value in model.state_dict().items() if name.endswith("weight")}
    found = equalisable(declare(model, Scheme()))
    assert len(found) > 10
    equalise(model)
    after = (*graphs.base(*base_inputs), graphs.qim(slots, slots.flip(3), base_inputs[2]))
    for one, other in zip(before, after, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4)
    layers = [product(model, key) for key in {*found, *found.values()}]
    changed = {name for name, value in model.state_dict().items() if name in weights and not value.equal(weights[name])}
    assert changed == {name for name, value in model.named_parameters() if any(value is x.weight for x in layers)}
    rows, columns = expand.weight.abs().flatten(1).amax(1), project.weight.abs().flatten(2).amax((0, 2))
    torch.testing.assert_close(rows, columns, rtol=1e-4, atol=0)


def test_the_pairs(float_model: Motr) -> None:
    """Each FFN, both steps of each box head, the position code once; none where two read, or a sum or a norm does."""
    config, found = float_model.config, pairs(float_model)
    ffns = [f"{kind}.{i}.ffn" for kind in ("encoder", "decoder") for i in range(getattr(config, f"{kind}_layers"))]
    expected = {f"{path}.expand": f"{path}.project" for path in (*ffns, "ffn")} | {"branch1": "branch2"}
    expected["position.0"] = "position.2"
    for index in range(config.decoder_layers):
        head = f"box_heads.{index}"
        expected |= {f"{head}.hidden1": f"{head}.hidden2", f"{head}.hidden2": f"{head}.out"}
    backbone = {first: second for first, second in found.items() if first.startswith("backbone")}
    assert {first: found[first] for first in found if first not in backbone} == expected
    assert backbone["backbone.stem"] == "backbone.stages.0.0.layers.0"
    assert backbone["backbone.smooth"] == "input_projection"
    assert "backbone.stages.1.0.layers.0" not in backbone, "the lateral convolution reads it too"
    assert "backbone.stages.2.0.layers.0" not in backbone, "a sum reads it"


def inverted(activation: str) -> Motr:
    """Blocks of 1×1, depthwise and 1×1 convolutions."""
    model = replace(
        tiny().model,
        activation=activation,
        stages=tuple(BackboneStage(channels=16, blocks=1, stride=2, expansion=3, kernel=3) for _ in range(3)),
    )
    return folded_copy(build_motr(model, seed=1))


@torch.no_grad()
def test_depthwise_convolutions_are_levelled_on_both_sides() -> None:
    model = inverted("relu")
    block = model.base.backbone.stages[1][0].layers
    block[0][0].weight *= torch.logspace(-1, 1, len(block[0][0].weight))[:, None, None, None]
    image = torch.rand(1, 3, model.config.height, model.config.width, generator=torch.Generator().manual_seed(2)) - 0.5
    before = model.base.encode(image)
    assert pairs(model)["backbone.stages.1.0.layers.0"] == "backbone.stages.1.0.layers.1"
    equalise(model, sweeps=20)  # three layers in a row: each sweep undoes a little of the one before
    torch.testing.assert_close(model.base.encode(image), before, rtol=1e-3, atol=1e-4)
    wide, depthwise, narrow = (layer[0].weight.abs() for layer in block)
    torch.testing.assert_close(wide.amax((1, 2, 3)), depthwise.amax((1, 2, 3)), rtol=0.02, atol=0)
    torch.testing.assert_close(depthwise.amax((1, 2, 3)), narrow.amax((0, 2, 3)), rtol=0.02, atol=0)


def test_relu6_is_left_alone() -> None:
    assert not [name for name in pairs(inverted("relu6")) if name.startswith("backbone")]


@torch.no_grad()
@pytest.mark.parametrize("side", [0, 1])
def test_a_dead_channel_stays_as_it_is(float_model: Motr, side: int) -> None:
    model = copy.deepcopy(float_model)
    ffn = model.qim.ffn
    (ffn.expand.weight[3] if side == 0 else ffn.project.weight[:, 3]).zero_()
    kept = [ffn.expand.weight[3].clone(), ffn.project.weight[:, 3].clone()]
    equalise(model)
    assert torch.equal(ffn.expand.weight[3], kept[0])
    assert torch.equal(ffn.project.weight[:, 3], kept[1])
    assert all(torch.isfinite(p).all() for p in model.parameters())


def test_products_are_found_in_both_graphs(float_model: Motr) -> None:
    assert product(float_model, ("base", "backbone.stem")) is float_model.base.backbone.stem[0]
    assert product(float_model, ("qim", "branch1")) is float_model.qim.branch1
    assert isinstance(product(float_model, ("base", "class_heads.0")), nn.Linear)
