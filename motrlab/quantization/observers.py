"""The ranges that observers have seen, how they are chosen from histograms, and the scales that follow.

What is added to `FROM_HISTOGRAM` can be named in a rule once `config.scheme.OBSERVERS` lists it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from motrlab.config.scheme import MIN_SCALE
from motrlab.quantization.tensors import TensorSpec

BINS = 2048
_UNSEEN = 4.0  # the range of a norm: nothing overflows if a track lives after all
_MOMENTUM = 0.02  # of the moving average, once as many updates are seen as it spans; before, a plain mean


def count_magnitudes(x: Tensor, counts: Tensor, limit: Tensor) -> None:
    """Add the magnitudes of `x` to `counts` `[BINS]` of 0..`limit` `[1]`, a module's buffers, in place.

    `limit` doubles, and bins merge in pairs, when it must; 0: nothing was counted yet.
    """
    magnitude = x.abs()
    largest = float(magnitude.max())
    if float(limit) == 0:
        limit.fill_(largest)
    if float(limit) == 0:
        return
    while largest > float(limit):
        merged = counts.reshape(-1, 2).sum(1)
        counts.zero_()[: BINS // 2] = merged
        limit *= 2
    counts += torch.histc(magnitude.float(), BINS, 0, float(limit))


def mse_clip(counts: Tensor, limit: float, levels: int, _: float) -> float:
    """The magnitude to clip at for the least squared error: on average s²/12 in steps of s, the distance beyond."""
    centre = (torch.arange(len(counts), device=counts.device) + 0.5) * (limit / len(counts))
    clip = torch.linspace(0.1, 1.0, 181, device=counts.device)[:, None] * limit
    step = clip / levels
    error = torch.where(centre <= clip, step**2 / 12, (centre - clip) ** 2)
    error = torch.where(centre < step / 2, centre**2, error)  # rounds to zero
    return float(clip[(error * counts).sum(1).argmin()])


def percentile_clip(counts: Tensor, limit: float, levels: int, percentile: float) -> float:
    """The magnitude below which `percentile` per cent of the values lie: the upper edge of its bin."""
    reached = counts.double().cumsum(0) >= counts.double().sum() * (percentile / 100)
    return float(reached.nonzero()[0] + 1) / len(counts) * limit


def kl_clip(counts: Tensor, limit: float, levels: int, _: float) -> float:
    """The magnitude to clip at for the least Kullback-Leibler divergence of the quantised from the clipped histogram.

    As in entropy calibration (Migacz, "8-bit inference with TensorRT", GTC 2017): what is clipped counts in the last
    bin, and each level spreads its count evenly over its bins that are not empty. With more levels than bins nothing is
    clipped. The lowest bin, which holds the zeros of every ReLU, is left out.
    """
    if levels >= len(counts):
        return limit
    mass = counts.double().clone()
    mass[0] = 0
    best, chosen = float("inf"), limit
    for edge in range(levels, len(counts) + 1, 16):
        reference = mass[:edge].clone()
        reference[-1] += mass[edge:].sum()
        level = (torch.arange(edge, device=counts.device) * levels // edge).long()
        filled = (mass[:edge] > 0).double()
        sums, sizes = (torch.bincount(level, numbers, levels) for numbers in (mass[:edge], filled))
        model = (sums / sizes.clamp(min=1))[level] * filled
        if not bool(model.any()):
            continue
        p, q = reference / reference.sum(), model / model.sum()
        seen = p > 0
        # What the clipped histogram has and the quantised one has not would be infinitely surprising.
        divergence = float((p[seen] * (p[seen] / q[seen].clamp(min=1e-12)).log()).sum())
        if divergence < best:
            best, chosen = divergence, edge / len(counts) * limit
    return chosen


Clip = Callable[[Tensor, float, int, float], float]
# (counts `[BINS]`, limit, levels on one side, percentile) → magnitude to clip at
FROM_HISTOGRAM: dict[str, Clip] = {"percentile": percentile_clip, "mse": mse_clip, "kl": kl_clip}


class Ranges(nn.Module):
    """Largest magnitude of every tensor, and `scale` `[groups]` of every grid: float32 numbers, saved with the model.

    An observation is the largest magnitude in one frame, over the slots that hold somebody. Observations wait in
    `pending` (saved too) for `advance`: all frames of a training step have one grid. A grid that several tensors share
    reaches as far as the largest of them.
    """

    largest: Tensor
    seen: Tensor
    pending: Tensor
    histograms: Tensor
    limits: Tensor

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        super().__init__()
        self._specs = specs
        self._index = {spec.key: index for index, spec in enumerate(specs)}
        self._row = {s.key: row for row, s in enumerate(s for s in specs if s.rule.observer in FROM_HISTOGRAM)}
        num_groups = max(spec.group for spec in specs) + 1
        self.register_buffer("largest", torch.zeros(len(specs), dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(len(specs)))
        self.register_buffer("pending", torch.zeros(3, len(specs), dtype=torch.float64))  # count, sum, largest
        self.register_buffer("histograms", torch.zeros(len(self._row), BINS))
        self.register_buffer("limits", torch.zeros(len(self._row)))
        self.scale = nn.Parameter(torch.ones(num_groups), requires_grad=False)
        self.follow()

    @torch.no_grad()
    def observe(
        self, spec: TensorSpec, x: Tensor, live: Tensor | None, scale: float = 1.0, *, calibrating: bool
    ) -> None:
        """Look at values `[B, C, R, W]` in steps of `scale`; `live` `[B, 1, R, W]`. Counts from `advance` on."""
        row = self._row.get(spec.key)
        if spec.fixed is not None or (row is not None and not calibrating):
            return
        axes = tuple(range(1, x.ndim))
        frames = float(len(x)) if live is None else live.amax(axes).sum()  # without a slot that counts: largest is 0
        x = x if live is None else x * live
        magnitude = x.amax(axes) if spec.low == 0 else torch.maximum(x.amax(axes), -x.amin(axes))
        magnitude = magnitude.clamp(min=0) * scale
        if spec.ceiling is not None:
            magnitude = magnitude.clamp(max=spec.ceiling)
        index = self._index[spec.key]
        count, total, most = self.pending[:, index]
        count += frames
        total += magnitude.double().sum()
        most.copy_(torch.maximum(most, magnitude.amax()))
        if row is not None:
            values = x if live is None else x.movedim(1, -1)[live[:, 0] > 0]
            if len(values):
                count_magnitudes(values * scale, self.histograms[row], self.limits[row : row + 1])

    def forget(self) -> None:
        """As if nothing had been observed; scales stay until the next `follow`."""
        for buffer in self.buffers():
            buffer.zero_()

    @torch.no_grad()
    def advance(self) -> None:
        """Take what was observed since the last time into the ranges, and let the scales follow."""
        counts, totals, most = self.pending
        new = counts > 0
        if not new.any():
            return
        rate = (1 / (self.seen.double() + 1)).clamp(min=_MOMENTUM)
        average = self.largest + rate * (totals / counts - self.largest)
        follows_largest = torch.tensor([spec.rule.observer == "min_max" for spec in self._specs]).to(new.device)
        moved = torch.where(follows_largest, torch.maximum(self.largest, most), average)
        self.largest.copy_(torch.where(new, moved, self.largest))
        self.seen += new
        self.pending.zero_()
        self.follow()

    @torch.no_grad()
    def finish(self) -> None:
        """End of calibration: ranges from histograms where a rule asks; a norm's for what was never observed."""
        self.advance()
        for spec in self.unseen():
            self.largest[self._index[spec.key]] = _UNSEEN
        for spec in self._specs:
            row = self._row.get(spec.key)
            if row is not None and (limit := float(self.limits[row])) > 0:
                found = FROM_HISTOGRAM[spec.rule.observer](self.histograms[row], limit, spec.high, spec.rule.percentile)
                self.largest[self._index[spec.key]] = found
        self.follow()

    @torch.no_grad()
    def follow(self) -> None:
        """Scales from ranges."""
        scales = [MIN_SCALE] * len(self.scale)
        for spec, largest in zip(self._specs, self.largest.tolist(), strict=True):
            own = spec.fixed if spec.fixed is not None else largest / spec.high
            scales[spec.group] = max(scales[spec.group], own)
        self.scale.copy_(torch.tensor(scales))

    def unseen(self) -> list[TensorSpec]:
        """Tensors that should have been observed and were not."""
        seen = zip(self._specs, self.seen.tolist(), strict=True)
        return [s for s, number in seen if s.fixed is None and s.operator != "head" and not number]
