"""Bias correction after calibration: biases take up the mean error that rounding and clipping leave in each product.

The expectation over real inputs of arXiv 1906.04721, section 4.2. One pass: each product is compared with itself before
quantisation on the inputs that it gets in the quantised graph, so that errors from before it are not corrected twice.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from motrlab.quantization.quantized import QuantizedMotr
from motrlab.tracking.step import FrameStep


@torch.no_grad()
def correct_biases(quantised: QuantizedMotr, steps: Sequence[FrameStep]) -> int:
    """Correct the biases of both graphs in place; how many were.

    `steps`: frames whose inputs both graphs are run on. `quantised` must be calibrated; it ends in mode `evaluate`.
    """
    quantised.mode("evaluate")
    sums: dict[int, Tensor] = {}
    counts: dict[int, int] = {}
    biases: dict[int, Tensor] = {}

    def compare(bias: Tensor, found: Tensor, expected: Tensor) -> None:
        """`found`, `expected` `[..., C]`: what the product gives, and what it would give in float."""
        error = (found - expected).flatten(0, -2)
        key = id(bias)
        biases[key] = bias
        sums[key] = sums.get(key, torch.zeros(error.shape[1])) + error.sum(0)
        counts[key] = counts.get(key, 0) + len(error)

    quantised.net.compare = compare
    try:
        for step in steps:
            quantised.graphs.base(*step.base_inputs)
            quantised.graphs.qim(*step.qim_inputs)
    finally:
        quantised.net.compare = None
    for key, bias in biases.items():
        bias.sub_(sums[key] / counts[key])
    quantised.mode("evaluate")  # integers are of the old ones
    return len(biases)
