"""The ranges that observers have seen, and the scales that follow from them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from motrlab.quantization.observers import BINS, FROM_HISTOGRAM, MagnitudeHistogram
from motrlab.quantization.tensors import TensorSpec

MIN_SCALE = 1e-6
_UNSEEN = 4.0
_MOMENTUM = 0.02  # of the moving average, once as many updates are seen as it spans; before, a plain mean


class Ranges(nn.Module):
    """Largest magnitude of every tensor, and `scale` `[groups]` of every grid: float32 numbers, saved with the model.

    An observation is the largest magnitude in one frame, over the slots that hold somebody; a frame in which nobody is
    tracked says nothing of the track slots. Observations wait in `pending` (with the model when it is saved) for
    `advance`: all frames of a training step have one grid. A grid that several tensors share reaches as far as the
    largest of them.
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
        if spec.fixed is not None or not (calibrating or spec.rule.observer not in FROM_HISTOGRAM):
            return
        x = x.detach()
        if live is not None:
            seen = live.flatten(1).any(1)
            x, live = (x * live)[seen], live[seen]
            if not len(x):
                return
        axes = tuple(range(1, x.ndim))
        magnitude = x.amax(axes) if spec.low == 0 else torch.maximum(x.amax(axes), -x.amin(axes))
        magnitude = magnitude.clamp(min=0) * scale
        if spec.ceiling is not None:
            magnitude = magnitude.clamp(max=spec.ceiling)
        index = self._index[spec.key]
        count, total, most = self.pending[:, index]
        count += len(magnitude)
        total += magnitude.double().sum()
        most.copy_(torch.maximum(most, magnitude.amax()))
        row = self._row.get(spec.key)
        if row is not None:
            values = x if live is None else x.movedim(1, -1)[live[:, 0] > 0]
            MagnitudeHistogram(self.histograms[row], self.limits[row : row + 1]).add(values * scale)

    @torch.no_grad()
    def advance(self) -> None:
        """Take what was observed since the last time into the ranges, and let the scales follow."""
        counts, totals, largest = self.pending.tolist()
        if not any(counts):
            return
        for index, (count, total, most) in enumerate(zip(counts, totals, largest, strict=True)):
            if count:
                seen, old = float(self.seen[index]), float(self.largest[index])
                if self._specs[index].rule.observer == "min_max":
                    new = max(old, most)
                else:
                    new = old + max(1 / (seen + 1), _MOMENTUM) * (total / count - old)
                self.largest[index], self.seen[index] = new, seen + 1
        self.pending.zero_()
        self.follow()

    @torch.no_grad()
    def finish(self) -> None:
        """End of calibration: ranges from histograms, where a rule asks for them.

        Tensors that were never observed (no track ever lived) get the range of a norm's results: nothing overflows.
        """
        self.advance()
        for spec in self.unseen():
            self.largest[self._index[spec.key]] = _UNSEEN
        for spec in self._specs:
            row = self._row.get(spec.key)
            if row is not None and float(self.limits[row]) > 0:
                choose = FROM_HISTOGRAM[spec.rule.observer]
                found = choose(self.histograms[row], float(self.limits[row]), spec.high, spec.rule.percentile)
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

    @torch.no_grad()
    def keep_positive(self) -> None:
        """After a step that has moved learned scales."""
        self.scale.clamp_(min=MIN_SCALE)

    def unseen(self) -> list[TensorSpec]:
        """Tensors that should have been observed and were not."""
        seen = zip(self._specs, self.seen.tolist(), strict=True)
        return [s for s, number in seen if s.fixed is None and s.operator != "head" and not number]
