"""Published EfficientNet and MobileNetV2 weights as weights of our backbone: names by rule, colours and eps folded in.

A state dict of another library becomes one with the names of `EfficientNet` (`stem.0.weight`,
`stages.S.B.layers.L.0.weight`, ...), exactly:

- our network takes YUV, theirs RGB with another mean and range: the conversion is linear, so it goes into the stem's
  convolution, and its constant into the mean of the BatchNorm after it. Only the border differs: zero padding is
  grey 128 here, and the source's mean colour there.
- BatchNorm divides by sqrt(var + eps): a source with another eps gets the difference added to its variances. That is
  exact as long as the statistics are frozen.

What has no counterpart here (squeeze-excitation, SiLU, the classifier) stays behind, and so does TensorFlow's
asymmetric padding at stride 2: away from the border, padding symmetrically gives the same features of a picture moved
by s - 1 pixels on a map of stride s (tests/model/test_pretrained.py).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from motrlab.data.preprocess import BGR_TO_YUV, YUV_OFFSET

_EPS = nn.BatchNorm2d(1).eps  # of our BatchNorm layers
_TENSORFLOW_EPS = 1e-3
_Colour = tuple[float, float, float]
_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))  # mean and deviation of ImageNet's R, G, B
_LITE = ((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))  # as the Lite models were trained


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a library names an EfficientNet's tensors.

    `stem`: prefixes of the stem's convolution and BatchNorm. `pattern`: what is inside a block, with the groups `block`
    (one number, or stage and block), `layer` and `leaf`. `order`: the names of a block's layers, convolutions in the
    order of the data flow. `eps`: of BatchNorm. `pixels`: mean and deviation of the input's R, G, B where the network
    has no squeeze-excitation.
    """

    name: str
    stem: tuple[str, str]
    pattern: str
    order: tuple[str, ...]
    squeeze: str  # part of the names of squeeze-excitation tensors
    eps: float = 1e-5
    pixels: tuple[_Colour, _Colour] = _IMAGENET


LAYOUTS = (
    Layout(
        name="efficientnet-pytorch",
        stem=("_conv_stem.", "_bn0."),
        pattern=r"_blocks\.(?P<block>\d+)\.(?P<layer>_\w+_conv|_bn\d)\.(?P<leaf>\w+)",
        order=("_expand_conv", "_depthwise_conv", "_project_conv", "_bn0", "_bn1", "_bn2"),
        squeeze="._se_",
        eps=_TENSORFLOW_EPS,
        pixels=_LITE,
    ),
    Layout(
        name="timm",
        stem=("conv_stem.", "bn1."),
        pattern=r"blocks\.(?P<block>\d+\.\d+)\.(?P<layer>conv_\w+|bn\d)\.(?P<leaf>\w+)",
        # A block without expansion has its projection in `conv_pw`, which then comes after `conv_dw`: see `_rank`.
        order=("conv_pw", "conv_dw", "conv_pwl", "bn1", "bn2", "bn3"),
        squeeze=".se.",
    ),
    Layout(
        name="torchvision",
        stem=("features.0.0.", "features.0.1."),
        pattern=r"features\.(?P<block>\d+\.\d+)\.block\.(?P<layer>\d\.[01])\.(?P<leaf>\w+)",
        order=("0.0", "1.0", "2.0", "3.0", "0.1", "1.1", "2.1", "3.1"),
        squeeze=".fc",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Converted:
    """`tensors` under our backbone's names; `unused`: names of the source without counterpart; `notes` in words."""

    layout: str
    tensors: dict[str, Tensor]
    unused: tuple[str, ...]
    notes: tuple[str, ...]


# Named as the first, but for other pixels, and BatchNorms that are made by us (`tensorflow_js.py`).
TENSORFLOW_JS = replace(LAYOUTS[0], name="tensorflow-js", eps=1e-5, pixels=((127.5,) * 3, (127.5,) * 3))


def find_layout(state: Mapping[str, Tensor]) -> Layout | None:
    """The layout whose stem and blocks the state dict has."""
    found = (x for x in LAYOUTS if f"{x.stem[0]}weight" in state and any(re.fullmatch(x.pattern, n) for n in state))
    return next(found, None)


def convert_efficientnet(state: Mapping[str, Tensor], layout: Layout, *, tensorflow: bool = False) -> Converted:
    """A published EfficientNet under our names, for our input.

    `tensorflow` says that timm weights were ported from TensorFlow (file names `tf_...`), whose BatchNorm has eps
    1e-3; nothing in the tensors tells. Networks of layout efficientnet-pytorch always were.
    """
    names = _renamed(state, layout)
    tensors = {new: state[old].clone() for old, new in names.items()}
    squeezed = any(layout.squeeze in name for name in state)
    # Lite networks have no squeeze-excitation; they come in the first layout, or as timm's `tf_efficientnet_lite`.
    pixels = _IMAGENET if squeezed else _LITE if tensorflow else layout.pixels
    eps = _TENSORFLOW_EPS if tensorflow else layout.eps
    for name in tensors:
        if name.endswith("running_var"):
            tensors[name] += eps - _EPS
    weight, shift = fold_colour(tensors["stem.0.weight"], *pixels)
    tensors["stem.0.weight"] = weight
    tensors["stem.1.running_mean"] -= shift
    notes = [f"input RGB and eps {eps:g} folded into our YUV and {_EPS:g}"]
    if squeezed:
        notes.append("squeeze-excitation dropped and SiLU replaced: a start, not the same network")
    unused = tuple(name for name in state if name not in names)
    return Converted(layout=layout.name, tensors=tensors, unused=unused, notes=tuple(notes))


def fold_colour(weight: Tensor, mean: _Colour, std: _Colour) -> tuple[Tensor, Tensor]:
    """A convolution of `(RGB - mean) / std` (0 to 255) → one of YUV `(x - 128) / 128`: its weight, and the constant.

    `weight [C, 3, k, k]`; the constant `[C]` is what the new convolution's output lacks away from the border.
    """
    to_rgb = np.linalg.inv(BGR_TO_YUV.astype(np.float64))[::-1]  # rows R, G, B; RGB = to_rgb @ (YUV - YUV_OFFSET)
    scale = 1 / np.asarray(std)
    matrix = torch.from_numpy(to_rgb * 128 * scale[:, None])
    constant = torch.from_numpy((to_rgb @ (128 - YUV_OFFSET.astype(np.float64)) - np.asarray(mean)) * scale)
    double = weight.double()
    folded = torch.einsum("ochw,ci->oihw", double, matrix).to(weight.dtype)
    return folded, torch.einsum("ochw,c->o", double, constant).to(weight.dtype)


def _renamed(state: Mapping[str, Tensor], layout: Layout) -> dict[str, str]:
    """Source name → our name, for every tensor of stem and blocks."""
    stem = [(name, i, prefix) for name in state for i, prefix in enumerate(layout.stem) if name.startswith(prefix)]
    names = {name: f"stem.{i}.{name.removeprefix(prefix)}" for name, i, prefix in stem}
    blocks: dict[str, dict[str, list[tuple[str, str]]]] = {}  # block → layer → (source name, leaf)
    for name in state:
        if found := re.fullmatch(layout.pattern, name):
            blocks.setdefault(found["block"], {}).setdefault(found["layer"], []).append((name, found["leaf"]))
    places = _places(blocks, state)
    for block, layers in blocks.items():
        ordered = sorted(layers, key=lambda layer: _rank(layer, layers, layout))
        count = len(layers) // 2  # as many convolutions as BatchNorms
        for position, layer in enumerate(ordered):
            index, part = position % count, position // count
            for name, leaf in layers[layer]:
                names[name] = f"stages.{places[block]}.layers.{index}.{part}.{leaf}"
    return names


def _rank(layer: str, layers: Mapping[str, object], layout: Layout) -> int:
    """Where a layer stands among its block's, convolutions first."""
    if layer == "conv_pw" and "conv_pwl" not in layers:
        layer = "conv_pwl"
    return layout.order.index(layer)


def _places(blocks: Mapping[str, Mapping[str, list[tuple[str, str]]]], state: Mapping[str, Tensor]) -> dict[str, str]:
    """Block of the source → "stage.block", both from 0.

    Where blocks are numbered through, a stage begins where the number of output channels changes: in an EfficientNet
    no two neighbouring stages have the same.
    """
    keys = sorted(blocks, key=lambda block: [int(n) for n in block.split(".")])
    if "." in keys[0]:
        first = int(keys[0].split(".")[0])
        return {key: f"{int(key.split('.')[0]) - first}.{key.split('.')[1]}" for key in keys}
    places, stage, index, before = {}, -1, 0, 0
    for key in keys:
        (name, _), *_ = blocks[key]["_project_conv"]
        channels = state[name].shape[0]
        stage, index = (stage, index + 1) if channels == before else (stage + 1, 0)
        places[key], before = f"{stage}.{index}", channels
    return places
