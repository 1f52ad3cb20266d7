"""The integer share is counted on what ONNX Runtime runs, and counts right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from motrlab.deploy.calops import count_operations
from motrlab.deploy.kernel_layers import IntegerShare, integer_share

GRAPHS = ("base", "qim")


@pytest.fixture(scope="module")
def shares(fixed_point) -> dict[str, IntegerShare]:
    """Of the integer graphs and the float ones (`float/base`, `float/qim`)."""
    files = {graph: fixed_point.artifact / f"{graph}.ort.onnx" for graph in GRAPHS}
    files |= {f"float/{graph}": fixed_point.floats / f"{graph}.onnx" for graph in GRAPHS}
    return {name: integer_share(path) for name, path in files.items()}


@pytest.mark.parametrize("graph", GRAPHS)
def test_every_product_runs_on_integer_kernels(graph: str, shares: dict[str, IntegerShare]) -> None:
    share = shares[graph]
    assert share.num_float == 0
    assert (share.macs_share, share.nodes_share) == (1, 1)
    operators = {name for name, _ in share.products}
    assert operators == {"QLinearConv", "MatMulIntegerToFloat"} | ({"QGemm"} if graph == "base" else set())


@pytest.mark.parametrize("graph", GRAPHS)
def test_whatever_touches_float_is_exact(graph: str, shares: dict[str, IntegerShare]) -> None:
    """ONNX Runtime has fused nothing into an operator whose last bit nobody vouches for."""
    share = shares[graph]
    assert share.inexact == ()
    assert 0 < share.float_share < 1
    assert sum(share.float_nodes.values()) == round(share.float_share * share.num_nodes)
    assert "QLinearConv" not in share.float_nodes


@pytest.mark.parametrize("graph", GRAPHS)
def test_float_files_run_on_none(graph: str, shares: dict[str, IntegerShare]) -> None:
    share, integers = shares[f"float/{graph}"], shares[graph]
    assert (share.macs_share, share.nodes_share) == (0, 0)
    assert share.num_float == len(share.products)
    assert share.inexact  # softmax, layer norm, sine, ...
    # The same sums, but that float kernels count the channels that they pad to blocks of 16, and integer ones what
    # `test_as_many_macs_as_calops_count` names.
    assert 0.7 * integers.macs < share.macs < 1.5 * integers.macs


@pytest.mark.parametrize("graph", GRAPHS)
def test_as_many_macs_as_calops_count(graph: str, shares: dict[str, IntegerShare], fixed_point) -> None:
    """And those that only integer kernels have, less those that are not exported."""
    model = fixed_point.config.model
    counted = count_operations(fixed_point.model, model)[graph].macs
    tokens = {"base": [model.num_track, model.num_slots] * model.decoder_layers, "qim": [model.num_track]}
    # The sum of every row of shares is a product with a column.
    ones = sum(n * model.num_heads * n for n in tokens[graph])
    if graph == "base":
        pixels = (model.height // 2) * (model.width // 2)
        ones += pixels * model.stem_channels * (72 - 27)  # the stem sees four pixels as one, half of its weights are 0
        counted -= (model.decoder_layers - 1) * model.num_slots * model.d_model  # class heads of auxiliary outputs
        # The overlap bias of slot kinds is a product of constants.
        counted -= model.decoder_layers * model.num_heads * (model.num_slots * 2 * 2 + model.num_slots**2 * 2)
    assert shares[graph].macs == counted + ones


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
    assert sorted(macs for _, macs in share.products) == sorted([4 * 3 * 4 * 2 * 9, 2 * 2 * 5 * 12])
    assert share.macs_share == 0
    assert share.inexact
    assert share.float_share == 1
