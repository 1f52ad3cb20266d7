"""Training clips as pictures: what the network is shown, and what each transform does to a clip."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from motrlab.boxes import box_cxcywh_to_ltwh
from motrlab.data.clips import ClipDataset
from motrlab.data.crowding import crowded
from motrlab.data.preprocess import BGR_TO_YUV, YUV_OFFSET
from motrlab.data.summary import aligned
from motrlab.data.transforms import ClipSample, FrameObjects, SeqRandomSizeCrop, Transform, network_input, seen_in_view
from motrlab.tracking.sequence import FrameTracks
from motrlab.viz.overlay import contact_sheet, draw_frame

_CAPTION_PX = 18
_CAPTION_BGR, _INK_BGR = (32, 32, 32), (235, 235, 235)


def network_input_to_bgr(frame: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The inverse of `data.preprocess`: `float32 [3, H, W]` → `uint8 [H, W, 3]`."""
    yuv = frame.transpose(1, 2, 0) * 128 + 128 - YUV_OFFSET
    bgr = yuv @ np.linalg.inv(BGR_TO_YUV).T
    return np.clip(np.rint(bgr), 0, 255).astype(np.uint8)


def clip_sheet(clips: Sequence[ClipSample], width: int = 320) -> NDArray[np.uint8]:
    """One row per clip, one column per frame, boxes and ids drawn; every frame `width` pixels wide."""
    pictures: list[Any] = []
    for clip in clips:
        inputs = network_input(torch.from_numpy(np.stack(clip.images)), nv12=clip.nv12).numpy()
        for image, people in zip(inputs, clip.objects, strict=True):
            pictures.append(_with_people(network_input_to_bgr(image), people, width))
    return contact_sheet(pictures, columns=len(clips[0].images))


def still_sheet(data: ClipDataset, num_clips: int = 3, num_frames: int = 4, width: int = 256) -> NDArray[np.uint8]:
    """Pseudo-clips before augmentation: a row each, the still image first, then the frames that were made of it.

    All have boxes and ids; a still in its cell keeps its proportions. Raises UserError where no still shows anybody.
    """
    cells = []
    for number in range(num_clips):
        rng = np.random.default_rng((data.seed, number))
        name, frame = data.draw_still(rng)
        still = data.load(name, [frame] * num_frames)
        moved = data.still_motion(still, rng)
        room = (round(width * moved.images[0].shape[0] / moved.images[0].shape[1]), width)
        for t, (image, people) in enumerate(
            [(still.images[0], still.objects[0]), *zip(moved.images, moved.objects, strict=True)]
        ):
            own = min(width, round(room[0] * image.shape[1] / image.shape[0]))
            drawn = _with_people(image, people, own)[: room[0]]
            cells.append(_captioned(drawn, f"frame {t}" if t else f"{name}, image {frame}", room))
    return contact_sheet(cells, columns=num_frames + 1)


def crowd_sheet(data: ClipDataset, num_clips: int = 2, width: int = 320) -> NDArray[np.uint8]:
    """A row each: a frame of a video, another of the same video, and the people of both in the first picture.

    Of videos whose camera is at rest; fewer rows where 100 draws do not find enough of them, a line that says so where
    they find none.
    """
    cells, rng = list[Any](), np.random.default_rng(data.seed)
    for _ in range(100 if data.store.sequences else 0):
        name, frames = data.draw_video(rng, 1)
        then = data.another_time(rng, name, frames)
        now, other = data.load(name, frames), data.load(name, then)
        both = crowded(now, other)
        if len(both.objects[0].ids) > len(now.objects[0].ids):
            told = f"{name}, frame {frames[0]}", f"frame {then[0]}", "together"
            for clip, text in zip((now, other, both), told, strict=True):
                drawn = _with_people(clip.images[0], clip.objects[0], width)
                cells.append(_captioned(drawn, text, drawn.shape[:2]))
        if len(cells) == 3 * num_clips:
            break
    if not cells:
        nothing = "no video whose camera is at rest and that shows other people at another time"
        return _captioned(np.zeros((0, 0, 3), np.uint8), nothing, (0, 3 * width))
    return contact_sheet(cells, columns=3)


def apply_each(sample: ClipSample, transforms: Mapping[str, Transform], seed: int = 0) -> dict[str, ClipSample]:
    """The clip as it is, called `before`, and what each transform alone makes of it with randomness of `seed`."""
    found = {name: transform(sample, np.random.default_rng(seed)) for name, transform in transforms.items()}
    return {"before": sample, **found}


def colourful_crop(sample: ClipSample, size_px: int = 20, tries: int = 40) -> ClipSample:
    """Of `tries` random crops the one whose colours change most from pixel to pixel; without its people's boxes."""
    crop = SeqRandomSizeCrop(size_px, size_px)
    best = max((crop(sample, np.random.default_rng(seed)) for seed in range(tries)), key=_colour_edges)
    return replace(best, objects=[seen_in_view(people, (1, 1), (9, 9)) for people in best.objects])


def _colour_edges(sample: ClipSample) -> float:
    chroma = [cv2.cvtColor(image, cv2.COLOR_BGR2YUV)[..., 1:].astype(int) for image in sample.images]
    return float(sum(np.abs(np.diff(uv, axis=axis)).mean() for uv in chroma for axis in (0, 1)))


def sample_sheet(samples: Mapping[str, ClipSample], columns: int = 4, width: int = 320) -> NDArray[np.uint8]:
    """Every frame of every clip with boxes and ids, under its name and size.

    Cells are `width` pixels wide, a picture in them as large as the first clip's or smaller. A clip that has a tensor
    is shown by its planes (B, G, R or Y, U, V), one that is normalised as the picture that the network sees.
    """
    height, full = _size(next(iter(samples.values())))
    room, cells = (max(1, round(width * height / full)), width), []
    for name, sample in samples.items():
        rows, size = zip(_pictures(sample), sample.objects, strict=True), _size(sample)
        scale = min(width / full, room[0] / size[0], width / size[1])
        for t, (picture, people) in enumerate(rows):
            caption = f"{name}, {size[0]} x {size[1]} px" if t == 0 else f"frame {t + 1}"
            parts = 1 if picture.shape[:2] == size else 2  # planes lie in two rows of two
            corners = [np.array([i % 2, i // 2, 0, 0]) for i in range(2 * parts - 1)]
            boxes, ids = [(people.boxes + corner) / parts for corner in corners], np.tile(people.ids, len(corners))
            drawn = _with_boxes(picture, np.concatenate(boxes), ids, max(1, round(size[1] * scale)))
            cells.append(_captioned(drawn, caption, room))
    return contact_sheet(cells, columns=columns)


def sample_table(samples: Mapping[str, ClipSample]) -> str:
    """What there is to see, as aligned text: size, people of every frame, their mean visibility, mean of all values."""
    rows = [["transform", "height", "width", "people", "visibility", "mean"]]
    for name, sample in samples.items():
        seen = np.concatenate([people.visibility for people in sample.objects])
        values = sample.tensor.float().mean() if sample.tensor.numel() else np.mean(sample.images)
        counts = " ".join(str(len(people.ids)) for people in sample.objects)
        visibility = f"{seen.mean():.2f}" if len(seen) else "-"
        mean = f"{float(values):.2f}" if _is_normalised(sample) else f"{float(values):.0f}"
        rows.append([name, *map(str, _size(sample)), counts, visibility, mean])
    return aligned(rows, left=1)


def _size(sample: ClipSample) -> tuple[int, int]:
    height, width = sample.tensor.shape[-2:] if sample.tensor.numel() else sample.images[0].shape[:2]
    return int(height), int(width)


def _is_normalised(sample: ClipSample) -> bool:
    return sample.tensor.numel() > 0 and bool(sample.tensor.min() < 0)


def _pictures(sample: ClipSample) -> list[NDArray[np.uint8]]:
    if sample.tensor.numel() == 0:
        return sample.images
    frames = sample.tensor.numpy()
    if _is_normalised(sample):
        return [network_input_to_bgr(frame) for frame in frames]
    first, second, third = np.rint(frames).clip(0, 255).astype(np.uint8).swapaxes(0, 1)
    upper, lower = np.concatenate((first, second), -1), np.concatenate((third, np.zeros_like(third)), -1)
    return [cv2.cvtColor(both, cv2.COLOR_GRAY2BGR) for both in np.concatenate((upper, lower), -2)]  # type: ignore[misc]


def _with_people(picture: NDArray[np.uint8], people: FrameObjects, width: int) -> NDArray[np.uint8]:
    """Without the regions to be ignored."""
    seen = people.visibility >= 0
    return _with_boxes(picture, people.boxes[seen], people.ids[seen], width)


def _with_boxes(
    picture: NDArray[np.uint8], boxes: NDArray[np.floating], ids: NDArray[np.int64], width: int
) -> NDArray[np.uint8]:
    height = max(1, round(width * picture.shape[0] / picture.shape[1]))
    enlarged = width / picture.shape[1]
    # From fourfold on pixels are to be seen as such.
    way = cv2.INTER_NEAREST if enlarged >= 4 else cv2.INTER_LINEAR if enlarged > 1 else cv2.INTER_AREA
    resized = cv2.resize(picture, (width, height), interpolation=way)
    ltwh = box_cxcywh_to_ltwh(boxes) * np.array([width, height, width, height])
    return draw_frame(np.ascontiguousarray(resized), FrameTracks(ids, ltwh, np.ones(len(ids))), min_width_px=0)


def _captioned(picture: NDArray[np.uint8], text: str, room: tuple[int, int]) -> NDArray[np.uint8]:
    cell = np.full((_CAPTION_PX + room[0], room[1], 3), _CAPTION_BGR, np.uint8)
    cv2.putText(cell, text, (4, _CAPTION_PX - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.42, _INK_BGR, 1, cv2.LINE_AA)
    height, width = picture.shape[:2]
    cell[_CAPTION_PX : _CAPTION_PX + height, :width] = picture
    return cell
