"""Exact means: torch, ONNX Runtime at every optimisation level, and plain operators give the same bits.

Compared on frames of the closed loop, with tracks, of a network whose weights are random.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from motrlab.config.scheme import Rule
from motrlab.data.preprocess import input_bytes
from motrlab.deploy.kernel_graph import kernel_graphs
from motrlab.deploy.kernels import exact_form, onnxruntime_session
from motrlab.deploy.plain import plain_form
from motrlab.deploy.runtime import OUTPUTS, load_networks
from motrlab.errors import UserError
from motrlab.quantization.quantized import QuantizedMotr
from tests.deploy.conftest import NETWORKS, FixedPoint, make_fixed_point, ranged

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL")
Arrays = dict[str, np.ndarray]


def base_feed(step: Any) -> Arrays:
    return {
        "image": input_bytes(step.frame.numpy()),
        "track_query": step.before.query.numpy(),
        "track_mask": step.before.mask.numpy(),
        "track_reference": step.before.reference.numpy(),
    }


def qim_feed(step: Any) -> Arrays:
    return dict(zip(("embedding", "query", "mask"), (x.contiguous().numpy() for x in step.qim_inputs), strict=True))


@cache
@torch.no_grad()
def expected(fixed_point: FixedPoint) -> list[tuple[Arrays, list[np.ndarray], Arrays, list[np.ndarray]]]:
    """For every frame the inputs of both graphs and what torch makes of them."""
    graphs, found = fixed_point.quantised.graphs, []
    for step in fixed_point.steps:
        logits, boxes, embedding = graphs.base(*step.base_inputs)
        outputs = [logits[-1].numpy(), boxes[-1].numpy(), embedding.numpy()]
        found.append((base_feed(step), outputs, qim_feed(step), [graphs.qim(*step.qim_inputs).numpy()]))
    return found


def session(model: onnx.ModelProto, level: str, threads: int = 1, weight_bits: int = 8) -> Any:
    options = {"graph_optimization_level": getattr(ort.GraphOptimizationLevel, level)}
    return onnxruntime_session(exact_form(model, weight_bits), threads, **options)


def assert_equal(fixed_point: FixedPoint, base: Any, qim: Any) -> None:
    """`base`, `qim`: inputs by name → outputs in order."""
    tracked = 0
    for base_inputs, base_outputs, qim_inputs, qim_outputs in expected(fixed_point):
        for found, wanted in ((base(base_inputs), base_outputs), (qim(qim_inputs), qim_outputs)):
            for one, other in zip(found, wanted, strict=True):
                np.testing.assert_array_equal(one, other)
        tracked += int(qim_inputs["mask"].sum())
    assert tracked > 0


def assert_sessions_equal(fixed_point: FixedPoint, level: str, threads: int = 1, *, plain: bool = False) -> None:
    graphs = [fixed_point.graphs[f"{name}.ort.onnx"] for name in ("base", "qim")]
    bits = fixed_point.config.scheme.weight_bits
    base, qim = (session(plain_form(g) if plain else g, level, threads, bits) for g in graphs)
    assert_equal(fixed_point, lambda x: base.run(OUTPUTS["base"], x), lambda x: qim.run(OUTPUTS["qim"], x))


@pytest.mark.parametrize("level", LEVELS)
def test_onnxruntime_equals_torch_at_every_level(fixed_point: FixedPoint, level: str) -> None:
    assert_sessions_equal(fixed_point, level)


def test_two_threads_equal_one(fixed_point: FixedPoint) -> None:
    assert_sessions_equal(fixed_point, "ORT_ENABLE_ALL", 2)


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_plain_operators_equal_kernels(fixed_point: FixedPoint, level: str) -> None:
    assert_sessions_equal(fixed_point, level, plain=True)


def test_plain_operators_are_standard(fixed_point: FixedPoint) -> None:
    for name in ("base", "qim"):
        model = plain_form(fixed_point.graphs[f"{name}.ort.onnx"])
        assert {node.domain for node in model.graph.node} == {""}
        onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("threads", [1, 2])
def test_openvino_equals_torch(fixed_point: FixedPoint, threads: int) -> None:
    assert_equal(fixed_point, *load_networks(fixed_point.artifact, "ort.onnx", threads, "openvino"))


@pytest.mark.parametrize("name", NETWORKS)
def test_other_networks_and_schemes_are_exact_as_well(name: str, other: Callable[[str], FixedPoint]) -> None:
    found = other(name)
    assert_sessions_equal(found, "ORT_ENABLE_ALL")
    assert_sessions_equal(found, "ORT_ENABLE_ALL", plain=True)
    assert_equal(found, *load_networks(found.artifact, "ort.onnx", 1, "openvino"))


VARIANTS = ((1, 1), (2, 1), (1, 12), (2, 12))  # threads, frames side by side
SCRIPT = """
import sys, torch
from motrlab.quantization.quantized import QuantizedMotr
from tests.deploy.conftest import lively, small
from tests.deploy.test_kernel_graph import VARIANTS, torch_outputs
assert sys.argv[3] != "default" or torch.backends.cpu.get_cpu_capability() == "DEFAULT"
state, inputs = torch.load(sys.argv[1])
quantised = QuantizedMotr(lively(small()))
quantised.load_state_dict(state)
quantised.mode("evaluate")
torch.save([torch_outputs(quantised, inputs, *variant) for variant in VARIANTS], sys.argv[2])
"""


@torch.no_grad()
def torch_outputs(quantised: QuantizedMotr, inputs: Any, threads: int, batch: int) -> list[torch.Tensor]:
    """Of both graphs, for every frame."""
    found, before = [], torch.get_num_threads()
    torch.set_num_threads(threads)
    for frame in inputs:
        base, qim = (tuple(torch.cat([x] * batch) for x in given) for given in frame)
        logits, boxes, embedding = quantised.graphs.base(*base)
        found += [logits[-1], boxes[-1], embedding, quantised.graphs.qim(*qim)]
    torch.set_num_threads(before)
    return found


@pytest.mark.parametrize("capability", ["default", "avx2", ""])
def test_torch_gives_the_same_bits_with_every_instruction_set(
    capability: str, fixed_point: FixedPoint, tmp_path: Path
) -> None:
    """`ATEN_CPU_CAPABILITY` default, avx2 and the machine's own; one thread and two; batch 1 and 12."""
    inputs = [(step.base_inputs, step.qim_inputs) for step in fixed_point.steps[-3:]]
    assert all(mask.any() for _, (*_, mask) in inputs), "frames with tracks"
    given, told = tmp_path / "given.pt", tmp_path / "told.pt"
    torch.save((fixed_point.quantised.state_dict(), inputs), given)
    environment = os.environ | {"OMP_WAIT_POLICY": "passive"}  # two that spin beside other work take seconds a frame
    environment |= {"ATEN_CPU_CAPABILITY": capability} if capability else {}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, given, told, capability],
        env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = torch_outputs(fixed_point.quantised, inputs, 1, 1)
    for variant, outputs in zip(VARIANTS, torch.load(told), strict=True):
        assert len(outputs) == len(expected) == 4 * len(inputs)
        assert all(torch.equal(a.expand_as(b), b) for a, b in zip(expected, outputs, strict=True)), variant


REFUSED = {
    "a product in float": Rule(name="mine", path="decoder.0.ffn.expand", precision="float"),
    "a norm in int16": Rule(name="mine", path="encoder.0.norm2", precision="int16"),
    "an input in float": Rule(name="mine", operator="input", path="image", precision="float"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_kernels_lack_is_refused_by_name(name: str, fixed_point: FixedPoint) -> None:
    rule = REFUSED[name]
    quantised = ranged(fixed_point, rule)
    with pytest.raises(
        UserError, match=rf"{rule.path}: rule 'mine' asks for {rule.precision}, but integer kernels"
    ) as error:
        kernel_graphs(quantised)
    assert "\n" not in str(error.value)


def test_a_tap_is_called_after_its_tensor(fixed_point: FixedPoint) -> None:
    names = {out for node in fixed_point.graphs["base.ort.onnx"].graph.node for out in node.output}
    assert {
        "base/backbone.stages.0.0.layers.0",
        "base/encoder.0.norm1",
        "base/position.0",
        "base/position.0@1",
    } <= names


def test_more_than_514_keys_are_summed_in_parts(tmp_path: Path) -> None:
    """Σ E·v passes 2²⁴ at the extremes: float forms add parts as integers."""
    found = make_fixed_point(
        tmp_path, num_detect=560, num_track=40, slot_columns=20, anchor_grid=(20, 28), decoder_layers=1
    )
    plain = plain_form(found.graphs["base.ort.onnx"])
    assert (
        sum(node.op_type == "Cast" and node.attribute[0].i == onnx.TensorProto.INT32 for node in plain.graph.node) > 2
    )
    found = replace(found, steps=found.steps[:4])
    assert_sessions_equal(found, "ORT_ENABLE_ALL")
    assert_sessions_equal(found, "ORT_ENABLE_ALL", plain=True)
