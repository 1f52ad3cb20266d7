"""Adaptive rounding: weights go to the grid points that leave each product the least error on what it has seen.

The nearest grid point is the best for a weight alone, not for a sum: rounding errors of a kernel's taps add up over a
smooth picture. Here weights are rounded one input at a time, and the error of each is spread over those of the same
output that are not rounded yet, and at last over the bias, by the second moments of the inputs of the quantised graph
(GPTQ, arXiv 2210.17323, section 3.1). So the mean error of every product goes as well (bias correction, arXiv
1906.04721, section 4.2). The scales stay: rounding to nearest finds the new weights where they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.tensors import Value
from motrlab.quantization.torch_arithmetic import IntegerLayer
from motrlab.tracking.step import FrameStep

_DAMPING = 0.01  # of the mean second moment, added to each: few frames do not tell all
_MOST_ROWS = 2048  # positions of a map that count in one frame, evenly spread


@torch.no_grad()
def adapt_rounding(quantised: QuantizedMotr, steps: Sequence[FrameStep]) -> None:
    """Round the weights of both graphs in place.

    `steps`: frames whose inputs both graphs are run on. `quantised` must be calibrated; it ends in mode `evaluate`.
    """
    quantised.mode("evaluate")
    moments: dict[Any, Any] = {}  # module → what is summed of its inputs
    layers: dict[Any, IntegerLayer] = {}

    def watch(module: Any, x: Value, layer: IntegerLayer) -> None:
        rows = _inputs(module, x)
        layers[module] = layer
        moments[module] = moments.get(module, 0) + (rows.transpose(1, 2) @ rows).double()

    with quantised.net.hooked(watch_product=watch):
        for step in steps:
            quantised.graphs.base(*step.base_inputs)
            quantised.graphs.qim(*step.qim_inputs)
    for module, seen in moments.items():
        parts = (module.weight, module.bias, layers[module].scale)
        weight, bias, scale = (p.double().reshape(len(seen), len(p) // len(seen), -1) for p in parts)
        rounded, bias = rounded_weights(weight, bias, scale, seen, quantised.scheme.weight_limit)
        module.weight.copy_(rounded.reshape(module.weight.shape))
        module.bias.copy_(bias.flatten())
    quantised.mode("evaluate")  # integers are of the old ones


def _inputs(module: Any, x: Value) -> Tensor:
    """What a product's weights are multiplied by, and 1 for the bias: `[groups, rows, inputs per output + 1]`."""
    if isinstance(module, torch.nn.Conv2d) and module.kernel_size != (1, 1):
        how: dict[str, Any] = {"dilation": module.dilation, "padding": module.padding, "stride": module.stride}
        rows = F.unfold(x.real, module.kernel_size, **how).transpose(1, 2).flatten(0, 1)
    else:
        rows = x.real.movedim(1, -1).flatten(0, 2)
        if x.live is not None:  # nobody is in the other slots
            rows = rows[x.live.flatten() > 0]
    rows = rows[:: max(1, len(rows) // _MOST_ROWS)]
    grouped = rows.unflatten(1, (getattr(module, "groups", 1), -1)).transpose(0, 1)
    return F.pad(grouped, (0, 1), value=1.0)


def rounded_weights(weight: Tensor, bias: Tensor, scale: Tensor, moments: Tensor, limit: int) -> tuple[Tensor, Tensor]:
    """Weights on their grid, and the bias that goes with them.

    `weight` `[G, O, I]`, `bias` and `scale` `[G, O, 1]`, `moments` `[G, I + 1, I + 1]`: sums of products of the inputs,
    the last of which is the bias's 1; float64. Weights at the end of the grid stay there: they make the scale.
    """
    seen = moments.diagonal(dim1=1, dim2=2)
    order = torch.cat((seen[:, :-1].mean(0).argsort(descending=True), torch.tensor([weight.shape[2]]).to(seen.device)))
    damped = moments + torch.diag_embed((_DAMPING * seen.mean(1, keepdim=True) + 1e-9).expand_as(seen))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped[:, order][:, :, order]))
    spread = torch.linalg.cholesky(inverse, upper=True)  # [G, I + 1, I + 1]
    both = torch.cat((weight, bias), 2)[..., order]
    ends = (both[..., :-1].abs() >= (limit - 1e-3) * scale) * both[..., :-1]
    for index in range(weight.shape[2]):
        one = slice(index, index + 1)
        nearest = (both[..., one] / scale).round().clamp(-limit, limit) * scale
        found = torch.where(ends[..., one] != 0, ends[..., one], nearest)
        error = (both[..., one] - found) / spread[:, None, index, one]
        both[..., index:] -= error * spread[:, None, index, index:]
        both[..., one] = found
    restored = both[..., order.argsort()]
    return restored[..., :-1], restored[..., -1:]
