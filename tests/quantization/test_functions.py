"""Every integer function against exact arithmetic: integers, fractions, decimals; ties and extremes included.

Where a function is a sequence of float32 operations, the expected value is that sequence in NumPy, one IEEE operation
at a time, with sums in int64. Where it is integer arithmetic all through, it is computed with integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn

from motrlab.deploy.kernel_graph import KernelArithmetic
from motrlab.deploy.kernels import load_network, onnxruntime_session
from motrlab.deploy.onnx_graph import MICROSOFT, Expr, GraphBuilder
from motrlab.deploy.plain import plain_form
from motrlab.model.operations import EPSILON, LEAST_SIZE, SIZE_LIMIT, sine_frequencies
from motrlab.quantization import functions as f
from motrlab.quantization.torch_arithmetic import (
    IntegerLayer,
    TorchArithmetic,
    exact_sum,
    integer_layer,
)

Array = NDArray[Any]
MILLION = 1_000_000
EXACT = 2**24
TORCH = TorchArithmetic()
LEVELS = {
    "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
one = np.float32(1)


def f32(x: Any) -> Any:
    return np.asarray(x).astype(np.float32)


def tensor(x: Any) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(x, np.float32))


def same(found: Tensor, expected: Array) -> None:
    np.testing.assert_array_equal(found.numpy(), expected)


def half_even(numerator: Array, denominator: int) -> Array:
    """The nearest integers to fractions of int64, ties to even."""
    whole, rest = np.divmod(numerator, denominator)
    up = (2 * rest > denominator) | ((2 * rest == denominator) & (whole % 2 == 1))
    return whole + up


def signed(rng: np.random.Generator, *shape: int) -> Array:
    """int8 values as int64: a third of them at the ends."""
    values = rng.integers(-128, 128, shape)
    return np.where(rng.random(shape) < 1 / 3, rng.choice([-128, 127], shape), values)


# Rounding and single operations.


def test_to_grid_rounds_ties_to_even_and_saturates() -> None:
    rng = np.random.default_rng(0)
    ties = np.arange(-50_000, 50_000) + 0.5
    random = rng.uniform(-300, 300, MILLION)
    values = [random, ties, f32(ties).repeat(2), rng.uniform(-1e38, 1e38, 1000), [3.4e38, -3.4e38, 0.0, 2**23, 2**24]]
    x = f32(np.concatenate(values))
    near = slice(len(random) + len(ties), len(random) + 3 * len(ties))  # one step of float32 beside each tie
    x[near] = np.nextafter(x[near], f32(np.tile([-np.inf, np.inf], len(ties))))
    for low, high in ((-128, 127), (0, 255), (0, 127), f.INT16):
        double = np.clip(x.astype(np.float64), low - 2, high + 2)
        expected = np.clip(half_even((double * 2**45).astype(np.int64), 2**45), low, high)
        same(f.to_grid(TORCH, tensor(x), low, high), expected)


def test_single_operations_are_rounded_once() -> None:
    """Of IEEE 754: the nearest float32 number to what the operation gives exactly. In double all of these are exact."""
    rng = np.random.default_rng(0)
    x, y = (f32(rng.uniform(1, 2, MILLION) * 2.0 ** rng.integers(-8, 9, MILLION)) for _ in range(2))
    x[: 2**19] = np.arange(2**24 - 2**19, 2**24)
    a, b = x.astype(np.float64), y.astype(np.float64)
    same(tensor(x) * tensor(y), f32(a * b))
    same(tensor(x) + tensor(y), f32(a + b))
    same(tensor(x) - tensor(y), f32(a - b))
    root = TORCH.sqrt(tensor(x)).numpy()
    below, above = ((root.astype(np.float64) + np.nextafter(root, f32(end))) / 2 for end in (0, np.inf))
    assert ((below**2 < a) & (a < above**2)).all()
    quotient = (TORCH.const(2.0) / tensor(x)).numpy()
    below, above = ((quotient.astype(np.float64) + np.nextafter(quotient, f32(end))) / 2 for end in (0, np.inf))
    assert ((below * a < 2) & (above * a > 2)).all()


# Products.


def split_layer(weight: Array, bias: Array) -> IntegerLayer:
    """With inputs of any byte: as `GridOperations` splits it."""
    magnitude = np.abs(weight).reshape(*weight.shape[:2], -1).sum(2) * 255.0
    scale = torch.ones(len(weight))
    return IntegerLayer(tensor(weight), tensor(bias), scale, scale, f.exact_parts(magnitude, bias))


def check_sums(layer: IntegerLayer, x: Array, found: Callable[[Tensor], Tensor], total: Array) -> None:
    """Sums `[…, out]`, and steps by a factor a channel, of which some are powers of two: those give ties."""
    rng = np.random.default_rng(1)
    accumulator = found(tensor(x))
    rounded = total.astype(np.float32)
    same(accumulator, rounded)
    factor = f32(rng.uniform(1e-5, 1e-4, total.shape[-1]))
    shift = rng.integers(11, 18, len(factor[::2]))
    factor[::2] = 0.5**shift
    steps = f.product(TORCH, accumulator, tensor(factor))
    same(steps, rounded * factor)
    grid = f.to_grid(TORCH, steps, *f.INT16)
    expected = half_even(rounded[..., ::2].astype(np.int64) * 2 ** (17 - shift), 2**17)
    same(grid[..., ::2], np.clip(expected, *f.INT16))


@pytest.mark.parametrize(("inputs", "parts"), [(64, 1), (512, 1), (519, 2), (1024, 2), (2304, 5)])
def test_linear_sums_are_exact_however_long(inputs: int, parts: int) -> None:
    """Also those beyond 2²⁴, which are rounded to float32 once, as integer kernels do it."""
    rng = np.random.default_rng(inputs)
    outputs, rows = 256, 4096
    weight = rng.integers(-127, 128, (outputs, inputs))
    weight[:64] = 127
    weight[64:96] = -127
    bias = rng.integers(-(2**15), 2**15, outputs)
    x = rng.integers(0, 256, (rows, inputs))
    x[:256] = 255 - rng.integers(0, 2, (256, inputs))  # odd sums at the extremes
    x[256:512] -= 128
    x[512] = 255
    x[513] = -128
    layer = split_layer(weight, bias)
    assert len(layer.parts) == parts
    total = (x.astype(np.float64) @ weight.T + bias).astype(np.int64)  # exact in double: below 2⁵³
    assert (np.abs(total).max() > EXACT) == (parts > 1)
    check_sums(layer, x, layer.of_tokens, total)


@pytest.mark.parametrize(
    ("channels", "kernel", "stride", "groups"),
    [(64, 3, 1, 1), (3, 3, 2, 1), (64, 1, 1, 1), (64, 5, 2, 64), (16, 3, 1, 16)],
)
def test_convolution_sums_are_exact(channels: int, kernel: int, stride: int, groups: int) -> None:
    rng = np.random.default_rng(channels + kernel)
    conv = nn.Conv2d(channels, 64, kernel, stride, kernel // 2, groups=groups)
    height, width = 96 * stride, 164 * stride
    x = rng.integers(0, 256, (1, channels, height, width))
    x[..., :40, :40] = 255 - rng.integers(0, 2, (channels, 40, 40))
    x[..., :, 80:] -= 128
    weight = rng.integers(-127, 128, conv.weight.shape)
    weight[:16] = 127
    bias = rng.integers(-(2**15), 2**15, 64)
    layer = split_layer(weight, bias)
    pad = kernel // 2
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(padded, (kernel, kernel), (2, 3))[0, :, ::stride, ::stride]
    cells = windows.transpose(0, 3, 4, 1, 2).reshape(groups, -1, windows.shape[1] * windows.shape[2])
    rows = weight.reshape(groups, 64 // groups, -1).astype(np.float64)
    total = (rows @ cells).reshape(64, *windows.shape[1:3]).astype(np.int64).transpose(1, 2, 0)[None] + bias
    assert total.size >= MILLION
    check_sums(layer, x, lambda y: layer.of_map(y, conv), total)


def test_exact_parts_are_the_fewest_even_ones_that_stay_below_the_limit() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        inputs = int(rng.integers(1, 3000))
        magnitude = rng.integers(0, 128, (4, inputs)) * 255.0 * int(rng.integers(1, 30))
        bias = rng.integers(-(2**22), 2**22, 4).astype(np.float64)
        parts = f.exact_parts(magnitude, bias)
        np.testing.assert_array_equal(np.concatenate([np.arange(inputs)[p] for p in parts]), np.arange(inputs))
        sums = np.stack([magnitude[:, p].sum(1) for p in parts])
        sums[0] += np.abs(bias)
        assert sums.max() < EXACT
        size = parts[0].stop if len(parts) > 1 else inputs
        wider = -(-inputs // max(1, len(parts) - 1))
        assert len(parts) == 1 or wider > size
        if len(parts) > 1:
            longer = [magnitude[:, i : i + wider].sum(1) for i in range(0, inputs, wider)]
            longer[0] = longer[0] + np.abs(bias)
            assert max(s.max() for s in longer) >= EXACT
    edge = np.full((1, 2), EXACT / 2 - 1)
    assert f.exact_parts(edge, np.array([1.0])) == (slice(0, 2),)
    assert f.exact_parts(edge, np.array([-2.0])) == (slice(0, 1), slice(1, 2))
    with pytest.raises(OverflowError, match="single input"):
        f.exact_parts(np.array([[float(EXACT)]]), np.zeros(1))
    with pytest.raises(OverflowError, match="sum of 2 products can pass 2³¹"):
        f.exact_parts(np.array([[2.0**30, 2.0**30]]), np.zeros(1))


@pytest.mark.parametrize("limit", [127, 63])
@pytest.mark.parametrize("per_channel", [True, False])
def test_integers_of_a_layer_are_the_nearest_within_their_limits(per_channel: bool, limit: int) -> None:
    rng = np.random.default_rng(0)
    weight, bias = f32(rng.normal(size=(1000, 1024)) * 0.1), f32(rng.normal(size=1000))
    weight[0], weight[1], bias[2] = 0, 1e-9, 1e6  # a bias that coarser weights must make room for
    with torch.no_grad():
        layer = integer_layer(tensor(weight), tensor(bias), 0.03, limit, per_channel=per_channel)
    scale, step = layer.scale.numpy(), layer.step.numpy()
    integers, shift = layer.weight.numpy(), layer.bias.numpy()
    np.testing.assert_array_equal(step, np.float32(0.03) * scale)
    assert (np.abs(integers).max() == limit) == per_channel  # else that bias takes steps from all
    assert np.abs(shift).max() <= 2**22
    assert (np.abs(integers - weight.astype(np.float64) / scale[:, None]) <= 0.5 + 1e-4).all()
    np.testing.assert_array_equal(shift, np.rint(bias.astype(np.float64) / step.astype(np.float64)))
    assert (len(set(scale.tolist())) > 900) if per_channel else (len(set(scale.tolist())) == 1)
    sums = np.stack([np.abs(integers[:, p]).sum(1) * 255.0 for p in layer.parts])
    sums[0] += np.abs(shift)
    assert sums.max() < EXACT


def test_exact_sum_rounds_once() -> None:
    """Sums around 2²⁴ and 2²⁵, ties among them, which a float32 sum in some order gets wrong."""
    rng = np.random.default_rng(0)
    for terms in (1, 514, 515, 516, 1100, 4000):
        values = 32640 - rng.integers(0, 2, (terms, 1000))
        parts = f.key_parts(terms)
        np.testing.assert_array_equal(np.concatenate([np.arange(terms)[p] for p in parts]), np.arange(terms))
        assert all((p.stop - p.start) * 255 * 128 < EXACT for p in parts)
        assert len(parts) == -(-terms // 514)
        same(exact_sum([tensor(values)[p].sum(0) for p in parts]), values.sum(0).astype(np.float32))


# Sums of two grids.


@pytest.mark.parametrize("pair", [(4096, 4096), (2048, 2048), (2048, 6144), (1, 65535), (65535, 65535), (65535, 65533),
                                  (3, 12288), (0, 4096), (5461, 1365), (40000, 50001)])  # fmt: skip
def test_sum_of_two_grids_is_that_of_fractions(pair: tuple[int, int]) -> None:
    """All pairs of bytes, signed and unsigned."""
    x, y = (a.ravel() for a in np.meshgrid(np.arange(-128, 256), np.arange(-128, 256)))
    steps = f.add(TORCH, tensor(x), tensor(y), (pair[0] / 4096, pair[1] / 4096))
    for low, high in ((-128, 127), (0, 255)):
        expected = np.clip(half_even(x * pair[0] + y * pair[1], 4096), low, high)
        same(f.to_grid(TORCH, steps, low, high), expected)


def test_factors_of_a_sum_are_the_nearest_that_stay_exact() -> None:
    rng = np.random.default_rng(0)
    for x_scale, y_scale, scale in rng.uniform(0.01, 0.1, (1000, 3)).tolist():
        for factor, own in zip(f.add_factors(x_scale, y_scale, scale), (x_scale, y_scale), strict=True):
            assert float(factor * 4096).is_integer()
            assert abs(factor - own / scale) <= 1 / 8192 + 1e-12
    assert f.add_factors(65535.0, 1.0, 4096.0) == (65535 / 4096, 1 / 4096)
    with pytest.raises(OverflowError, match="16 times finer"):
        f.add_factors(65536.0, 1.0, 4096.0)
    assert f.add_factors(65536.0, 1.0, 4096.0, wide=True) == (16, 1 / 4096)


# LayerNorm.


def extreme_rows(rng: np.random.Generator, channels: int) -> tuple[Array, Array]:
    """Pairs of int8 rows: all equal, half at either end, one outlier, small, skewed."""
    half = np.where(np.arange(channels) % 2, 127, -128)
    alone = np.where(np.arange(channels) == 0, -128, 127)
    rows = [np.full(channels, v) for v in (-128, -1, 0, 127)] + [half, np.sort(half), alone, -1 - alone, -1 - half]
    few = rng.integers(-1, 2, (20, channels))
    skewed = np.where(rng.random((20, channels)) < rng.random((20, 1)), -128, 127)
    x = np.concatenate((np.stack(rows), few, skewed))
    return x, np.concatenate((np.stack(rows), few[::-1], skewed))


def layer_norm_steps(total: Array, gain: Array, shift: Array, epsilon: Any) -> Array:
    channels = total.shape[-1]
    sums = total.sum(-1, keepdims=True)
    centred = total - np.rint(f32(sums) * (one / f32(channels))).astype(np.int64)
    limit = math.isqrt((EXACT - 1) // channels)
    if limit < 255:
        centred = centred.clip(-limit, limit)
    squares = (centred**2).sum(-1, keepdims=True)
    assert squares.max() < EXACT
    deviation = np.sqrt(f32(squares) + epsilon)
    ratio = f32(2) / deviation
    product = f32(f32(centred) * ratio) * gain
    return product + shift


@pytest.mark.parametrize("channels", [1, 7, 32, 64, 96, 192, 256, 258, 259, 320, 512])
def test_norm_is_its_sequence_of_operations(channels: int) -> None:
    rng = np.random.default_rng(channels)
    rows = -(-MILLION // channels) if channels in (64, 256, 512) else 500
    x, y = (np.concatenate(p) for p in zip(extreme_rows(rng, channels), signed(rng, 2, rows, channels), strict=True))
    weight, bias = rng.uniform(-2, 2, channels), rng.normal(size=channels)
    for x_scale in (0.03, 1e-3):
        gain, shift, epsilon = f.norm_constants(weight, bias, 1e-5, x_scale, 0.02)
        np.testing.assert_array_equal(gain, f32(weight * math.sqrt(channels) / 0.04))
        np.testing.assert_array_equal(shift, f32(bias / 0.02))
        assert epsilon == f32(channels * 1e-5 / x_scale**2)
        found = f.norm(TORCH, tensor(x), tensor(y), gain, shift, epsilon)
        assert found.isfinite().all()
        same(found, layer_norm_steps(x + y, gain, shift, epsilon))
        equal = (x + y).min(1) == (x + y).max(1)
        assert equal.sum() >= 4
        same(found[torch.from_numpy(equal)], np.tile(shift, (equal.sum(), 1)))


def test_norm_is_near_the_real_layer_norm() -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(2000, 256)) * 30 + rng.normal(size=(2000, 1)) * 20).round().clip(-128, 127), np.zeros(256)
    weight, bias = rng.uniform(0.5, 2, 256), rng.normal(size=256)
    found = f.norm(TORCH, tensor(x), tensor(y), *f.norm_constants(weight, bias, 1e-5, 0.03, 0.02)).double()
    expected = F.layer_norm(torch.from_numpy(x * 0.03), (256,), torch.from_numpy(weight), torch.from_numpy(bias), 1e-5)
    assert float((found - expected / 0.02).abs().max()) < 2 / 0.02 * 0.55 / 20  # a mean off by half a step, σ above 20


class Watching(TorchArithmetic):
    """Notes the largest sum, computed in int64."""

    largest = 0

    def sum(self, x: Tensor) -> Tensor:
        self.largest = max(self.largest, int(x.long().abs().sum(-1).max()))
        return super().sum(x)

    def sum_squares(self, x: Tensor) -> Tensor:
        self.largest = max(self.largest, int(x.long().square().sum(-1).max()))
        return super().sum_squares(x)


def test_no_sum_of_a_norm_reaches_the_limit_whatever_the_rows() -> None:
    """Half the channels at either end is the largest variance there is; 258 channels of it are just below 2²⁴."""
    rng, xp = np.random.default_rng(0), Watching()
    found = {}
    for channels in (*range(1, 600), 1024, 2048):
        xp.largest = 0
        x, y = extreme_rows(rng, channels)
        f.norm(xp, tensor(x), tensor(y), np.ones(channels), np.zeros(channels), 1.0)
        found[channels] = xp.largest
    assert max(found.values()) < EXACT
    assert found[256] >= 256 * 255**2 > 0.99 * EXACT
    assert found[258] > 0.9999 * EXACT
    for channels in (256, 258, 259, 512, 2048):
        limit = f.norm_limit(channels)
        assert channels * limit**2 < EXACT <= channels * (limit + 1) ** 2


# Attention.


def exponentials(levels: int) -> list[int]:
    """rint(levels · exp(−i/16)) for i = 0, 1, …, until it is 0."""
    with localcontext() as context:
        context.prec = 40
        table = [int((levels * (Decimal(-i) / 16).exp()).to_integral_value()) for i in range(200)]
    return table[: table.index(0) + 1]


@pytest.mark.parametrize("levels", [255, 127])
def test_exp_levels_are_a_table_that_no_error_of_exp_can_change(levels: int) -> None:
    table = exponentials(levels)
    x = np.concatenate((-np.arange(200_000), [-(2**24), -(2**15) - 16384]))
    expected = np.zeros(len(x))
    expected[: len(table)] = table
    same(f.exp_levels(TORCH, tensor(x), levels), expected)
    exact = levels * np.exp(-np.arange(len(table) + 100) / 16)
    distance = np.abs(exact - np.floor(exact) - 0.5)
    assert distance.min() > 6e-5  # as the docstring says
    # exp, a product, and in QuantizeLinear a quotient by 1/levels: together off by 3e-7 of the value at most.
    assert (distance / exact).min() > 2e-5


def attention_steps(
    q: Array, k: Array, v: Array, masked: Array, overlap: Array | None, logit_factor: Any, factor: Any, levels: int
) -> Array:
    logits = f32((q.astype(np.float64) @ k).astype(np.int64)) * f32(logit_factor)
    if overlap is not None:
        logits = logits + overlap
    logits = np.rint(logits).astype(np.int64) + masked.astype(np.int64)
    table = np.array(exponentials(levels))
    below = (logits.max(-1, keepdims=True) - logits).clip(0, len(table) - 1)
    shares = table[below]
    mixed = (shares.astype(np.float64) @ v).astype(np.int64)
    total = shares.sum(-1, keepdims=True) * 127
    return f32(mixed) * (f32(2) / f32(total) * f32(f32(factor) / f32(2)))


@pytest.mark.parametrize("levels", [255, 127])
@pytest.mark.parametrize(("keys", "queries"), [(1, 50), (24, 100), (400, 400), (514, 100), (515, 100), (1100, 300)])
def test_attention_is_its_sequence_of_operations(keys: int, queries: int, levels: int) -> None:
    rng = np.random.default_rng(keys)
    heads, depth = 8, 24
    q, k, v = signed(rng, heads, queries, depth), signed(rng, heads, depth, keys), signed(rng, heads, keys, depth)
    q[:, :20] = rng.integers(-1, 2, (heads, 20, depth))  # nearly equal logits: long sums
    q[0, :5] = 0
    v[0] = -128
    v[1] = 127 - rng.integers(0, 2, v[1].shape)
    masked = np.where(rng.random((1, 1, keys)) < 0.3, -16384.0, 0.0)
    if keys == 24:
        masked[:] = -16384  # nobody is seen
    overlap = f32(rng.uniform(-40, 40, (heads, queries, keys)))
    overlap[:, ::3] = np.rint(overlap[:, ::3]) + 0.5  # with whole products: ties
    for factor, bias in ((f32(1 / 64), overlap), (f32(0.0137), overlap), (f32(0.0137), None)):
        given = None if bias is None else tensor(bias)
        arguments = tensor(q), tensor(k), tensor(v), tensor(masked), given
        found = f.attention(TORCH, *arguments, factor, f32(1.7), levels)
        same(found, attention_steps(q, k, v, masked, bias, factor, f32(1.7), levels))


def test_attention_sums_are_below_the_limit_up_to_514_keys() -> None:
    assert 514 * 255 * 128 < EXACT < 515 * 255 * 128
    # Logits: 1,024 terms of the largest products make 2²⁴ itself, the last integer that is exact.
    q, k = np.full((1, 1, 1024), -128), np.full((1, 1024, 1), -128)
    assert float(TORCH.matmul(tensor(q), tensor(k), 1.0)) == EXACT
    shares, value = torch.full((1, 1, 514), 255.0), torch.full((1, 514, 1), -128.0)
    mixed, total = TORCH.weighted(shares, value)
    assert (float(mixed), float(total)) == (-514 * 255 * 128, 514 * 255 * 127)


# Sampling.

SIZES = [(24, 40), (25, 45), (32, 56), (7, 13), (1, 1), (68, 120), (135, 241), (300, 513)]


def random_positions(rng: np.random.Generator, number: int) -> tuple[Array, Array]:
    """Integers of x in 1/256 and y in 1/128: over the map and around it, and anywhere in an int16."""
    x, y = rng.integers(-300, 301, number), rng.integers(-150, 151, number)
    x[: number // 20], y[: number // 20] = rng.integers(-(2**15), 2**15, (2, number // 20))
    x[:4], y[:4] = [-(2**15), 2**15 - 1, -256, 256], [2**15 - 1, -(2**15), -128, 128]
    return x, y


def exact_samples(maps: Array, x: Array, y: Array) -> Array:
    """In steps of 2⁻¹⁷: maps `[C, H, W]`, positions `[n]` → `[C, n]`."""
    _, height, width = maps.shape
    column, right = np.divmod((x + 256) * width - 256, 512)  # pixel (j/k + 1) · W/2 − 1/2, nine bits behind the point
    row, low = np.divmod((y + 128) * height - 128, 256)
    total = np.zeros((len(maps), len(x)), np.int64)
    for down, vertical in ((0, 256 - low), (1, low)):
        for beside, horizontal in ((0, 512 - right), (1, right)):
            r, c = row + down, column + beside
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width)
            values = maps[:, r.clip(0, height - 1), c.clip(0, width - 1)]
            total += np.where(inside, values * (vertical * horizontal), 0)
    return total


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_samples_are_exact(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(size))
    maps = signed(rng, 8, *size)
    maps[0], maps[1] = -128, 127
    x, y = random_positions(rng, MILLION // 40)
    grid = tensor(np.stack((x, y), 1) / f.POSITION)
    found = F.grid_sample(tensor(maps)[None], grid[None, None], "bilinear", "zeros", align_corners=False)[0, :, 0]
    expected = exact_samples(maps, x, y)
    assert (expected % 512 != 0).any() or size == (1, 1)
    same(found, expected / 2.0**17)


@pytest.mark.parametrize("points", [1, 2, 3, 4, 8])
def test_positions_are_their_sequence_of_operations(points: int) -> None:
    rng = np.random.default_rng(points)
    number = MILLION // 2
    offsets = f32(rng.normal(size=(number, 2)) * 3)
    offsets[:1000] = rng.choice(f32([1e30, -1e30, 200, -200, 0]), (1000, 2))
    offsets[1000:300_000] = rng.integers(-64, 65, (299_000, 2)) / 16  # ties
    centre, size = (rng.integers(-(2**15), 2**15, (number, 2)) for _ in range(2))
    size = np.where(np.arange(number)[:, None] % 2, size, 2 ** rng.integers(4, 15, (number, 2)))
    boxes = [f32(b / 2.0**14) for b in (centre, size)]
    found = f.positions(TORCH, tensor(offsets), *map(tensor, boxes), f.POSITION, points).numpy()
    moved = offsets * (boxes[1] * (f.POSITION * (one / f32(points))))
    start = f32((2 * centre - 2**14) * np.array([256, 128]) / 2.0**14)  # k · (2c − 1), exact
    expected = np.clip(np.rint(start + moved), *f.INT16)
    np.testing.assert_array_equal(found, f32(expected) / f.POSITION)
    np.testing.assert_array_equal(found.astype(np.float64) * f.POSITION % 1, 0)
    if points in (1, 2, 4):  # then all but the last sum is exact: integers decide
        small = np.abs(offsets) <= 4
        sixteenths = np.where(small, offsets * 16, 0).astype(np.int64)
        exact = start.astype(np.float64) * 2**14 * 16 * points + sixteenths * size * f.POSITION.astype(np.int64)
        nearest = np.clip(half_even(exact.astype(np.int64), 2**18 * points), *f.INT16)
        whole = small & (offsets * 16 == sixteenths)
        difference = np.abs(found * f.POSITION - nearest)[whole]
        assert difference.max() <= 1
        assert (difference > 0).mean() < 1e-3  # where the sum has more than 24 bits


@pytest.mark.parametrize("levels", [255, 127])
def test_sampling_weights_are_a_table_of_the_sigmoid(levels: int) -> None:
    for points in (1, 2, 3, 4, 5, 8, 9, 16, 32):
        top = f.sampling_levels(points, levels)
        assert top & (top - 1) == 0
        if points > 2:  # at most: every sample at an end of int8, in steps of 1/256, with the largest weight
            assert points * 128 * f.SAMPLE * (top - 1) < EXACT
            assert points == 3 or 4 * points * 128 * f.SAMPLE * top > EXACT  # and no smaller than it must be
        with localcontext() as context:
            context.prec = 40
            exact = [top / (1 + (-Decimal(i) / 16).exp()) for i in range(-128, 128)]
        expected = [min(int(e.to_integral_value()), top - 1) for e in exact]
        same(torch.from_numpy(f.sigmoid_table(top)), np.array(expected))
        assert min(abs(e % 1 - Decimal("0.5")) for e in exact) > Decimal("1e-6")


@pytest.mark.parametrize("points", [1, 2, 3, 4, 8])
def test_weighted_samples_are_exact_sums(points: int) -> None:
    """Of more than two points: exact. Of one or two: two rounded products, and a sum that has no order."""
    rng = np.random.default_rng(points)
    shape = (MILLION // points, points)
    samples = rng.integers(-128 * 2**17, 127 * 2**17 + 1, shape)
    samples[:10_000] = rng.integers(-32768, 32512, (10_000, points)) * 512 + 256  # halfway between multiples of 1/256
    samples[10_000:10_100] = -128 * 2**17
    top = f.sampling_levels(points, 255)
    weight = rng.integers(0, top, shape)
    weight[10_000:20_000] = top - 1
    found = f.weigh(TORCH, tensor(samples / 2.0**17), tensor(weight), points).sum(-1)
    if points > 2:
        total = (half_even(samples, 512) * weight).sum(-1)
        assert np.abs(total).max() < EXACT
        same(found, total / 256.0)
        scrambled = f.weigh(TORCH, tensor(samples / 2.0**17), tensor(weight), points)
        same(scrambled.flip(-1).cumsum(-1)[:, -1], total / 256.0)
    else:
        products = f32(samples * weight / 2.0**17)
        same(found, products[:, 0] + products[:, 1] if points == 2 else products[:, 0])


# Boxes.


def references(rng: np.random.Generator, number: int) -> Array:
    """Integers on the grid of 2⁻¹⁴, ends included."""
    values = rng.integers(-(2**15), 2**15, number)
    values[: number // 2] = rng.integers(0, 2**14, number // 2)
    values[:4] = [-(2**15), 2**15 - 1, 0, 16]
    return values


def test_references_go_to_the_nearest_of_their_grid() -> None:
    rng = np.random.default_rng(0)
    ties = rng.integers(-(2**16), 2**16, MILLION // 2)  # multiples of 2⁻¹⁵
    x = np.concatenate((ties / 2.0**15, f32(rng.uniform(-3, 3, MILLION // 2)), [1e30, -1e30]))
    exact = np.clip(np.asarray(f32(x), np.float64), -4, 4) * 2.0**40
    nearest = half_even(exact.astype(np.int64), 2**26)
    same(f.on_reference_grid(TORCH, tensor(x)), np.clip(nearest, *f.INT16) / 2.0**14)
    same(f.on_reference_grid(TORCH, tensor(x), LEAST_SIZE), np.clip(nearest, 16, 2**15 - 1) / 2.0**14)


def test_box_deltas_go_to_the_nearest_of_their_grid() -> None:
    rng = np.random.default_rng(0)
    ties = rng.integers(-(2**17), 2**17, MILLION // 2)  # multiples of 2⁻¹¹
    x = np.concatenate((ties / 2.0**11, f32(rng.normal(size=MILLION // 2) * 8), [1e30, -1e30]))
    exact = np.clip(np.asarray(f32(x), np.float64), -64, 64) * 2.0**40
    same(f.box_deltas(TORCH, tensor(x)), np.clip(half_even(exact.astype(np.int64), 2**30), *f.INT16))


def test_moved_centre_is_integer_arithmetic_rounded_twice() -> None:
    """centre + delta · size in steps of 2⁻²⁴: the product is rounded to float32, then the sum."""
    rng = np.random.default_rng(0)
    delta, centre, size = rng.integers(-(2**15), 2**15, MILLION), references(rng, MILLION), references(rng, MILLION)
    delta[::3] = rng.integers(-200, 200, len(delta[::3]))
    size[::2] = 2 ** rng.integers(0, 14, len(size[::2]))  # ties
    moved = f32(delta * size).astype(np.int64)
    total = f32(centre * 1024 + moved).astype(np.int64)
    found = f.moved_centre(TORCH, tensor(delta), tensor(centre / 2.0**14), tensor(size / 2.0**14))
    same(found, np.clip(half_even(total, 1024), *f.INT16) / 2.0**14)
    assert np.abs(total).max() > EXACT
    near = np.abs(delta * size) < EXACT
    exact = half_even(centre * 1024 + delta * size, 1024)
    assert np.abs(found.numpy() * 2**14 - exact)[near & (np.abs(exact) < 2**15)].max() <= 1


def test_grown_size_is_integer_arithmetic_rounded_once() -> None:
    rng = np.random.default_rng(0)
    delta, size = rng.integers(-(2**15), 2**15, MILLION), references(rng, MILLION)
    delta[::2] = rng.integers(-2048, 2049, len(delta[::2]))
    with localcontext() as context:
        context.prec = 40
        exact = [4096 * (Decimal(i) / 1024).exp() for i in range(-2048, 2049)]
    table = np.array([int(e.to_integral_value()) for e in exact])
    assert min(abs(e % 1 - Decimal("0.5")) for e in exact) > Decimal("1e-6")
    same(torch.from_numpy(f.growth_table(SIZE_LIMIT)), table / 4096.0)
    product = f32(size * table[delta.clip(-2048, 2048) + 2048]).astype(np.int64)
    found = f.grown_size(TORCH, tensor(delta), tensor(size / 2.0**14), SIZE_LIMIT, LEAST_SIZE)
    same(found, np.clip(half_even(product, 4096), 16, 2**15 - 1) / 2.0**14)


def test_boxes_as_logits_are_tables_and_integer_sums() -> None:
    rng = np.random.default_rng(0)
    with localcontext() as context:
        context.prec = 30
        low, high = Decimal(EPSILON), Decimal(1 - EPSILON)
        x = [min(max(Decimal(i) / 2**14, low), high) for i in range(2**14 + 1)]
        logits = [1024 * (v / (1 - v)).ln() for v in x]
        boxes = [2**14 / (1 + (-Decimal(i) / 1024).exp()) for i in range(-8192, 8193)]
    for exact in (logits, boxes):  # the tables are computed in double, off by 1e-12
        assert min(abs(e % 1 - Decimal("0.5")) for e in exact) > Decimal("1e-9")
    logit, box = (np.array([int(e.to_integral_value()) for e in exact]) for exact in (logits, boxes))
    same(torch.from_numpy(f.logit_table(EPSILON)), logit)
    same(torch.from_numpy(f.box_table()), box / 2.0**14)
    delta, reference = rng.integers(-(2**15), 2**15, MILLION), references(rng, MILLION)
    delta[::2] = rng.integers(-1024, 1024, len(delta[::2]))
    moved = (logit[reference.clip(0, 2**14)] + delta).clip(-8192, 8192)
    found = f.moved_logits(TORCH, tensor(delta), tensor(reference / 2.0**14), EPSILON)
    same(found, moved / 1024.0)
    same(f.box_of_logits(TORCH, found), box[moved + 8192] / 2.0**14)


def sine(angle: Decimal) -> Decimal:
    """Taylor's series, for angles up to some hundred."""
    term = total = angle
    for n in range(1, 400):
        term = -term * angle * angle / (2 * n * (2 * n + 1))
        total += term
        if abs(term) < Decimal("1e-25"):
            return total
    raise AssertionError("the series did not end")


def test_sine_rows_and_their_table() -> None:
    rng = np.random.default_rng(0)
    ties = rng.integers(-3000, 6000, MILLION // 2) / 2048
    x = np.concatenate((ties, f32(rng.uniform(-1, 3, MILLION // 2)), [-2, 2 - 2.0**-14, 1e30, -1e30]))
    exact = np.clip(np.asarray(f32(x), np.float64), -4, 4) * 2.0**40
    rows = np.clip(half_even(exact.astype(np.int64), 2**30), -512, 2047) + 512
    same(f.sine_rows(TORCH, tensor(x)), rows)
    frequencies = tuple(sine_frequencies(32).double().tolist())
    table = f.sine_table(frequencies)
    assert table.shape == (2560, 32)
    angle = (np.arange(-512, 2048) / 1024)[:, None] * np.array(frequencies)
    steps = np.concatenate((np.sin(angle), np.cos(angle)), 1) * 127
    assert np.abs(steps % 1 - 0.5).min() > 1e-9  # no library of sines, off by 1e-14, decides differently
    with localcontext() as context:
        context.prec = 60
        quarter = Decimal("1.5707963267948966192313216916397514420985846996875529104874")
        for row, column in zip(rng.integers(0, 2560, 500), rng.integers(0, 32, 500), strict=True):
            own = Decimal(int(row) - 512) / 1024 * Decimal(frequencies[column % 16])
            value = sine(own if column < 16 else own + quarter)
            assert table[row, column] == int((127 * value).to_integral_value()), (row, column)


def overlap_inputs(rng: np.random.Generator, number: int) -> list[Array]:
    """Halved centres and sizes `[2, n, 1]` and `[2, 1, n]` of references."""
    halved = [f32(references(rng, 2 * number) / 2.0**15) for _ in range(2)]
    for x in halved:
        x[number : number + 20] = x[number]  # equal ones
    return [x.reshape(2, *shape) for x in halved for shape in ((number, 1), (1, number))]


def test_overlap_is_its_sequence_of_operations() -> None:
    pair = overlap_inputs(np.random.default_rng(0), 800)
    centre, other_centre, size, other_size = pair
    distance = np.abs(centre.astype(np.float64) - other_centre)
    reach = np.maximum(size.astype(np.float64) + other_size, f32(f.LEAST_REACH / 2))
    assert (f32(distance) == distance).all()
    assert (f32(reach) == reach).all()  # both exact: what follows is a division, a product and a difference
    expected = np.maximum(one - f32(distance) * (f32(2) / f32(reach)), 0)
    found = f.overlap(TORCH, *map(tensor, pair))
    same(found, expected)
    assert float(found.max()) == 1
    # What it means: 1 for equal centres, 0 where the distance passes half the sum of the sizes.
    real = np.maximum(1 - 2 * distance / reach, 0)
    np.testing.assert_allclose(found.numpy(), real, atol=1e-6)


# The same functions as graphs: ONNX Runtime's kernels, plain operators on ONNX Runtime, and on OpenVINO.


class Graph:
    """A graph in the making, its inputs' values, and what torch says of its outputs."""

    def __init__(self) -> None:
        self.builder = GraphBuilder()
        self.xp = KernelArithmetic(self.builder)
        self.given: dict[str, Array] = {}
        self.outputs: dict[str, tuple[Expr, Any]] = {}
        self.expected: dict[str, Array] = {}

    def real(self, name: str, value: Array) -> Expr:
        self.given[name] = f32(value)
        return self.builder.input(name, value.shape)

    def bytes(self, name: str, value: Array) -> Expr:
        """int8 values as the bytes that kernels take."""
        self.given[name] = (value + 128).astype(np.uint8)
        return self.builder.input(name, value.shape, "uint8")

    def expect(self, name: str, expression: Expr, found: Tensor) -> None:
        self.outputs[name] = (expression, tuple(found.shape))
        self.expected[name] = found.numpy()

    def runs(self, folder: Path) -> Iterator[tuple[str, Mapping[str, Array]]]:
        model = self.builder.model(self.outputs, {})
        plain = plain_form(model)
        for form, own in (("kernels", model), ("plain", plain)):
            for level, value in LEVELS.items():
                session = onnxruntime_session(own.SerializeToString(), 1, graph_optimization_level=value)
                found = session.run(list(self.outputs), self.given)
                yield f"{form}, {level}", dict(zip(self.outputs, found, strict=True))
        onnx.save(plain, folder / "plain.onnx")
        network = load_network(folder / "plain.onnx", tuple(self.outputs), 1, "openvino")
        yield "OpenVINO", dict(zip(self.outputs, network(self.given), strict=True))

    def check(self, folder: Path) -> None:
        """Every form gives torch's bits."""
        for form, found in self.runs(folder):
            for name, expected in self.expected.items():
                np.testing.assert_array_equal(found[name], expected, err_msg=f"{form}: {name}")


@pytest.mark.parametrize("channels", [64, 96, 256, 320])
def test_norm_as_a_graph(channels: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(channels)
    x, y = (np.concatenate(p) for p in zip(extreme_rows(rng, channels), signed(rng, 2, 600, channels), strict=True))
    constants = f.norm_constants(rng.uniform(-2, 2, channels), rng.normal(size=channels), 1e-5, 0.03, 0.02)
    graph = Graph()
    operands = (graph.xp.dequantise(graph.bytes("x", x)), graph.xp.dequantise(graph.bytes("y", y)))
    steps = f.norm(graph.xp, *operands, *constants)
    found = f.norm(TORCH, tensor(x), tensor(y), *constants)
    graph.expect("steps", steps, found)
    graph.expect("rounded", graph.xp.dequantise(graph.xp.quantise(steps)), f.to_grid(TORCH, found, -128, 127))
    graph.check(tmp_path)


@pytest.mark.parametrize("keys", [60, 514, 1100])
@pytest.mark.parametrize("levels", [255, 127])
def test_attention_as_a_graph(levels: int, keys: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(keys)
    heads, depth, queries = 4, 16, 60
    q, k, v = signed(rng, heads, queries, depth), signed(rng, heads, depth, keys), signed(rng, heads, keys, depth)
    q[:, :20] = rng.integers(-1, 2, (heads, 20, depth))
    v[0] = -128
    v[1] = 127 - rng.integers(0, 2, v[1].shape)
    seen = (rng.random((1, 1, 1, keys)) < 0.8).astype(np.float32)
    bias = f32(rng.uniform(-40, 40, (heads, queries, keys)))
    bias[:, ::3] = np.rint(bias[:, ::3]) + 0.5
    factors = (f32(1 / 64), f32(1.7), levels)
    graph = Graph()
    graph.xp.tokens = keys
    operands = [graph.bytes(n, x) for n, x in (("q", q), ("k", k), ("v", v))]
    flat = graph.real("mask", seen).reshape(1, 1, keys)
    masked = (graph.xp.const(1.0) - flat) * graph.xp.const(f.HIDDEN)
    steps = f.attention(graph.xp, *operands, masked, graph.real("overlap", bias), *factors)
    hidden = tensor((1 - seen[0]) * f.HIDDEN)
    found = f.attention(TORCH, tensor(q), tensor(k), tensor(v), hidden, tensor(bias), *factors)
    graph.expect("steps", steps, found)
    graph.expect("rounded", graph.xp.dequantise(graph.xp.quantise(steps)), f.to_grid(TORCH, found, -128, 127))
    graph.check(tmp_path)


def test_exp_levels_as_a_graph(tmp_path: Path) -> None:
    """Every entry, by each runtime's own exp."""
    x = np.concatenate((-np.arange(3000), [-(2**24), -(2**15) - 16384]))
    graph = Graph()
    given = graph.real("x", x)
    for levels in (255, 127):
        steps = graph.xp.dequantise(f.exp_levels(graph.xp, given, levels), unsigned=True)
        graph.expect(f"of {levels}", steps, f.exp_levels(TORCH, tensor(x), levels))
    graph.check(tmp_path)


def test_overlap_as_a_graph(tmp_path: Path) -> None:
    pair = overlap_inputs(np.random.default_rng(1), 200)
    graph = Graph()
    operands = [graph.real(f"x{i}", x) for i, x in enumerate(pair)]
    found = f.overlap(TORCH, *map(tensor, pair))
    graph.expect("overlap", f.overlap(graph.xp, *operands), found)
    graph.check(tmp_path)


def test_boxes_as_a_graph(tmp_path: Path) -> None:
    rng, number = np.random.default_rng(0), 50_000
    delta = f32(rng.normal(size=number) * 3)
    delta[: number // 4] = rng.integers(-4096, 4096, number // 4) / 2048  # ties
    reference = f32(rng.normal(size=number))
    centre, size = (f32(references(rng, number) / 2.0**14) for _ in range(2))

    def boxes(xp: Any, delta: Any, reference: Any, centre: Any, size: Any) -> dict[str, Any]:
        steps = f.box_deltas(xp, delta)
        logits = f.moved_logits(xp, steps, centre, EPSILON)
        return {
            "deltas": steps,
            "reference": f.on_reference_grid(xp, reference),
            "centre": f.moved_centre(xp, steps, centre, size),
            "size": f.grown_size(xp, steps, size, SIZE_LIMIT, LEAST_SIZE),
            "logits": logits,
            "box": f.box_of_logits(xp, logits),
            "rows": f.sine_rows(xp, reference),
        }

    graph = Graph()
    arrays = {"d": delta, "r": reference, "c": centre, "s": size}
    written = boxes(graph.xp, *(graph.real(name, x) for name, x in arrays.items()))
    for name, found in boxes(TORCH, *map(tensor, arrays.values())).items():
        graph.expect(name, written[name], found)
    graph.check(tmp_path)


def test_sine_code_as_a_graph(tmp_path: Path) -> None:
    reference = references(np.random.default_rng(0), 2000).reshape(-1, 4) / 2.0**14
    table = f.sine_table(tuple(sine_frequencies(32).double().tolist()))
    graph = Graph()
    rows = f.sine_rows(graph.xp, graph.real("reference", reference))
    code = graph.xp.dequantise(graph.xp.lookup((table + 128).astype(np.uint8), rows))
    graph.expect("code", code, TORCH.lookup(table, f.sine_rows(TORCH, tensor(reference))))
    graph.check(tmp_path)


@pytest.mark.parametrize("size", SIZES[:5], ids=str)
@pytest.mark.parametrize("points", [1, 2, 4])
def test_sampling_as_a_graph(points: int, size: tuple[int, int], tmp_path: Path) -> None:
    """Positions, samples, weights by bytes, and their sum."""
    rng = np.random.default_rng(points)
    heads, depth, tokens, k = 4, 8, 300, f.POSITION
    maps = signed(rng, heads, depth, *size)
    offsets = f32(rng.normal(size=(heads, tokens, points, 2)) * 2)
    centre, extent = (f32(references(rng, heads * tokens * 2) / 2.0**14).reshape(heads, tokens, 1, 2) for _ in range(2))
    extent[:, ::2] = np.abs(extent[:, ::2]) / 8
    logits = signed(rng, heads, 1, tokens, points)
    table = f.sigmoid_table(f.sampling_levels(points, 255))
    graph = Graph()
    boxes = [graph.real(name, x) for name, x in (("offsets", offsets), ("centre", centre), ("size", extent))]
    grid = f.positions(graph.xp, *boxes, k, points)
    value = graph.xp.dequantise(graph.bytes("maps", maps))
    sampled = graph.builder.op("GridSample", value, grid, align_corners=0, mode="linear", padding_mode="zeros")
    weight = graph.xp.lookup(table, graph.bytes("logits", logits))
    weighted = f.weigh(graph.xp, sampled, weight, points)
    mixed = graph.builder.op("ReduceSum", weighted, graph.builder.shape(-1), keepdims=0)
    where = f.positions(TORCH, tensor(offsets), tensor(centre), tensor(extent), k, points)
    samples = F.grid_sample(tensor(maps), where, "bilinear", "zeros", align_corners=False)
    graph.expect("grid", grid, where)
    graph.expect("samples", sampled, samples)
    weights = TORCH.lookup(table, tensor(logits) + 128)
    graph.expect("mixed", mixed, f.weigh(TORCH, samples, weights, points).sum(-1))
    x, y = ((where[..., i] * float(k[i])).long().numpy().reshape(heads, -1) for i in (0, 1))
    exact = np.stack([exact_samples(*each) for each in zip(maps, x, y, strict=True)])
    same(samples, exact.reshape(samples.shape) / 2.0**17)
    graph.check(tmp_path)


@pytest.mark.parametrize("pair", [(4096, 4096), (2048, 6144), (5461, 1365), (1, 65535), (65535, 65535), (65535, 65533)])
def test_sum_of_two_grids_as_a_graph(pair: tuple[int, int], tmp_path: Path) -> None:
    """All pairs of bytes by ONNX Runtime's own operator."""
    x, y = (a.reshape(1, 16, 16, 256) for a in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
    factors = (pair[0] / 4096, pair[1] / 4096)
    graph = Graph()
    zero = graph.xp.zero(False)
    operands = [
        part
        for name, value, factor in zip("xy", (x, y), factors, strict=True)
        for part in (graph.bytes(name, value), graph.xp.const(factor), zero)
    ]
    total = graph.builder.op("QLinearAdd", *operands, graph.xp.const(1.0), zero, domain=MICROSOFT)
    expected = f.to_grid(TORCH, f.add(TORCH, tensor(x), tensor(y), factors), -128, 127)
    same(expected, np.clip(half_even(x * pair[0] + y * pair[1], 4096), -128, 127))
    graph.expect("sum", graph.xp.dequantise(total), expected)
    graph.check(tmp_path)


@pytest.mark.parametrize("values", ["integers", "halves"])
def test_a_float_input_goes_to_its_grid_alike_in_all_forms(values: str, tmp_path: Path) -> None:
    """State comes in steps of the grid that it left; where that is another, it may lie anywhere, on ties as well."""
    scales = f32(np.random.default_rng(0).uniform(0.005, 0.1, 8))
    steps = np.arange(-130, 130) + (0.5 if values == "halves" else 0)
    graph = Graph()
    for i, scale in enumerate(scales):
        x = f32(steps * scale)
        found = f.to_grid(TORCH, f.entered(TORCH, tensor(x), float(scale)), -128, 127)
        same(found, np.clip(np.rint(x * f32(1 / float(scale))), -128, 127))
        given = graph.xp.quantise(f.entered(graph.xp, graph.real(f"x{i}", x), float(scale)))
        graph.expect(f"of {scale}", graph.xp.dequantise(given), found)
    graph.check(tmp_path)
