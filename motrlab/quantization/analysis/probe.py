"""A fixed set of frames to measure quantised graphs on: how far their outputs are from the float ones.

The float graphs run the closed loop once. Every quantised model then gets the float run's inputs of each frame, so that
what differs is that frame's arithmetic alone.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from motrlab.config import Config
from motrlab.errors import UserError
from motrlab.quantization.analysis.layers import sqnr_db
from motrlab.quantization.analysis.sensitivity_tables import OUTPUTS
from motrlab.quantization.calibration import closed_loop
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.tensors import Key, TensorSpec
from motrlab.tracking.step import Graphs

Inputs = tuple[Tensor, ...]
_BATCH_PIXELS = 500_000  # frames go through together while their images stay below so many pixels: flat memory


@dataclass(frozen=True)
class OutputError:
    """Sums of squares over all frames, for each of `OUTPUTS`: of the float output, and of the distance from it.

    Counted are the detect slots and the live track slots of the last decoder layer; boxes are decoded.
    """

    signal: Mapping[str, float]
    noise: Mapping[str, float]

    def db(self, output: str) -> float:
        """SQNR of one output; infinite without any error, NaN without a signal (the QIM's where nobody is tracked)."""
        return sqnr_db(self.signal[output], self.noise[output])

    def each_db(self) -> dict[str, float]:
        """`class_logits_db`, `boxes_db`, `embedding_db`, `qim_db`."""
        return {f"{output}_db": self.db(output) for output in OUTPUTS}

    def unlike(self, other: OutputError) -> OutputError:
        """Without the error of outputs in which it is just that of `other`."""
        return OutputError(self.signal, {o: x if x != other.noise[o] else 0.0 for o, x in self.noise.items()})

    @property
    def mean_db(self) -> float:
        """Mean SQNR of the outputs that have a signal and an error; infinite where none has an error."""
        values = self.each_db().values()
        finite = [value for value in values if math.isfinite(value)]
        return sum(finite) / len(finite) if finite else max(values, key=math.isinf)

    def share_of(self, whole: OutputError) -> float:
        """Squared error as a share of that of `whole`, mean of the outputs in which `whole` has any; 0 if in none."""
        shares = [self.noise[o] / whole.noise[o] for o in OUTPUTS if whole.noise[o] > 0]
        return sum(shares) / len(shares) if shares else 0.0


class Probe:
    """The inputs of both graphs on a few frames, and what the float graphs make of them."""

    def __init__(self, graphs: Graphs, videos: Iterable[Iterable[Tensor]], config: Config) -> None:
        """`graphs`, the float reference, in closed loop over the frames of `videos`. Raises UserError without any."""
        per_batch = max(1, _BATCH_PIXELS // (config.model.height * config.model.width))
        self.num_frames = self.num_tracks = 0  # tracks: live slots, sum over the frames
        self._batches: list[tuple[Inputs, Inputs, dict[str, Tensor]]] = []  # of base graph and QIM; outputs
        steps = (step for images in videos for step in closed_loop(graphs, images, config))
        while waiting := list(itertools.islice(steps, per_batch)):
            inputs = ([s.base_inputs for s in waiting], [s.qim_inputs for s in waiting])
            base, qim = (tuple(map(torch.cat, zip(*each, strict=True))) for each in inputs)
            self._batches.append((base, qim, _outputs(graphs, base, qim)))
            self.num_frames += len(waiting)
            self.num_tracks += int(qim[-1].sum())
        if not self.num_frames:
            raise UserError("probe: the sequences hold no frame; check data_root and sequences")

    def inputs(self) -> Iterator[tuple[str, Inputs]]:
        """What both graphs are given, some frames at once: `base` or `qim`, and its inputs."""
        for base, qim, _ in self._batches:
            yield from (("base", base), ("qim", qim))

    def output_error(self, graphs: Graphs) -> OutputError:
        """Error of `graphs` in their current mode."""
        signal, noise = dict.fromkeys(OUTPUTS, 0.0), dict.fromkeys(OUTPUTS, 0.0)
        for base, qim, expected in self._batches:
            found = _outputs(graphs, base, qim)
            for output, reference in expected.items():
                signal[output] += float(reference.double().square().sum())
                noise[output] += float((found[output].double() - reference.double()).square().sum())
        return OutputError(signal, noise)


@torch.no_grad()
def _outputs(graphs: Graphs, base: Inputs, qim: Inputs) -> dict[str, Tensor]:
    """Outputs `[B, C, D + T]` of B frames (the QIM's `[B, C, T]`), 0 in slots that hold nobody."""
    logits, boxes, embedding = graphs.base(*base)
    live = base[2].flatten(2)
    counted = F.pad(live, (embedding.flatten(2).shape[2] - live.shape[2], 0), value=1.0) > 0
    found = {"class_logits": logits[-1], "boxes": graphs.decode(boxes[-1]), "embedding": embedding}
    masked = {name: x.flatten(2) * counted for name, x in found.items()}
    return masked | {"qim": graphs.qim(*qim).flatten(2) * qim[2].flatten(2)}


def saturated_share(quantised: QuantizedMotr, probe: Probe) -> float:
    """Share of values outside their grid (0 to 1), mean of the observed activations; not what ReLU or ReLU6 cut."""
    counts: dict[Key, Counter[str]] = defaultdict(Counter)

    def count(spec: TensorSpec, steps: Tensor) -> None:
        if spec.fixed is None:
            ceiling = math.inf if spec.ceiling is None else spec.ceiling / float(quantised.net.scale(spec))
            steps = steps.clamp(0.0 if spec.low == 0 else -math.inf, ceiling)
            clipped = (steps > spec.high + 0.5) | (steps < spec.low - 0.5)
            counts[spec.key].update(outside=int(clipped.sum()), total=steps.numel())

    quantised.mode("evaluate")
    with quantised.net.hooked(watch=count):
        probe.output_error(quantised.graphs)
    shares = [found["outside"] / found["total"] for found in counts.values()]
    return sum(shares) / len(shares) if shares else 0.0
