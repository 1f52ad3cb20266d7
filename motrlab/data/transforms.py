"""Clip transforms: one random choice per clip, shared by its frames; boxes, ids and visibility follow the pixels.

The classes named as in the reference (`SeqRandomFlip`, `RandomSelectOne`, `SeqResize`, `SeqRandomSizeCrop`,
`SeqToTensor`, `SeqBgrToYuv444`, `SeqNormalize`) take the reference's pixel sizes; `SeqRandomAffine` and
`SeqColourJitter` are the `street` set. A transform is called as `transform(sample, rng)`.

The training sets (`TRANSFORM_SETS`) end at pictures of the network's size, as bytes; `network_input` does the rest
where the batch is used, which is what the last three of the reference's transforms do one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from motrlab.boxes import box_cxcywh_to_xyxy
from motrlab.config import ModelConfig
from motrlab.data.pictures import Image
from motrlab.data.preprocess import BGR_TO_YUV, YUV_OFFSET, resize_image, yuv_normalise
from motrlab.errors import UserError

_GREY = (128, 128, 128)  # outside the picture; the network's zero
_REFERENCE_HEIGHT = 800  # the pixel sizes of the reference's augmentation belong to this network height


@dataclass(frozen=True)
class FrameObjects:
    """Ground truth of one frame of one clip: `boxes float32 [n, 4]`, cxcywh in fractions of the picture, possibly
    reaching outside it; `ids int64 [n]`, one per object throughout the clip; `visibility float32 [n]`, 0 to 1, and
    below 0 a region in which nothing is judged; `kinds int64 [n]`, the class of each, counted from 0; where it is not
    said, all are of the first.
    """

    boxes: NDArray[np.floating]
    ids: NDArray[np.int64]
    visibility: NDArray[np.floating]
    kinds: NDArray[np.int64] = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.kinds is None:
            object.__setattr__(self, "kinds", np.zeros(len(self.ids), np.int64))


@dataclass(frozen=True, kw_only=True)
class ClipSample:
    """A clip of T frames on its way through the transforms.

    `images`: T BGR pictures `uint8 [H, W, 3]` of one size; `objects`: the people of each, of any visibility.
    `tensor [T, 3, h, w]` is empty until `SeqToTensor`. `nv12`: how `images` become input, see `network_input`.
    """

    images: list[Image]
    objects: list[FrameObjects]
    tensor: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    nv12: bool = False


Transform = Callable[[ClipSample, np.random.Generator], ClipSample]


def joined(first: FrameObjects, second: FrameObjects) -> FrameObjects:
    """The people of both."""
    pairs = ((getattr(first, name), getattr(second, name)) for name in ("boxes", "ids", "visibility", "kinds"))
    return FrameObjects(*map(np.concatenate, pairs))


def next_id(sample: ClipSample) -> int:
    """An id that nobody in the clip has, nor any above it."""
    return 1 + max((int(people.ids.max(initial=0)) for people in sample.objects), default=0)


def change_view(sample: ClipSample, scale: tuple[float, float], offset: tuple[float, float]) -> ClipSample:
    """The people of every frame as `seen_in_view` sees them."""
    return replace(sample, objects=[seen_in_view(old, scale, offset) for old in sample.objects])


def seen_in_view(old: FrameObjects, scale: tuple[float, float], offset: tuple[float, float]) -> FrameObjects:
    """Boxes after the picture's fractions became `scale * x + offset`; those outside the new view are dropped.

    Visibility falls with the share of the box's part inside the old picture that the new view still shows: what was
    outside the old picture was never visible, and a larger view does not bring it back.
    """
    stretch, shift = np.array([*scale, *np.abs(scale)], np.float32), np.array([*offset, 0, 0], np.float32)
    low, high = np.sort(np.array([offset, np.add(offset, scale)]), axis=0)  # the old picture in the new view
    boxes = old.boxes * stretch + shift
    corners = box_cxcywh_to_xyxy(boxes)
    shown = area_between(corners, np.maximum(low, 0), np.minimum(high, 1))
    keep = shown > 0
    visibility = (old.visibility * shown / np.maximum(area_between(corners, low, high), 1e-12)).astype(np.float32)
    return FrameObjects(boxes[keep], old.ids[keep], visibility[keep], old.kinds[keep])


def area_between(corners: NDArray[np.float32], low: Any, high: Any) -> NDArray[np.float64]:
    """`[n]`: of each box `[n, 4]`, x0 y0 x1 y1, what lies between the points `low` and `high`."""
    ends = np.clip(corners.reshape(-1, 2, 2), low, high)
    return (ends[:, 1] - ends[:, 0]).clip(0).prod(1)


@dataclass(frozen=True)
class Compose:
    """One transform after the other."""

    transforms: Sequence[Transform]

    def __call__(self, sample: ClipSample, rng: np.random.Generator) -> ClipSample:
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample


@dataclass(frozen=True)
class RandomSelectOne:
    """One of several transforms, drawn per clip; equally likely without `probabilities`."""

    transforms: Sequence[Transform]
    probabilities: Sequence[float] | None = None

    def __call__(self, sample: ClipSample, rng: np.random.Generator) -> ClipSample:
        return self.transforms[rng.choice(len(self.transforms), p=self.probabilities)](sample, rng)


@dataclass(frozen=True)
class SeqRandomFlip:
    """The whole clip mirrored left to right, with `probability`."""

    probability: float = 0.5

    def __call__(self, sample: ClipSample, rng: np.random.Generator) -> ClipSample:
        if rng.random() >= self.probability:
            return sample
        images: list[Any] = [cv2.flip(image, 1) for image in sample.images]  # NumPy takes ten times as long
        return change_view(replace(sample, images=images), (-1.0, 1.0), (1.0, 0.0))


@dataclass(frozen=True)
class SeqResize:
    """Resize to one of `sizes`, drawn per clip.

    A size is `(height, width)`, the aspect not kept; or one number for the short side, the aspect kept and the long
    side at most `max_size`. Pixels.
    """

    sizes: Sequence[int | tuple[int, int]]
    max_size: int | None = None

    def __call__(self, sample: ClipSample, rng: np.random.Generator) -> ClipSample:
        size = self.sizes[int(rng.integers(len(self.sizes)))]
        if isinstance(size, int):
            height, width = sample.images[0].shape[:2]
            scale = min(size / min(height, width), (self.max_size or math.inf) / max(height, width))
            size = max(1, round(height * scale)), max(1, round(width * scale))
        return replace(sample, images=[resize_image(image, *size) for image in sample.images])


@dataclass(frozen=True)
class SeqRandomSizeCrop:
    """A crop whose height and width are drawn from `min_size` to `max_size` px (or the picture's), placed at random."""

    min_size: int
    max_size: int

    def __call__(self, sample: ClipSample, rng: np.random.Generator) -> ClipSample:
        height, width = sample.images[0].shape[:2]
        h, w = (int(rng.integers(min(self.min_size, n), min(self.max_size, n) + 1)) for n in (height, width))
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        images = [image[top : top + h, left : left + w] for image in sample.images]
        return change_view(replace(sample, images=images), (width / w, height / h), (-left / w, -top / h))


@dataclass(frozen=True)
class SeqRandomAffine:
    """Flip, zoom and shift in one resampling, straight from the decoded picture to `(height, width)`.

    The zoom is `e^U(zoom)`; the shift is drawn so that, zoomed in, the view stays inside the picture, and, zoomed
    out, the picture inside the view. What lies outside the picture is grey.
    """

    height: int
    width: int
    zoom: tuple[float, float] = (-0.25, 0.3)
    flip_probability: float = 0.5

    def __call__(self, sample: ClipSample, rng: np.random.Generator) -> ClipSample:
        zoom = math.exp(rng.uniform(*self.zoom))
        x, y = ((1 - zoom) * rng.random(2)).tolist()
        flipped = rng.random() < self.flip_probability
        scale, offset = ((-zoom, zoom), (x + zoom, y)) if flipped else ((zoom, zoom), (x, y))
        images = [self._warp(image, scale, offset) for image in sample.images]
        return change_view(replace(sample, images=images), scale, offset)

    def _warp(self, image: Image, scale: tuple[float, float], offset: tuple[float, float]) -> Image:
        height, width = (math.ceil(n * scale[1]) for n in (self.height, self.width))
        if image.shape[0] > 2 * height or image.shape[1] > 2 * width:  # bilinear samples would skip pixels
            image = resize_image(image, min(image.shape[0], height), min(image.shape[1], width))
        matrix = np.zeros((2, 3))
        for axis, (size, old) in enumerate(((self.width, image.shape[1]), (self.height, image.shape[0]))):
            matrix[axis, axis] = scale[axis] * size / old
            # OpenCV counts from pixel centres: x_new + .5 = scale * size / old * (x_old + .5) + offset * size
            matrix[axis, 2] = offset[axis] * size + 0.5 * (matrix[axis, axis] - 1)
        return np.asarray(cv2.warpAffine(image, matrix, (self.width, self.height), borderValue=_GREY), np.uint8)


@dataclass(frozen=True)
class SeqColourJitter:
    """Gain per channel, brightness, and for some clips a permutation of the channels; ids keep their colours."""

    gain: float = 0.2
    brightness: float = 25.0
    permute_probability: float = 0.25

    def __call__(self, sample: ClipSample, rng: np.random.Generator) -> ClipSample:
        gains = rng.uniform(1 - self.gain, 1 + self.gain, 3)
        levels = np.arange(256)[:, None] * gains + rng.uniform(-self.brightness, self.brightness)
        table = levels.round().clip(0, 255).astype(np.uint8)[None]  # [1, 256, 3]
        images: list[Any] = [cv2.LUT(image, table) for image in sample.images]
        if rng.random() < self.permute_probability:
            pairs = [value for target, source in enumerate(rng.permutation(3).tolist()) for value in (source, target)]
            sources, images = images, [np.empty_like(image) for image in images]
            for source, target in zip(sources, images, strict=True):
                cv2.mixChannels([source], [target], pairs)
        return replace(sample, images=images)


class SeqToTensor:
    """Pictures → `tensor uint8 [T, 3, H, W]`, BGR."""

    def __call__(self, sample: ClipSample, rng: np.random.Generator) -> ClipSample:
        planes = np.stack(sample.images).transpose(0, 3, 1, 2)
        return replace(sample, tensor=torch.from_numpy(np.ascontiguousarray(planes)))


class SeqBgrToYuv444:
    """`tensor` from BGR to YUV 4:4:4, BT.601 full range, `float32` from 0 to 255, not rounded."""

    def __call__(self, sample: ClipSample, rng: np.random.Generator) -> ClipSample:
        matrix, offset = torch.from_numpy(BGR_TO_YUV), torch.from_numpy(YUV_OFFSET)[:, None]
        yuv = matrix @ sample.tensor.flatten(2).float() + offset
        return replace(sample, tensor=yuv.view(sample.tensor.shape))


@dataclass(frozen=True)
class SeqNormalize:
    """`(x - mean) / std`, in place where `tensor` is float already: a clip at 800×1422 is tens of megabytes."""

    mean: float = 128.0
    std: float = 128.0

    def __call__(self, sample: ClipSample, rng: np.random.Generator) -> ClipSample:
        return replace(sample, tensor=sample.tensor.float().sub_(self.mean).div_(self.std))


def nv12_chroma(yuv: torch.Tensor) -> torch.Tensor:
    """YUV `float32 [..., 3, H, W]`, 0 to 255, as NV12 would carry it: whole numbers, one U and V for 2×2 pixels.

    U and V are averaged over the 2×2 pixels (at an odd edge, over those there are) and repeated over them.
    """
    height, width = yuv.shape[-2:]
    chroma = torch.nn.functional.avg_pool2d(yuv[..., 1:, :, :].reshape(-1, 2, height, width), 2, ceil_mode=True)
    chroma = chroma.repeat_interleave(2, -2)[..., :height, :].repeat_interleave(2, -1)[..., :width]
    whole = torch.cat((yuv[..., :1, :, :], chroma.reshape(*yuv.shape[:-3], 2, height, width)), -3)
    return whole.round_().clamp_(0, 255)


def network_input(images: torch.Tensor, *, nv12: bool = False) -> torch.Tensor:
    """BGR `uint8 [..., H, W, 3]` on any device → the network's input there, `float32 [..., 3, H, W]`.

    On a processor by the code that the deployed runtime runs, to the bit; on other devices to float rounding.
    """
    if images.device.type == "cpu":
        found = torch.from_numpy(yuv_normalise(images.numpy()))
    else:
        planes = [plane.float() for plane in images.unbind(-1)]
        rows = zip(BGR_TO_YUV.tolist(), YUV_OFFSET.tolist(), strict=True)
        yuv = [sum((p * w for p, w in zip(planes, row, strict=True)), start=offset - 128) for row, offset in rows]
        found = torch.stack(yuv, -3).div_(128)
    return nv12_chroma(found.mul_(128).add_(128)).sub_(128).div_(128) if nv12 else found


@dataclass(frozen=True)
class SeqNetworkInput:
    """`SeqToTensor`, `SeqBgrToYuv444` and `SeqNormalize` in one pass; with `nv12`, as a camera's NV12 leaves it."""

    nv12: bool = False

    def __call__(self, sample: ClipSample, rng: np.random.Generator) -> ClipSample:
        return replace(sample, tensor=network_input(torch.from_numpy(np.stack(sample.images)), nv12=self.nv12))


def reference_transforms(model: ModelConfig) -> Transform:
    """The reference's set; its pixel sizes shrink with the network's height."""

    def px(*sizes: int) -> list[int]:
        return [max(1, round(size * model.height / _REFERENCE_HEIGHT)) for size in sizes]

    resize = SeqResize(px(*range(608, 993, 32)), *px(1536))
    crop = Compose([SeqResize(px(400, 500, 600)), SeqRandomSizeCrop(*px(384, 600)), resize])
    return Compose([SeqRandomFlip(), RandomSelectOne([resize, crop]), SeqResize([(model.height, model.width)])])


@dataclass(frozen=True)
class TransformSet:
    """What `TrainConfig.augmentation` names; called, it makes a transform to pictures of the network's size.

    `colour_jitter`: its strength, 1 as in `SeqColourJitter`, 0 none. `useful_scale`: the largest picture, relative to
    the network's input, that it makes use of; what is larger may be decoded at a reduced size.
    """

    geometry: Callable[[ModelConfig], Transform]
    colour_jitter: float
    useful_scale: float

    def __call__(self, model: ModelConfig, colour_jitter: float | None = None) -> Transform:
        """With colours changed by the set's own strength or another."""
        strength = self.colour_jitter if colour_jitter is None else colour_jitter
        jitter = SeqColourJitter(*(value * strength for value in astuple(SeqColourJitter())))
        return Compose([self.geometry(model), *[jitter] * bool(strength)])


TRANSFORM_SETS = {
    "street": TransformSet(lambda m: SeqRandomAffine(m.height, m.width), 1.0, math.exp(0.3)),  # the largest zoom
    "reference": TransformSet(reference_transforms, 0.0, 992 / _REFERENCE_HEIGHT),  # the largest short side
}


def transform_set(name: str) -> TransformSet:
    """The set of that name. Raises UserError if there is none."""
    if name not in TRANSFORM_SETS:
        raise UserError(f"train: unknown augmentation {name!r}; one of {', '.join(TRANSFORM_SETS)}")
    return TRANSFORM_SETS[name]
