"""Cross-layer equalisation before calibration (arXiv 1906.04721, section 4.1).

Between two products with nothing but a ReLU between them, channel i may be divided by any positive s_i in the first and
multiplied by it in the second. s_i = √(r1_i / r2_i), of the largest weights of channel i in the two, makes both ranges
equal, and so those of the channels of the activation between them, which share one scale. What the model computes stays
the same but for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from motrlab.config.scheme import PRODUCTS, Scheme
from motrlab.model.motr import Motr
from motrlab.quantization.declare import declare
from motrlab.quantization.tensors import Key, TensorSpec


@torch.no_grad()
def equalise(model: Motr, sweeps: int = 3) -> None:
    """Equalise every pair of a folded float model in place, `sweeps` times over."""
    pairs = [(product(model, a), product(model, b)) for a, b in equalisable(declare(model, Scheme())).items()]
    for _ in range(sweeps):
        for first, second in pairs:
            _equalise_pair(first, second)


def equalisable(specs: Mapping[Key, TensorSpec]) -> dict[Key, Key]:
    """Tensors behind the ReLU of a product that one product alone reads → that product's. ReLU6 does not scale."""
    behind_relu = (s for s in specs.values() if s.operator in PRODUCTS and s.low == 0 and s.ceiling is None)
    pairs = {spec.key: spec.readers[0] for spec in behind_relu if len(set(spec.readers)) == 1}
    return {first: second for first, second in pairs.items() if specs[second].operator in PRODUCTS}


def product(model: Motr, key: Key) -> nn.Conv2d | nn.Linear:
    """The layer that makes a tensor of operator `conv`, `linear` or `head`."""
    layer = model.get_submodule(".".join(key).partition("/")[0])
    found = layer[0] if isinstance(layer, nn.Sequential) else layer
    assert isinstance(found, nn.Conv2d | nn.Linear), key
    return found


def _equalise_pair(first: nn.Conv2d | nn.Linear, second: nn.Conv2d | nn.Linear) -> None:
    axis = 0 if isinstance(second, nn.Conv2d) and second.groups > 1 else 1  # inputs of the second; depthwise: its rows
    out_range = first.weight.abs().flatten(1).amax(1)
    in_range = second.weight.abs().transpose(0, axis).flatten(1).amax(1)
    usable = (out_range > 0) & (in_range > 0)  # a dead channel is left as it is
    factor = torch.where(usable, (out_range / in_range.clamp(min=1e-12)).sqrt(), 1.0)
    first.weight.div_(factor.reshape(-1, *[1] * (first.weight.ndim - 1)))
    second.weight.transpose(0, axis).mul_(factor.reshape(-1, *[1] * (second.weight.ndim - 1)))
    if first.bias is not None:
        first.bias.div_(factor)
