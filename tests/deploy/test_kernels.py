"""Integer products are exact on any processor, also at the extreme values whose sums do not fit into int16."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from motrlab import doctor
from motrlab.deploy import kernels
from motrlab.deploy.integer import integer_share
from motrlab.deploy.rewrite import rewrite_for_onnxruntime
from motrlab.deploy.runtime import Network, load_onnxruntime, load_openvino
from motrlab.deploy.simplify import simplify
from motrlab.errors import UserError

Int64 = NDArray[np.int64]
Load = Callable[[Path, tuple[str, ...], int], Network]

TOP = 127  # the largest sum is this many steps of its output
SHAPES = {  # the operator that ONNX Runtime makes of it, a note → shapes of activations and weights
    "QLinearConv 3x3": ((1, 16, 9, 9), (32, 16, 3, 3)),
    "QLinearConv 1x1": ((1, 64, 5, 5), (32, 64, 1, 1)),
    "QLinearConv one channel": ((1, 64, 5, 5), (1, 64, 1, 1)),
    "QLinearConv depthwise": ((1, 32, 9, 9), (32, 1, 3, 3)),
    "QGemm": ((24, 64), (64, 32)),
    "QLinearMatMul": ((24, 64), (64, 32)),
    "MatMulIntegerToFloat": ((24, 64), (64, 32)),
}


def integers(shape: tuple[int, ...], low: int, high: int, seed: int, *, extreme: bool) -> Int64:
    """Uniform, or all near `high` but for a few at `low`."""
    rng = np.random.default_rng(seed)
    if not extreme:
        return rng.integers(low, high + 1, shape)
    return np.where(rng.random(shape) < 0.05, low, rng.integers(high - 7, high + 1, shape))


def exact(x: Int64, w: Int64) -> Int64:
    """What integers give: a matrix product, or a convolution that keeps the size."""
    if w.ndim == 2:
        return x @ w
    pad = w.shape[-1] // 2
    windows = sliding_window_view(np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad))), w.shape[2:], (2, 3))
    if w.shape[1] == 1:  # depthwise
        return np.einsum("nchwij,cij->nchw", windows, w[:, 0])
    return np.einsum("nchwij,ocij->nohw", windows, w)


class Graph:
    """A QDQ graph in the making, as the exporter writes them: int8, weights by channel."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def constant(self, name: str, value: object) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def input(self, name: str, value: Int64, zero_point: int) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape))
        return self.requantised(name, 1, zero_point)

    def output(self, name: str, shape: tuple[int, ...]) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))

    def requantised(self, name: str, step: float, zero_point: int = 0) -> str:
        grid = [self.constant(f"{name}_s", np.float32(step)), self.constant(f"{name}_z", np.int8(zero_point))]
        integer = self.node("QuantizeLinear", [name, *grid], f"{name}_q")
        return self.node("DequantizeLinear", [integer, *grid], f"{name}_d")

    def weights(self, name: str, value: Int64) -> str:
        axis = 0 if value.ndim == 4 else 1
        grid = [
            self.constant(f"{name}_s", np.ones(value.shape[axis], np.float32)),
            self.constant(f"{name}_z", np.zeros(value.shape[axis], np.int8)),
        ]
        return self.node(
            "DequantizeLinear", [self.constant(name, value.astype(np.int8)), *grid], f"{name}_d", axis=axis
        )

    def product(self, x: str, weights: str, w: Int64, name: str, *, bias: bool = False) -> str:
        if w.ndim == 4:
            groups = w.shape[0] if w.shape[1] == 1 else 1
            return self.node("Conv", [x, weights], name, group=groups, pads=[w.shape[-1] // 2] * 4)
        if not bias:
            return self.node("MatMul", [x, weights], name)
        constants = [
            self.constant("b", np.zeros(w.shape[1], np.int32)),
            self.constant("b_s", np.ones(w.shape[1], np.float32)),
        ]
        return self.node("Gemm", [x, weights, self.node("DequantizeLinear", constants, "b_d", axis=0)], name)

    def save(self, path: Path, *, rewritten: bool = True) -> Path:
        graph = helper.make_graph(self.nodes, "g", self.inputs, self.outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        onnx.save(simplify(model) if rewritten else model, path)
        if rewritten:
            rewrite_for_onnxruntime(path, path)
        return path


def step_of(total: Int64) -> float:
    return float(np.float32(np.abs(total).max() / TOP))


def assert_steps(found: NDArray[np.float32], total: Int64, step: float) -> None:
    """On the grid of `step`; a tie may be rounded either way. Saturation is off by tens of steps."""
    off = np.abs(found - total) / step
    assert off.max() < 0.5 + 1e-3, f"{off.max()} steps off"


@pytest.mark.parametrize("load", [load_onnxruntime, load_openvino])
@pytest.mark.parametrize("extreme", [True, False], ids=["extreme", "uniform"])
@pytest.mark.parametrize("zero_point", [-128, 0])
@pytest.mark.parametrize("operator", SHAPES)
def test_products_with_weights(operator: str, zero_point: int, extreme: bool, load: Load, tmp_path: Path) -> None:
    x_shape, w_shape = SHAPES[operator]
    x = integers(x_shape, -128 - zero_point, 127 - zero_point, 0, extreme=extreme)
    w = integers(w_shape, -127, 127, 1, extreme=extreme)
    total = exact(x, w)
    graph = Graph()
    output = graph.product(graph.input("x", x, zero_point), graph.weights("w", w), w, "y", bias=operator == "QGemm")
    if operator != "MatMulIntegerToFloat":
        output = graph.requantised(output, step_of(total))
    graph.output(output, total.shape)
    path = graph.save(tmp_path / "model.onnx", rewritten=load is load_onnxruntime)
    found = load(path, (output,), 1)({"x": x.astype(np.float32)})[0]
    if load is load_onnxruntime:
        assert [p.operator for p in integer_share(path).products] == [operator.split()[0]]
    if output == "y":
        np.testing.assert_array_equal(found, total)
    else:
        assert_steps(found, total, step_of(total))


@pytest.mark.parametrize("load", [load_onnxruntime, load_openvino])
@pytest.mark.parametrize("operator", ["QLinearMatMul", "MatMulIntegerToFloat"])
def test_products_of_activations(operator: str, load: Load, tmp_path: Path) -> None:
    """As in attention: neither side is constant."""
    x, w = (integers(shape, -128, 127, i, extreme=True) for i, shape in enumerate(SHAPES[operator]))
    total = exact(x, w)
    graph = Graph()
    output = graph.node("MatMul", [graph.input("x", x, 0), graph.input("w", w, 0)], "y")
    if operator == "QLinearMatMul":
        output = graph.requantised(output, step_of(total))
    graph.output(output, total.shape)
    path = graph.save(tmp_path / "model.onnx", rewritten=load is load_onnxruntime)
    found = load(path, (output,), 1)({"x": x.astype(np.float32), "w": w.astype(np.float32)})[0]
    if load is load_onnxruntime:
        assert [p.operator for p in integer_share(path).products] == [operator]
    assert_steps(found, total, step_of(total) if operator == "QLinearMatMul" else 1)


def shared(path: Path, channels: int, *, twice: str, rewritten: bool = True) -> tuple[Path, Int64, Int64]:
    """Two products of the same weights: through one dequantiser, two, or two weights that are equal by chance."""
    x, w = (integers(s, -127, 127, i, extreme=True) for i, s in enumerate([(1, 64, 5, 5), (channels, 64, 1, 1)]))
    total = exact(x, w)
    graph = Graph()
    first = graph.weights("w", w)
    second = graph.weights("v", w) if twice == "values" else first
    if twice == "weights":
        second = graph.node("DequantizeLinear", ["w", "w_s", "w_z"], "v_d", axis=0)
    for number, (zero_point, weights) in enumerate(((0, first), (-1, second))):
        y = graph.product(graph.input(f"x{number}", x, zero_point), weights, w, f"y{number}")
        graph.output(graph.requantised(y, step_of(total)), total.shape)
    return graph.save(path, rewritten=rewritten), x, total


@pytest.mark.parametrize("channels", [1, 32])
@pytest.mark.parametrize("twice", ["dequantiser", "weights", "values"])
def test_products_that_share_weights(twice: str, channels: int, tmp_path: Path) -> None:
    path, x, total = shared(tmp_path / "model.onnx", channels, twice=twice)
    inputs = {name: x.astype(np.float32) for name in ("x0", "x1")}
    for found in load_onnxruntime(path, ("y0_d", "y1_d"), 1)(inputs):
        assert_steps(found, total, step_of(total))
    assert [p.operator for p in integer_share(path).products] == ["QLinearConv"] * 2


needs_saturation = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not kernels.may_saturate(), reason="no products saturate here"
)


@needs_saturation
def test_without_the_exact_form_products_saturate_here(tmp_path: Path) -> None:
    """When this fails, ONNX Runtime has become exact by itself, and `kernels.py` can go."""
    x, w = np.full((1, 64), 255), np.full((64, 1), 127)
    graph = Graph()
    graph.output(graph.product(graph.input("x", x, -128), graph.weights("w", w), w, "y"), (1, 1))
    path = graph.save(tmp_path / "model.onnx")
    inputs = {"x": x.astype(np.float32)}
    plain = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, inputs)[0]
    assert plain.item() == 64 // 2 * 32767
    assert load_onnxruntime(path, ("y",), 1)(inputs)[0].item() == 64 * 255 * 127


@needs_saturation
def test_a_file_whose_products_share_weights_is_refused_by_name(tmp_path: Path) -> None:
    path, *_ = shared(tmp_path / "old.onnx", 32, twice="weights", rewritten=False)
    with pytest.raises(UserError, match=r"old\.onnx: ONNX Runtime cannot load it .*convert the run anew"):
        load_onnxruntime(path, ("y0_d",), 1)


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "expected"),
    [
        ("x86_64", "model name : x\nflags\t\t: fpu avx2 fma\n", True),
        ("x86_64", "flags\t\t: avx2 avx512f avx512_vnni\n", False),
        ("x86_64", "flags\t\t: avx2 avx_vnni\n", False),
        ("x86_64", "flags\t\t: avx2 avx512bw\n", True),
        ("x86_64", "vendor_id : x\n", True),
        ("AMD64", None, True),  # Windows
        ("arm64", None, False),
        ("aarch64", "Features : asimddp\n", False),
    ],
)
def test_where_products_may_saturate(
    machine: str, cpuinfo: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(kernels, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert kernels.may_saturate() is expected
    options = kernels.onnxruntime_options(1)
    if expected:
        assert options.get_session_config_entry("session.x64quantprecision") == "1"
    else:
        with pytest.raises(RuntimeError, match="x64quantprecision"):
            options.get_session_config_entry("session.x64quantprecision")
    assert ("no VNNI" in doctor.examine()["8-bit products"]) is expected
