"""Halves made small: the same people, smaller pictures."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from motrlab.config import ModelConfig, StreetConfig, street
from motrlab.data.halves import START, least_share, pack_halves
from motrlab.data.motchallenge import SequenceInfo, read_annotations, read_sequence_info
from motrlab.data.packing import SequenceSource, write_store
from motrlab.data.prepare import prepare
from motrlab.data.store import FrameStore
from motrlab.data.street import generate_street
from motrlab.errors import UserError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of 4 + 4 frames, 160×90 pixels."""
    folder = tmp_path_factory.mktemp("street")
    generate_street(StreetConfig(num_videos=1, num_unseen=0, num_frames=8, width=160, height=90), folder / "street")
    prepare(folder / "street", folder / "data")
    return folder / "data"


@pytest.fixture
def model() -> ModelConfig:
    return replace(street().model, height=40, width=80)


def test_boxes_keep_their_place(prepared: Path, model: ModelConfig, tmp_path: Path) -> None:
    sizes = pack_halves(prepared, tmp_path / "small", model, scale=1.0)
    assert set(sizes) == {"train", "test", "test_gt"}
    for part in ("train", "test"):
        before, after = (FrameStore(folder / f"{part}_lmdb") for folder in (prepared, tmp_path / "small"))
        (old,), (new,) = before.sequences, after.sequences
        assert (new.num_frames, new.width, new.height) == (old.num_frames, 80, 45)  # both sides, and the shape kept
        image = after.image(new.name, 2)
        assert image.shape == (45, 80, 3)
        whole = before.image(new.name, 2)[::2, ::2].astype(float)
        assert np.abs(whole.mean((0, 1)) - image.mean((0, 1))).max() < 4
        np.testing.assert_allclose(after.annotations(new.name).ltwh, before.annotations(new.name).ltwh / 2)
    folder = tmp_path / "small" / "test_gt" / new.name
    gt = read_annotations(folder / "gt" / "gt.txt", read_sequence_info(folder))
    np.testing.assert_allclose(gt.ltwh, after.annotations(new.name).ltwh, atol=1e-6)
    assert least_share(tmp_path / "small") == 0.25
    assert least_share(prepared) == 1.0


def test_none_is_enlarged(prepared: Path, model: ModelConfig, tmp_path: Path) -> None:
    pack_halves(prepared, tmp_path / "small", model, scale=5.0)
    assert least_share(tmp_path / "small") == 1.0


def test_quality_costs_bytes_and_is_written_down(prepared: Path, model: ModelConfig, tmp_path: Path) -> None:
    low, high = (pack_halves(prepared, tmp_path / str(q), model, scale=2.0, quality=q) for q in (20, 95))
    assert sum(low.values()) < sum(high.values())
    assert json.loads((tmp_path / "20" / "halves.json").read_text())["quality"] == 20


def test_weights_to_start_from_lie_beside_and_stale_ones_go(prepared: Path, model: ModelConfig, tmp_path: Path) -> None:
    file = tmp_path / "small" / START
    sizes = pack_halves(prepared, file.parent, model, scale=1.0, start=bytes(2**19))
    assert sizes["start"] == json.loads((file.parent / "halves.json").read_text())["mib"]["start"] == 0.5
    assert file.stat().st_mode == (file.parent / "halves.json").stat().st_mode
    assert "start" not in pack_halves(prepared, file.parent, model, scale=1.0)
    assert not file.exists()


def test_stills_are_left_out_and_told(
    prepared: Path, model: ModelConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FrameStore(prepared / "train_lmdb")
    (video,), picture = store.sequences, tmp_path / "1.png"
    cv2.imwrite(str(picture), store.image(video.name, 1))
    for part, stills in (("train", True), ("test", False)):
        items = [
            SequenceSource(
                info=SequenceInfo(name=name, num_frames=n, width=160, height=90, frame_rate=1.0, stills=n == 3),
                files=(picture,) * n, annotations=store.annotations(video.name),
            )
            for name, n in (("V", 4), ("S", 3))[: 1 + stills]
        ]  # fmt: skip
        write_store(tmp_path / "data" / f"{part}_lmdb", items)
    pack_halves(tmp_path / "data", tmp_path / "small", model, scale=1.0)
    packed = FrameStore(tmp_path / "small" / "train_lmdb")
    assert ([info.name for info in packed.sequences], packed.stills) == (["V"], ())
    told = "motrlab: 3 stills of S are left out: pseudo-clips there will use frames of the videos\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"most_mib": 0.01}, "lower --quality or --scale"),
        ({"most_mib": 1.0, "start": bytes(2**20)}, "lower --quality or --scale"),
        ({"most_mib": math.nan}, "most-mib is a number above 0, not nan"),
        ({"quality": 0}, "quality is from 1 to 100"),
        *(({"scale": scale}, "scale is a number above 0, not") for scale in (0, -1, math.nan, math.inf)),
    ],
)
def test_mistakes(given: dict[str, Any], told: str, prepared: Path, model: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        pack_halves(prepared, tmp_path / "small", model, **{"scale": 1.0, **given})


def test_no_data_is_told(model: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no packed data"):
        pack_halves(tmp_path, tmp_path / "small", model, scale=1.0)
