"""Fake quantisation with its observer: one module per quantised tensor of the prepared graph.

Thinner than torchao's own modules for two reasons: on the CPU its kernels take ten times as long as four vectorised
elementwise operations that give the same bits, and reading the on/off buffers costs as much as small tensors do.
Always symmetric: the zero point is 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchao.quantization.pt2e.fake_quantize import FakeQuantizeBase

from motrlab.quantization.observers import BINS, FROM_HISTOGRAM, MagnitudeHistogram

MIN_SCALE = 1e-6  # keeps int32 biases (bias / (input scale · weight scale)) of dead channels inside their range
_MOMENTUM = 0.02  # of the moving average, once as many batches are seen as it spans; before, a plain mean


class _StraightThrough(torch.autograd.Function):
    """Round to the grid; the gradient passes where nothing was clipped (arXiv 1308.3432)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor | float, low: int, high: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.scale, ctx.low, ctx.high = scale, low, high
        return _round_to_grid(x, scale, low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        (gradient,) = gradients
        if isinstance(ctx.scale, float):
            edges = ((ctx.low - 0.5) * ctx.scale, (ctx.high + 0.5) * ctx.scale)
            return torch.ops.aten.hardtanh_backward(gradient, x, *edges), None, None, None
        inside = (x >= (ctx.low - 0.5) * ctx.scale) & (x <= (ctx.high + 0.5) * ctx.scale)
        return gradient * inside, None, None, None


def _round_to_grid(x: Tensor, scale: Tensor | float, low: int, high: int) -> Tensor:
    """Divided by the scale of an activation, as ONNX's QuantizeLinear does and the runtimes with it; multiplied by the
    reciprocal of a weight's, as torch's quantise operator does at conversion.

    The other way round one value in 100,000 falls on the other side of a tie, and other tracks follow (docs/LOG.md).
    """
    steps = x / scale if isinstance(scale, float) else x * (1.0 / scale)
    return steps.round_().clamp_(low, high).mul_(scale)


class FakeQuantize(FakeQuantizeBase):
    """Per-tensor fake quantisation of an activation.

    Args:
        dtype, quant_min, quant_max, qscheme: as torchao's specs give them.
        observer: `min_max` (largest magnitude ever), `moving_average` (of each batch's largest magnitude) or one of
            `observers.FROM_HISTOGRAM`, chosen at the end of calibration; in training these follow the moving average.
        percentile: per cent of the magnitudes that the observer of that name keeps.
        fixed_scale: a scale that nothing changes.
    """

    is_dynamic = False

    def __init__(
        self,
        dtype: torch.dtype = torch.int8,
        quant_min: int = -128,
        quant_max: int = 127,
        qscheme: torch.qscheme = torch.per_tensor_symmetric,
        is_dynamic: bool = False,
        observer: str = "moving_average",
        percentile: float = 99.99,
        fixed_scale: float | None = None,
    ) -> None:
        super().__init__()
        assert not is_dynamic, "ranges are static"
        self.dtype, self.qscheme = dtype, qscheme
        self.quant_min, self.quant_max = quant_min, quant_max
        self.observer, self.percentile, self.fixed_scale = observer, percentile, fixed_scale
        self.observing = True
        self.quantising = False
        self.register_buffer("scale", torch.tensor([fixed_scale or 1.0]))
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32))
        self.register_buffer("batches", torch.zeros(1))
        self.calibrating = False
        if observer in FROM_HISTOGRAM and fixed_scale is None:
            self.register_buffer("histogram", torch.zeros(BINS))
            self.register_buffer("histogram_range", torch.zeros(1))
        self._step: float | None = None  # the scale as a number, so that it is not read from a tensor every time

    scale: Tensor
    zero_point: Tensor
    batches: Tensor
    histogram: Tensor
    histogram_range: Tensor

    def set_mode(self, *, observing: bool, quantising: bool, calibrating: bool = False) -> None:
        """Switch observer and quantiser; caches are dropped. `calibrating` fills histograms."""
        self.observing = observing and self.fixed_scale is None
        self.quantising = quantising
        self.calibrating = calibrating
        self._step = None

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """Scale and zero point, what conversion asks for."""
        return self.scale, self.zero_point

    def forward(self, x: Tensor) -> Tensor:
        if self.observing:
            self._observe(x.detach())
        if not self.quantising:
            return x
        if self._step is None:
            self._step = float(self.scale)
        if torch.is_grad_enabled() and x.requires_grad:
            out: Tensor = _StraightThrough.apply(x, self._step, self.quant_min, self.quant_max)
            return out
        return _round_to_grid(x, self._step, self.quant_min, self.quant_max)

    def _observe(self, x: Tensor) -> None:
        """Numbers rather than tensors: half the time on the CPU, where this runs for every tensor of every frame."""
        low, high = torch.aminmax(x)
        new = max(max(float(high), -float(low)) / self.quant_max, MIN_SCALE)
        seen, old = float(self.batches), float(self.scale)
        if seen == 0:
            old = new
        elif self.observer == "min_max":
            old = max(old, new)
        else:
            old += max(1 / (seen + 1), _MOMENTUM) * (new - old)
        self.batches.fill_(seen + 1)
        self.scale.fill_(old)
        if self.calibrating and self.observer in FROM_HISTOGRAM:
            MagnitudeHistogram(self.histogram, self.histogram_range).add(x)
        self._step = None

    def finish(self) -> None:
        """Choose the scale from the histogram, after calibration."""
        choose = FROM_HISTOGRAM.get(self.observer)
        if choose is None or self.fixed_scale is not None or float(self.histogram_range) == 0:
            return
        clip = choose(self.histogram, float(self.histogram_range), self.quant_max, self.percentile)
        self.scale.fill_(max(clip / self.quant_max, MIN_SCALE))
        self._step = None


class PerChannelFakeQuantize(FakeQuantizeBase):
    """Fake quantisation of a weight, per output channel (`ch_axis`); its scales follow the weight while observing.

    With `per_channel` False all channels have the scale of the largest: kernels want one scale per channel either way.
    """

    is_dynamic = False

    def __init__(
        self,
        dtype: torch.dtype = torch.int8,
        quant_min: int = -127,
        quant_max: int = 127,
        qscheme: torch.qscheme = torch.per_channel_symmetric,
        ch_axis: int = 0,
        is_dynamic: bool = False,
        per_channel: bool = True,
    ) -> None:
        super().__init__()
        assert not is_dynamic, "ranges are static"
        self.dtype, self.qscheme, self.ch_axis, self.per_channel = dtype, qscheme, ch_axis, per_channel
        self.quant_min, self.quant_max = quant_min, quant_max
        self.observing = True
        self.quantising = False
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("zero_point", torch.zeros(1, dtype=torch.int32))
        self._folded: Tensor | None = None  # the quantised weight, while neither weight nor scale change
        self._seen_version = -1  # of the weight: it is the same for all frames of a step

    scale: Tensor
    zero_point: Tensor

    def set_mode(self, *, observing: bool, quantising: bool, calibrating: bool = False) -> None:
        """As `FakeQuantize.set_mode`."""
        self.observing, self.quantising = observing, quantising
        self._folded = None
        self._seen_version = -1

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        return self.scale, self.zero_point

    def forward(self, weight: Tensor) -> Tensor:
        if self.observing:
            self._observe(weight.detach())
        if not self.quantising:
            return weight
        if torch.is_grad_enabled() and weight.requires_grad:
            out: Tensor = _StraightThrough.apply(weight, self._spread(weight), self.quant_min, self.quant_max)
            return out
        if self._folded is None or self.observing:
            self._folded = _round_to_grid(weight.detach(), self._spread(weight), self.quant_min, self.quant_max)
        return self._folded

    def _observe(self, weight: Tensor) -> None:
        if weight._version == self._seen_version:
            return
        self._seen_version = weight._version
        others = [axis for axis in range(weight.ndim) if axis != self.ch_axis]
        largest = weight.abs().amax(others)
        if not self.per_channel:
            largest = largest.amax().expand_as(largest).contiguous()
        self.scale = (largest / self.quant_max).clamp(min=MIN_SCALE)
        if self.zero_point.shape != self.scale.shape:
            self.zero_point = torch.zeros_like(self.scale, dtype=torch.int32)

    def _spread(self, weight: Tensor) -> Tensor:
        """The scales, shaped to multiply the weight."""
        return self.scale.reshape([-1 if axis == self.ch_axis else 1 for axis in range(weight.ndim)])

    def finish(self) -> None:
        """Nothing to choose: the scale is that of the largest weight."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # The number of channels is known only from a first forward, or from the file.
        for name in ("scale", "zero_point"):
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=self.scale.device))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class BiasRounding(nn.Module):
    """A bias on the grid of the int32 accumulator: multiples of input scale × weight scale.

    Only in inference; training goes on with the float bias, whose rounding is far below every other.
    """

    def __init__(self, inputs: FakeQuantize, weight: PerChannelFakeQuantize) -> None:
        super().__init__()
        self._sources = (inputs, weight)  # a tuple, so that their state is not saved twice
        self.quantising = False
        self._rounded: Tensor | None = None

    def set_mode(self, *, observing: bool, quantising: bool, calibrating: bool = False) -> None:
        """As `FakeQuantize.set_mode`; while observing there is no grid yet."""
        self.quantising = quantising and not observing
        self._rounded = None

    def forward(self, bias: Tensor) -> Tensor:
        if not self.quantising or (torch.is_grad_enabled() and bias.requires_grad):
            return bias
        if self._rounded is None:
            grid = self._sources[0].scale * self._sources[1].scale
            integers = (bias.detach().double() / grid.double()).round().clamp(-(2**31), 2**31 - 1)
            self._rounded = (integers * grid.double()).float()
        return self._rounded
