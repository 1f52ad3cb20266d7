"""The integer share is counted on what ONNX Runtime runs, and counts right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from motrlab.deploy.calops import count_operations
from motrlab.deploy.integer import integer_share


@pytest.mark.parametrize("graph", ["base", "qim"])
def test_rewritten_files_run_on_integer_kernels(graph, fixed_point) -> None:
    share = integer_share(fixed_point.folder / f"{graph}.ort.onnx")
    assert share.macs_share >= 0.95, share.float_names
    assert share.nodes_share >= 0.9, share.float_names
    assert {p.operator for p in share.products} >= {"QLinearConv", "MatMulIntegerToFloat", "QLinearMatMul"}


@pytest.mark.parametrize("graph", ["base", "qim"])
def test_float_files_run_on_none(graph, fixed_point) -> None:
    share = integer_share(fixed_point.folder / "float" / f"{graph}.onnx")
    assert (share.macs_share, share.nodes_share) == (0, 0)
    assert len(share.float_names) == len(share.products)
    # The same products, whether float or integer; float kernels count the channels that they pad to blocks of 16.
    integers = integer_share(fixed_point.folder / f"{graph}.ort.onnx")
    assert len(share.products) == len(integers.products)
    assert integers.macs <= share.macs < 1.5 * integers.macs


def test_as_many_macs_as_calops_count(fixed_point) -> None:
    model = fixed_point.config.model
    counted = count_operations(fixed_point.model, model)
    # Class heads of the auxiliary outputs are not exported.
    auxiliary = (model.decoder_layers - 1) * model.num_slots * model.d_model
    constant = counted["base"].macs - auxiliary - integer_share(fixed_point.folder / "base.ort.onnx").macs
    # The overlap bias of slot kinds is a product of constants, folded at export.
    assert constant == model.decoder_layers * model.num_heads * (model.num_slots * 2 * 2 + model.num_slots**2 * 2)
    assert counted["qim"].macs == integer_share(fixed_point.folder / "qim.ort.onnx").macs


def test_macs_of_known_products(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="grouped", pads=[1, 1, 1, 1], strides=[2, 2], group=2),
        helper.make_node("Reshape", ["c", "shape"], ["rows"]),
        helper.make_node("MatMul", ["rows", "m"], ["y"], name="product"),
    ]
    rng = np.random.default_rng(0)
    constants = [
        numpy_helper.from_array(rng.normal(size=(4, 2, 3, 3)).astype(np.float32), "w"),
        numpy_helper.from_array(rng.normal(size=(2, 12, 5)).astype(np.float32), "m"),
        numpy_helper.from_array(np.array([2, 2, 12]), "shape"),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 2, 5])
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], [y], constants), opset_imports=[helper.make_opsetid("", 21)], ir_version=10
    )
    onnx.save(model, tmp_path / "model.onnx")
    share = integer_share(tmp_path / "model.onnx")
    assert sorted(p.macs for p in share.products) == sorted([4 * 3 * 4 * 2 * 9, 2 * 2 * 5 * 12])
    assert share.macs_share == 0
