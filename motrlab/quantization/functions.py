"""The integer functions: what every operation between image and outputs computes in fixed point, defined once.

A function takes the arithmetic that it is computed with, `xp`: PyTorch (`torch_arithmetic.py`), ONNX operators as ONNX
Runtime's integer kernels want them (`deploy/kernel_graph.py`), or plain ONNX operators (`deploy/plain.py`). Values are
integers carried in float32, in steps of their grids. Results are not rounded yet: `to_grid` comes last for all.
References and boxes are fractions of the image on a grid of 2⁻¹⁴, so arithmetic on them is arithmetic on integers.

Every processor and every library computes the same bits, because each step is of one of three kinds: (1) a sum of
integers below 2²⁴, exact in float32 in any order, fused or not; (2) one operation (+ − × ÷ √) of IEEE 754, rounded
once, that no compiler may contract with the next: a product that a sum follows stands in `xp.apart`; (3) a table.
Rounding is to the nearest integer, ties to even, throughout.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

EXACT = 2**24  # sums below are exact in float32
FRACTION = 4096  # factors of a sum are multiples of 1/4096
LOGIT = 16.0  # attention logits, and those of sampling weights, are on a grid of 1/16
HIDDEN = -16384.0  # added to logits that must not be seen
ONE = 127  # sums of shares come times this: the largest signed byte
# Sampling positions, from -1 to 1 over a map, are multiples of 1/256 in x and of 1/128 in y.
POSITION = np.array([2**8, 2**7], np.float32)
SAMPLE = 2**8  # where more than two samples are summed, they are rounded to multiples of 1/256 first
REFERENCE = 2**14  # boxes
DELTA = 2**10  # what a box head says, and box logits
GROWTH = 2**12  # the factor by which a box grows
SINE = 2**10  # coordinates at which the sine positional encoding is tabulated...
SINE_RANGE = (-512, 2047)  # ...and from where to where
LARGEST_LOGIT = 8 * DELTA
LEAST_REACH = 1e-3  # two boxes without a size would be infinitely far apart
INT16 = (-(2**15), 2**15 - 1)
f32: Any = np.float32  # rounds to it


def to_grid(xp: Any, steps: Any, low: int, high: int) -> Any:
    """Real steps → the nearest integer from `low` to `high`. Behind a ReLU `low` is 0: saturation is the ReLU."""
    return xp.clip(xp.round(steps), low, high)


def entered(xp: Any, x: Any, scale: Any) -> Any:
    """Real values → steps of a scale: x · f32(1/s), rounded once; `to_grid` follows. (OpenVINO divides like that.)"""
    return x * xp.const(1 / scale)


def key_parts(num_keys: int) -> tuple[slice, ...]:
    """Slices of the keys of an attention whose sums of 8-bit products stay below 2²⁴: of 514 keys each."""
    size = (EXACT - 1) // (255 * 128)
    return tuple(slice(i, min(i + size, num_keys)) for i in range(0, num_keys, size))


def exact_parts(magnitude: NDArray[Any], bias: NDArray[Any]) -> tuple[slice, ...]:
    """Slices along the inputs of a product whose sums stay below 2²⁴: float forms add those sums as integers.

    `magnitude` `[out, in]`: the largest that each input can add to each output; `bias` `[out]` goes with the first
    slice. Raises OverflowError where int32 cannot hold the sum of all.
    """
    num_inputs = magnitude.shape[1]
    if (magnitude.sum(1) + np.abs(bias)).max() >= 2**31:
        raise OverflowError(f"the sum of {num_inputs} products can pass 2³¹")
    for num_parts in range(1, num_inputs + 1):
        size = -(-num_inputs // num_parts)
        parts = tuple(slice(i, min(i + size, num_inputs)) for i in range(0, num_inputs, size))
        sums = np.stack([magnitude[:, p].sum(1) for p in parts])
        sums[0] += np.abs(bias)
        if sums.max() < EXACT:
            return parts
    raise OverflowError("the products of a single input can pass 2²⁴")


def product(xp: Any, accumulator: Any, factor: Any) -> Any:
    """Accumulator (products and bias, int32) → steps of the output grid (8 bits); `factor` f32(f32(s_x·s_w)/s_y) `[C]`.

    Where the sum can pass 2²⁴, float forms add parts as integers and round once to float32, as integer kernels do it.
    """
    return accumulator * factor


def add_factors(x_scale: float, y_scale: float, scale: float, *, wide: bool = False) -> tuple[float, float]:
    """Factors of `add`: the nearest multiples of 1/4096. Raises OverflowError where 256 of them would not be exact.

    `wide`: a sum on a grid of 16 bits, which has no such limit. It is not exact in float32; analysis alone uses it.
    """
    factors = [round(s / scale * FRACTION) for s in (x_scale, y_scale)]
    if max(factors) * 256 >= EXACT and not wide:
        raise OverflowError(f"a sum's grid is {max(factors) / FRACTION:.0f} times finer than that of what it adds")
    return factors[0] / FRACTION, factors[1] / FRACTION


def add(xp: Any, x: Any, y: Any, factors: tuple[float, float]) -> Any:
    """Sum of two grids on a third: x·k_x/4096 + y·k_y/4096; 8-bit times 16-bit integers (`add_factors`), below 2²⁴.

    A sum that passes the grid's end by far may lose last bits; it is cut anyway.
    """
    return x * xp.const(factors[0]) + y * xp.const(factors[1])


def norm_limit(channels: int) -> int:
    """Centred values are cut here, so that their squares sum to less than 2²⁴; see `norm`."""
    return math.isqrt((EXACT - 1) // channels)


def norm_constants(
    weight: NDArray[Any], bias: NDArray[Any], epsilon: float, x_scale: float, scale: float
) -> tuple[Float32, Float32, np.float32]:
    """`gain` √C·γ/2s and `shift` β/s, `[C]`, and `epsilon` C·ε/s_x²: see `norm`."""
    channels = len(weight)
    return f32(weight * math.sqrt(channels) / scale / 2), f32(bias / scale), f32(channels * epsilon / x_scale**2)


def norm(xp: Any, x: Any, y: Any, gain: Any, shift: Any, epsilon: Any) -> Any:
    """LayerNorm over the last axis of the sum of two int8 tensors of one grid (a 9-bit integer).

    d = x + y − rint(S/C), S = Σ(x + y); result d · (2 / √(Σd² + C·ε′)) · √C·γ/2s + β/s. S and Σd² are exact integers:
    Σd² ≤ C · 255² + C/4, which is below 2²⁴ up to 258 channels; with more, d is cut at `norm_limit`. The others are
    single operations: C divides as a product with its reciprocal, and the numerator is a power of two, because that is
    how OpenVINO divides.
    """
    channels = gain.shape[-1]
    gain, shift, epsilon = (xp.const(constant) for constant in (gain, shift, epsilon))
    total = x + y
    centred = total - xp.round(xp.sum(total) * xp.const(f32(1 / channels)))
    limit = norm_limit(channels)
    if limit < 255:
        centred = xp.clip(centred, -limit, limit)
    deviation = xp.sqrt(xp.sum_squares(centred) + epsilon)
    return xp.apart(centred * (xp.const(2.0) / deviation) * gain) + shift


def attention(
    xp: Any, query: Any, key: Any, value: Any, masked: Any, overlap: Any, logit_factor: Any, factor: Any, levels: int
) -> Any:
    """Softmax attention: `query` `[…, N, D]`, `key` `[…, D, N]`, `value` `[…, N, D]` int8 → `[…, N, D]` in steps.

    x = rint(q·k · f + overlap) + mask, logits on a grid of 1/16; E = rint(levels · exp((x − max x) / 16)), a table of
    8 bits (`exp_levels`); Σ E·v · (2 / (127 · ΣE) · f′/2). Both sums are integers, in float forms by `key_parts`.
    `xp.weighted` gives them; to integer kernels 127 · ΣE is a product with a column of 127.
    """
    logits = xp.matmul(query, key, logit_factor)
    if overlap is not None:
        logits = xp.apart(logits) + xp.apart(overlap)
    logits = xp.round(logits) + masked
    shares = exp_levels(xp, logits - xp.max(logits), levels)
    mixed, total = xp.weighted(shares, value)
    return mixed * ((xp.const(2.0) / total) * xp.const(f32(factor / 2)))


def exp_levels(xp: Any, x: Any, levels: int) -> Any:
    """The table rint(levels · exp(x / 16)) for integers x ≤ 0, by exp: no entry is as near a tie as exp may err."""
    return xp.unsigned_grid(xp.exp(x * xp.const(1 / LOGIT)), levels)


def sampling_levels(points: int, levels: int) -> int:
    """Sampling weights are multiples of one over this: sums over points stay below 2²⁴. `levels`: 255 or 127."""
    return (levels + 1) >> max(0, math.ceil(math.log2(points)) - 1)


@cache
def sigmoid_table(levels: int) -> Float32:
    """rint(levels · σ(i / 16)), at most levels − 1, for i from -128 to 127: sampling weights."""
    logits = np.arange(-128, 128) / LOGIT
    return np.minimum(np.rint(levels / (1 + np.exp(-logits))), levels - 1).astype(np.float32)


def positions(xp: Any, offsets: Any, centre: Any, size: Any, axes: Any, points: int) -> Any:
    """Sampling points from -1 to 1 over the map: rint(k·(2c − 1) + offset · s·k/P) / k, int16.

    `offsets` in half sizes over points, `centre` and `size` fractions of the image, `axes` `POSITION` shaped as they
    are. On such a grid GridSample has the same pixel coordinate everywhere, whatever the map's size; and the four
    products of a sample of int8 values, and their sum, have no more than 24 bits.
    """
    start = centre * xp.const(2 * axes) - xp.const(axes)
    moved = xp.apart(offsets * (size * xp.const(axes * f32(1 / points))))
    return to_grid(xp, start + moved, *INT16) * xp.const(1 / axes)


def weigh(xp: Any, sampled: Any, weight: Any, points: int) -> Any:
    """Samples times their weights of 8 bits, to be summed over the points.

    One product, or the sum of two, is rounded alike in any order. Samples of more points go to a grid of 1/`SAMPLE`
    first, so that their sum stays below 2²⁴ (`sampling_levels`).
    """
    if points > 2:
        sampled = xp.round(sampled * xp.const(float(SAMPLE))) * xp.const(1 / SAMPLE)
    return sampled * weight


def box_deltas(xp: Any, delta: Any) -> Any:
    """What a box head says, in steps of 2⁻¹⁰: rint(1024 · x), int16; the product by a power of two is exact."""
    return to_grid(xp, delta * xp.const(float(DELTA)), *INT16)


@cache
def growth_table(limit: float) -> Float32:
    """rint(4096 · exp(i/1024)) / 4096 for |i| ≤ 1024 · limit."""
    index = np.arange(-int(limit * DELTA), int(limit * DELTA) + 1)
    return (np.rint(np.exp(index / DELTA) * GROWTH) / GROWTH).astype(np.float32)


def on_reference_grid(xp: Any, x: Any, low: float = -2.0) -> Any:
    """Fractions of the image → rint(2¹⁴ · x) / 2¹⁴, an int16, at least `low`; products by powers of two are exact."""
    return to_grid(xp, x * xp.const(float(REFERENCE)), round(low * REFERENCE), INT16[1]) * xp.const(1 / REFERENCE)


def moved_centre(xp: Any, delta: Any, centre: Any, size: Any) -> Any:
    """Relative boxes: centre + delta · size, `delta` from `box_deltas`; product and sum are rounded once each."""
    return on_reference_grid(xp, centre + xp.apart(xp.apart(delta * xp.const(1 / DELTA)) * size))


def grown_size(xp: Any, delta: Any, size: Any, limit: float, least: float) -> Any:
    """Relative boxes: size · exp(delta), |delta| ≤ limit, at least `least`: int16 times a table entry, rounded once."""
    edge = int(limit * DELTA)
    growth = xp.lookup(growth_table(limit), xp.clip(delta, -edge, edge) + xp.const(float(edge)))
    return on_reference_grid(xp, size * growth, least)


def refined(xp: Any, delta: Any, reference: Any, *, relative: bool, limit: float, least: float, epsilon: float) -> Any:
    """Box output on its grid, channels on axis 1: relative boxes, or logits; `delta` from `box_deltas`."""
    if not relative:
        return moved_logits(xp, delta, reference, epsilon)
    (dc, ds), (centre, size) = (x.split((2, 2), 1) for x in (delta, reference))
    return xp.cat([moved_centre(xp, dc, centre, size), grown_size(xp, ds, size, limit, least)])


@cache
def logit_table(epsilon: float) -> Float32:
    """rint(1024 · logit(i/2¹⁴)) for i from 0 to 2¹⁴, ε away from the ends."""
    x = np.clip(np.arange(REFERENCE + 1) / REFERENCE, epsilon, 1 - epsilon)
    return np.rint(np.log(x / (1 - x)) * DELTA).astype(np.float32)


@cache
def box_table() -> Float32:
    """rint(2¹⁴ · σ(i/1024)) / 2¹⁴ for i from -8192 to 8192."""
    index = np.arange(-LARGEST_LOGIT, LARGEST_LOGIT + 1)
    return (np.rint(REFERENCE / (1 + np.exp(-index / DELTA))) / REFERENCE).astype(np.float32)


def moved_logits(xp: Any, delta: Any, reference: Any, epsilon: float) -> Any:
    """Boxes as logits: logit(reference) by a table, plus delta; a sum of int16, on the grid of 2⁻¹⁰, from -8 to 8."""
    index = xp.clip(reference * xp.const(float(REFERENCE)), 0, REFERENCE)
    moved = xp.lookup(logit_table(epsilon), index) + delta
    return xp.clip(moved, -LARGEST_LOGIT, LARGEST_LOGIT) * xp.const(1 / DELTA)


def box_of_logits(xp: Any, logits: Any) -> Any:
    """σ of box logits i/1024 with |i| ≤ 8192, by a table; the result is on the grid of 2⁻¹⁴."""
    return xp.lookup(box_table(), logits * xp.const(float(DELTA)) + xp.const(float(LARGEST_LOGIT)))


@cache
def sine_table(frequencies: tuple[float, ...]) -> Float32:
    """A sine positional encoding in steps of 1/127, a row for each i/1024 in `SINE_RANGE`: sines, then cosines."""
    angle = (np.arange(SINE_RANGE[0], SINE_RANGE[1] + 1) / SINE)[:, None] * np.array(frequencies)
    return np.rint(np.concatenate((np.sin(angle), np.cos(angle)), 1) * 127).astype(np.float32)


def sine_rows(xp: Any, reference: Any) -> Any:
    """Which row of `sine_table` stands for each coordinate: rint(1024 · x) − the first one's."""
    return to_grid(xp, reference * xp.const(float(SINE)), *SINE_RANGE) - xp.const(float(SINE_RANGE[0]))


def overlap(xp: Any, centre: Any, other_centre: Any, size: Any, other_size: Any) -> Any:
    """Overlap of reference boxes along one axis: relu(1 − ½|Δ| · (2 / ½(s + s′))); centres and sizes come halved."""
    reach = xp.maximum(size + other_size, f32(LEAST_REACH / 2))
    return xp.relu(xp.const(1.0) - xp.apart(xp.absolute(centre - other_centre) * (xp.const(2.0) / reach)))
