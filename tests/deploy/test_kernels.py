"""Integer products are exact on any processor, also at extreme values whose sums fit neither into int16 nor float32."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from motrlab import doctor, machine
from motrlab.config.scheme import Scheme
from motrlab.deploy import kernels
from motrlab.deploy.kernel_graph import KernelArithmetic
from motrlab.deploy.kernels import load_network
from motrlab.deploy.onnx_graph import MICROSOFT, Expr, GraphBuilder

Array = NDArray[Any]

CONVOLUTIONS = {  # shapes of input `[1, H, W, C]` and weights `[out, in, kernel, kernel]`, stride
    "3x3": ((1, 9, 9, 16), (32, 16, 3, 3), 1),
    "3x3 stride 2": ((1, 12, 10, 16), (48, 16, 3, 3), 2),
    "3x3, sums beyond 2^24": ((1, 5, 5, 256), (16, 256, 3, 3), 1),
    "1x1": ((1, 5, 7, 64), (32, 64, 1, 1), 1),
    "1x1, sums beyond 2^24": ((1, 5, 7, 2304), (24, 2304, 1, 1), 1),
    "1x1 of one channel": ((1, 5, 7, 64), (1, 64, 1, 1), 1),
    "depthwise": ((1, 9, 9, 48), (48, 1, 3, 3), 1),
    "depthwise 5x5 stride 2": ((1, 9, 11, 40), (40, 1, 5, 5), 2),
}
WEIGHT_BITS = pytest.mark.parametrize("weight_bits", [8, 7])
ZERO_POINT = pytest.mark.parametrize("zero_point", [128, 0])


def integers(shape: tuple[int, ...], low: int, high: int, seed: int, values: str) -> Array:
    """Uniform; or nearly all near the end of larger magnitude, and half of the rows at that end throughout; or, for
    sums that cancel, no more than a step from that end.
    """
    rng = np.random.default_rng(seed)
    if values == "uniform":
        return rng.integers(low, high + 1, shape)
    end, other, inwards = (high, low, -1) if high >= -low else (low, high, 1)
    if values == "cancelling":
        return end + inwards * rng.integers(0, 2, shape)
    found = np.where(rng.random(shape) < 0.05, other, end + inwards * rng.integers(0, 8, shape))
    axis = 0 if shape[0] > 1 else 1
    np.moveaxis(found, axis, 0)[: -(-shape[axis] // 2)] = end
    return found


def limit(weight_bits: int) -> int:
    return Scheme(weight_bits=weight_bits).weight_limit


def weights(shape: tuple[int, ...], bits: int, values: str) -> Array:
    """`[out, in, ...]`. Where sums cancel, half of the inputs undo what the other half does: sums on the way are large
    and results small, so that every bit counts.
    """
    found = integers(shape, -limit(bits), limit(bits), 1, values)
    if values == "cancelling":
        half = shape[1] // 2
        found[:, half : 2 * half] = -found[:, :half][:, ::-1]
    return found


def convolved(x: Array, w: Array, stride: int) -> Array:
    """In int64: `[1, H, W, C]`, padded so that the size is kept."""
    pad = w.shape[-1] // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    windows = sliding_window_view(padded, w.shape[2:], (1, 2))[:, ::stride, ::stride]
    if w.shape[1] == 1:  # depthwise
        return np.einsum("nhwcij,cij->nhwc", windows, w[:, 0])
    return np.einsum("nhwcij,ocij->nhwo", windows, w, optimize=True)


def scale_for_ties(factor: np.float32, x_scale: np.float32, y_scale: np.float32) -> np.float32:
    """Of a weight: f32(f32(s_x · s_w) / s_y) is this power of two, and rounding only once would give another number."""
    near = (factor * y_scale / x_scale).view(np.int32) + np.arange(-20, 21, dtype=np.int32)
    scales = near.view(np.float32)
    exact = (x_scale.astype(np.float64) * scales / y_scale).astype(np.float32)
    fitting = (x_scale * scales / y_scale == factor) & (exact != factor)
    assert fitting.any()
    found: np.float32 = scales[fitting][0]
    return found


class Product:
    """Integers of a product, `[..., in]` times `[out, in, ...]`, their scales, and what it gives.

    The factors of every other output are powers of two, so that there are ties. The largest step of an output is about
    200: saturation is seen as well.
    """

    x_scale, y_scale = np.float32(0.022), np.float32(0.05)  # a pair for which `scale_for_ties` finds one

    def __init__(self, x: Array, w: Array, total: Array, zero_point: int, seed: int = 3) -> None:
        rng = np.random.default_rng(seed)
        self.x, self.w, self.zero_point = x, w, zero_point
        self.bias = rng.integers(-(2**12), 2**12, len(w))
        self.total = total + self.bias
        largest = np.abs(self.total).reshape(-1, len(w)).max(0)
        powers = np.exp2(np.round(np.log2(200 / largest))).astype(np.float32)
        self.w_scale = powers * rng.uniform(0.7, 1.4, len(w)).astype(np.float32) * self.y_scale / self.x_scale
        self.w_scale[::2] = [scale_for_ties(p, self.x_scale, self.y_scale) for p in powers[::2]]

    def steps(self, zero_point: int) -> Array:
        """rint(sum · f32(f32(s_x · s_w) / s_y)): the sum is rounded to float32, then the product, then to the grid."""
        factor = self.x_scale * self.w_scale / self.y_scale
        return np.clip(np.rint(self.total.astype(np.float32) * factor), -zero_point, 255 - zero_point)

    @property
    def real(self) -> Array:
        return self.total.astype(np.float32) * (self.x_scale * self.w_scale)

    def operands(self, xp: KernelArithmetic, w: Array) -> list[Expr]:
        """Input and weight with scales and zero points; the input enters in float32."""
        graph, unsigned = xp.graph, self.zero_point == 0
        x = xp.quantise(graph.input("x", self.x.shape), unsigned=unsigned)
        zeros = graph.constant(np.zeros(len(self.w_scale), np.int8))
        weight = graph.constant(np.ascontiguousarray(w, np.int8))
        return [x, xp.const(self.x_scale), xp.zero(unsigned), weight, xp.const(self.w_scale), zeros]

    def output(self, xp: KernelArithmetic, zero_point: int) -> list[Expr]:
        return [xp.const(self.y_scale), xp.zero(zero_point == 0)]

    @property
    def bias32(self) -> Array:
        return self.bias.astype(np.int32)


def check(
    graph: GraphBuilder, y: Expr, inputs: dict[str, Array], expected: Array, weight_bits: int, folder: Path
) -> None:
    """ONNX Runtime's integer kernels and OpenVINO's float ones give `expected`."""
    path = folder / "product.ort.onnx"
    onnx.save(graph.model({"product": (y, expected.shape)}, {}), path)
    given = {name: value.astype(np.float32) for name, value in inputs.items()}
    found = load_network(path, ("product",), 1, weight_bits=weight_bits)(given)[0]
    np.testing.assert_array_equal(found, expected, err_msg="ONNX Runtime")
    np.testing.assert_array_equal(
        load_network(path, ("product",), 1, "openvino")(given)[0], expected, err_msg="OpenVINO"
    )


# Fails with 8-bit weights on x86 without VNNI (seen on an emulated Haswell; depthwise kernels and 7 bits are exact):
# "session.x64quantprecision" leaves the weights of com.microsoft's QLinearConv as they are. Weights that are made uint8
# with zero point 128 while the file is loaded are exact there, and need no option.
@WEIGHT_BITS
@ZERO_POINT
@pytest.mark.parametrize(
    ("kind", "values"),
    [(k, v) for k in CONVOLUTIONS for v in ("extreme", "uniform", "cancelling")[: 3 if "2^24" in k else 2]],
)
def test_convolutions(kind: str, values: str, zero_point: int, weight_bits: int, tmp_path: Path) -> None:
    shape, w_shape, stride = CONVOLUTIONS[kind]
    x = integers(shape, -zero_point, 255 - zero_point, 0, values)
    w = weights(w_shape, weight_bits, values)
    product = Product(x, w, convolved(x, w, stride), zero_point)
    graph = GraphBuilder()
    xp = KernelArithmetic(graph)
    y = graph.op(
        "QLinearConv",
        *product.operands(xp, w),
        *product.output(xp, zero_point),
        graph.constant(product.bias32),
        domain=MICROSOFT,
        channels_last=1,
        kernel_shape=list(w.shape[2:]),
        dilations=[1, 1],
        strides=[stride, stride],
        pads=[w.shape[-1] // 2] * 4,
        group=len(w) if w.shape[1] == 1 else 1,
    )
    expected = product.steps(zero_point)
    check(graph, xp.dequantise(y, unsigned=zero_point == 0), {"x": x}, expected, weight_bits, tmp_path)


@WEIGHT_BITS
@ZERO_POINT
@pytest.mark.parametrize("grid", [True, False], ids=["on a grid", "accumulators"])
@pytest.mark.parametrize(
    ("shape", "values"),
    [
        ((24, 64, 32), "uniform"),
        ((24, 64, 32), "extreme"),
        ((24, 64, 1), "extreme"),
        ((1, 256, 48), "extreme"),
        ((8, 2304, 24), "extreme"),
        ((8, 2304, 24), "cancelling"),
    ],
    ids=str,
)
def test_products_of_tokens(
    shape: tuple[int, int, int], grid: bool, values: str, zero_point: int, weight_bits: int, tmp_path: Path
) -> None:
    """QGemm with an output grid and without: then float32, the sum times one factor."""
    rows, inputs, outputs = shape
    x = integers((rows, inputs), -zero_point, 255 - zero_point, 0, values)
    w = weights((outputs, inputs), weight_bits, values)
    product = Product(x, w, x @ w.T, zero_point)
    graph = GraphBuilder()
    xp = KernelArithmetic(graph)
    operands = [*product.operands(xp, w.T), graph.constant(product.bias32)]
    if grid:
        y = xp.dequantise(graph.op("QGemm", *operands, *product.output(xp, 128), domain=MICROSOFT))
    else:
        y = graph.op("QGemm", *operands, domain=MICROSOFT)
    check(graph, y, {"x": x}, product.steps(128) if grid else product.real, weight_bits, tmp_path)


@WEIGHT_BITS
def test_products_that_share_their_constants(weight_bits: int, tmp_path: Path) -> None:
    """Equal constants exist once in our files: here the weights of two products, their scales and zero points."""
    x = integers((16, 64), -128, 127, 0, "extreme")
    w = weights((32, 64), weight_bits, "extreme")
    product = Product(x, w, x @ w.T, 128)
    graph = GraphBuilder()
    xp = KernelArithmetic(graph)
    operands = product.operands(xp, w.T)
    other = graph.constant(product.bias32 + 5000)
    both = [graph.op("QGemm", *operands, bias, domain=MICROSOFT) for bias in (graph.constant(product.bias32), other)]
    again = (product.total + 5000).astype(np.float32) * (product.x_scale * product.w_scale)
    expected = np.concatenate((product.real, again))
    check(graph, graph.cat(both, 0), {"x": x}, expected, weight_bits, tmp_path)


@WEIGHT_BITS
@ZERO_POINT
@pytest.mark.parametrize("values", ["extreme", "uniform"])
@pytest.mark.parametrize("terms", [16, 514, 515, 1300])
def test_products_of_activations(terms: int, values: str, zero_point: int, weight_bits: int, tmp_path: Path) -> None:
    """As in attention, where neither side is constant: of zero point 128 the logits, of 0 the mix of `terms` values."""
    if zero_point == 128 and terms > 514:
        terms = 1024  # no head is deeper
    x = integers((2, 12, terms), -zero_point, 255 - zero_point, 0, values)
    y = integers((2, terms, 17), -128, 127, 1, values)
    factor = np.float32(1 if zero_point == 0 else 0.0123)
    graph = GraphBuilder()
    xp = KernelArithmetic(graph)
    operands = (
        xp.quantise(graph.input("x", x.shape), unsigned=zero_point == 0),
        xp.quantise(graph.input("y", y.shape)),
    )
    seen = graph.input("mask", (1, 1, 1, terms))  # says to the plain form how many keys there are
    expected = (x @ y).astype(np.float32) * factor
    if zero_point == 0:
        xp.tokens = terms
        found = graph.cat(list(xp.weighted(*operands)), 2)  # and 127 times the sum of shares
        expected = np.concatenate((expected, (127 * x.sum(2, keepdims=True)).astype(np.float32)), 2)
    else:
        found = xp.matmul(*operands, factor)
    inputs = {"x": x, "y": y, "mask": np.ones((1, 1, 1, terms))}
    hidden = graph.op("ReduceMax", xp.const(1.0) - seen, graph.shape(-1), keepdims=1)
    check(graph, found + hidden.reshape(1, 1, 1), inputs, expected, weight_bits, tmp_path)


def test_two_products_of_seven_bits_fit_into_int16() -> None:
    assert 2 * 255 * limit(7) <= 2**15 - 1 < 2 * 255 * limit(8)


@pytest.mark.parametrize("kind", ["QLinearConv", "QGemm"])
def test_unsigned_weights_give_the_same_integers(kind: str) -> None:
    """Two products with shared constants, as an artefact has them; on every processor."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (1, 5, 7, 16) if kind == "QLinearConv" else (35, 16))
    w = rng.integers(-63, 64, (24, 16))  # seven bits: both forms are exact here
    graph = GraphBuilder()
    xp = KernelArithmetic(graph)
    given = xp.quantise(graph.input("x", x.shape), unsigned=True)
    weight = w[:, :, None, None] if kind == "QLinearConv" else np.ascontiguousarray(w.T)
    constants = [graph.constant(weight.astype(np.int8)), xp.const(np.ones(24)), graph.constant(np.zeros(24, np.int8))]
    bias, grid = graph.constant(rng.integers(-99, 99, 24).astype(np.int32)), (xp.const(900.0), xp.zero(False))
    how = {"kernel_shape": [1, 1], "channels_last": 1} if kind == "QLinearConv" else {}
    operands = (given, xp.const(1.0), xp.zero(True), *constants)
    tail = (*grid, bias) if kind == "QLinearConv" else (bias, *grid)
    first, again = (graph.op(kind, *operands, *tail, domain=MICROSOFT, **how) for _ in range(2))
    y = xp.dequantise(graph.cat([first, again], 0))
    model = graph.model({"y": (y, (2 * x.shape[0], *x.shape[1:-1], 24))}, {})

    def run(content: bytes) -> NDArray[Any]:
        session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"x": x.astype(np.float32)})[0])

    signed = run(model.SerializeToString())
    content = kernels.unsigned_weights(model.SerializeToString())
    unsigned = onnx.load_from_string(content)
    assert onnx.TensorProto.INT8 not in {constant.data_type for constant in unsigned.graph.initializer}
    assert len(np.unique(signed)) > 20
    assert np.array_equal(run(content), signed)


def test_unsigned_weights_change_nothing_else(artifact: Path) -> None:
    """Of whole files: the same nodes, and constants that are 128 more where they were int8."""
    for file in artifact.glob("*.onnx"):
        before = onnx.load(file)
        after = onnx.load_from_string(kernels.unsigned_weights(file.read_bytes()))
        assert before.graph.node == after.graph.node
        changed = 0
        for old, new in zip(before.graph.initializer, after.graph.initializer, strict=True):
            was, now = onnx.numpy_helper.to_array(old), onnx.numpy_helper.to_array(new)
            if old.data_type == onnx.TensorProto.INT8:
                assert now.dtype == np.uint8
                was, changed = was.astype(int) + 128, changed + 1
            np.testing.assert_array_equal(now, was)
        assert changed > 3


needs_saturation = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not machine.may_saturate(), reason="no products saturate here"
)


@needs_saturation
def test_without_the_exact_form_products_saturate_here(tmp_path: Path) -> None:
    """When this fails, ONNX Runtime has become exact by itself, and `kernels.py` can go."""
    x, w = np.full((4, 64), 255), np.full((64, 8), 127)
    graph = GraphBuilder()
    xp = KernelArithmetic(graph)
    given = xp.quantise(graph.input("x", x.shape), unsigned=True)
    weight = [graph.constant(w.astype(np.int8)), xp.const(1.0), graph.constant(np.int8(0))]
    bias = graph.constant(np.zeros(8, np.int32))
    y = graph.op("QGemm", given, xp.const(1.0), xp.zero(True), *weight, bias, domain=MICROSOFT)
    path = tmp_path / "model.onnx"
    onnx.save(graph.model({"y": (y, (4, 8))}, {}), path)
    inputs = {"x": x.astype(np.float32)}
    plain = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, inputs)[0]
    assert (plain < 64 * 255 * 127).all()
    assert (load_network(path, ("y",), 1)(inputs)[0] == 64 * 255 * 127).all()


@pytest.mark.parametrize(
    ("kind", "cpuinfo", "expected"),
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
    kind: str, cpuinfo: str | None, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    monkeypatch.setattr(machine, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(platform, "machine", lambda: kind)
    assert machine.may_saturate() is expected
    path = tmp_path / "model.onnx"
    onnx.save(GraphBuilder().model({}, {}), path)
    for bits, changed in ((8, expected), (7, False)):  # products of seven bits are exact on the fast kernels
        assert isinstance(kernels.exact_form(path, bits), bytes) is changed
    assert ("no VNNI" in doctor.examine()["8-bit products"]) is expected
