from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from motrlab.report.blocks import Source
from motrlab.report.frames import MAX_FRAMES, section
from motrlab.run import Run


def write_noise(path: Path, height: int, width: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(1).integers(0, 255, (height, width, 3), np.uint8)
    cv2.imwrite(str(path), noise)
    return path


@pytest.mark.parametrize("budget", [60_000, 400_000, 4_000_000])
def test_frames_share_the_budget(made_run: Run, budget: int) -> None:
    run = made_run
    assets = [write_noise(run.assets / f"{i}.png", 720, 1280) for i in range(2)]
    run.add_record("fixed_point", "overlay", {}, started=0.0, assets=assets)
    found = section(Source(run), budget)
    pictures, missing = found.pictures, found.missing
    assert missing == []
    assert len(pictures) == 2
    assert sum(len(p.data) for p in pictures) <= budget
    assert all(p.source.startswith("data:image/jpeg;base64,") for p in pictures)


def test_more_frames_than_fit_are_named(made_run: Run) -> None:
    run = made_run
    assets = [write_noise(run.assets / f"{i}.png", 24, 32) for i in range(MAX_FRAMES + 3)]
    run.add_record("fixed_point", "overlay", {}, started=0.0, assets=assets)
    found = section(Source(run))
    pictures, missing = found.pictures, found.missing
    assert len(pictures) == MAX_FRAMES
    assert missing == ["3 more overlays, left out for size"]


def test_overlays_of_the_latest_stage_are_shown(made_run: Run) -> None:
    run = made_run
    for stage in ("fixed_point", "float"):
        asset = write_noise(run.assets / f"{stage}_MOT17-02.jpg", 24, 32)
        run.add_record(stage, "overlay", {}, started=0.0, assets=[asset])
    pictures = section(Source(run)).pictures
    assert [p.alt for p in pictures] == ["Frames with boxes, ids and trails of the fixed-point tracker: MOT17-02."]
