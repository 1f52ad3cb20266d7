"""Halves made small: the same people, smaller pictures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from motrlab.config import ModelConfig, StreetConfig, street
from motrlab.data.halves import least_share, pack_halves
from motrlab.data.motchallenge import read_annotations, read_sequence_info
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
    assert set(sizes) == {"train", "test"}
    for part in sizes:
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


@pytest.mark.parametrize(
    ("given", "told"),
    [({"most_mib": 0.01}, "lower --quality or --scale"), ({"quality": 0}, "quality is from 1 to 100")],
)
def test_mistakes(given: dict[str, float], told: str, prepared: Path, model: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        pack_halves(prepared, tmp_path / "small", model, scale=1.0, **given)  # type: ignore[arg-type]


def test_no_data_is_told(model: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no packed data"):
        pack_halves(tmp_path, tmp_path / "small", model, scale=1.0)
