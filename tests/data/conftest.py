"""Tiny sequences in MOTChallenge layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from motrlab.data.motchallenge import SequenceInfo, format_sequence_info

MakeSequence = Callable[..., Path]

GT = "".join(
    f"{frame},{person},{10 * person + frame},{8 + person},12,20,1,1,{0.5 if person == 2 else 1}\n"
    for frame in range(1, 9)
    for person in (1, 2, 3)
    if (frame, person) != (4, 1)
)
DET = "".join(f"{frame},-1,{10.5 + frame},9,12,20,0.75\n" for frame in range(1, 9))


def write_sequence(
    folder: Path, *, num_frames: int = 8, gt: str | None = GT, det: str | None = DET, seed: int = 0
) -> Path:
    """`num_frames` random JPEG files of 96×64 pixels; gt and det files where given."""
    info = SequenceInfo(name=folder.name, num_frames=num_frames, width=96, height=64, frame_rate=10.0)
    rng = np.random.default_rng(seed)
    (folder / "img1").mkdir(parents=True)
    for frame in range(1, num_frames + 1):
        coarse = rng.integers(0, 256, (4, 6, 3), np.uint8)
        image = cv2.resize(coarse, (info.width, info.height), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(info.frame_path(folder, frame)), image)
    (folder / "seqinfo.ini").write_text(format_sequence_info(info))
    for name, text in (("gt", gt), ("det", det)):
        if text is not None:
            (folder / name).mkdir()
            (folder / name / f"{name}.txt").write_text(text)
    return folder


@pytest.fixture
def make_sequence(tmp_path: Path) -> MakeSequence:
    """`make_sequence("A", num_frames=8, gt=..., det=...)` → folder `tmp_path/source/A`."""
    return lambda name, **options: write_sequence(tmp_path / "source" / name, **options)
