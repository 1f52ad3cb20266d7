from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from motrlab.data.preprocess import preprocess
from motrlab.deploy.kernels import BACKENDS
from motrlab.deploy.runtime import Runtime, load_artifact, load_networks
from motrlab.errors import UserError
from motrlab.tracking.sequence import FrameTracks, track_frames

WITHOUT_TORCH = """
import json, sys
from pathlib import Path
import numpy as np
from motrlab.deploy.runtime import load_artifact
images = np.load(sys.argv[2])
found = list(load_artifact(Path(sys.argv[1])).track(images))
assert "torch" not in sys.modules, "torch was imported"
print(json.dumps([len(f.track_id) for f in found]))
"""

SIGNAL_AFTER_OPENVINO = """
import signal, sys
from pathlib import Path
from motrlab.deploy.runtime import load_artifact
runtime = load_artifact(Path(sys.argv[1]), backend="openvino")
del runtime
signal.signal(signal.SIGUSR1, lambda number, _: print(signal.Signals(number).name))
signal.raise_signal(signal.SIGUSR1)
"""


def run_all(runtime: Runtime, images: Any) -> list[FrameTracks]:
    return list(runtime.track(images))


def assert_same_tracks(a: list[FrameTracks], b: list[FrameTracks]) -> None:
    for one, other in zip(a, b, strict=True):
        for field in ("track_id", "ltwh", "score"):
            np.testing.assert_array_equal(getattr(one, field), getattr(other, field))


def test_tracks_without_importing_torch(artifact: Path, images: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.stack(images))
    command = [sys.executable, "-c", WITHOUT_TORCH, str(artifact), str(tmp_path / "images.npy")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    expected = [len(found.track_id) for found in run_all(load_artifact(artifact), images)]
    assert json.loads(result.stdout) == expected
    assert sum(expected) > 0


def test_camera_motion_is_the_same_in_torch_and_deployed(artifact: Path, fixed_point: Any) -> None:
    """Under a camera that pans: the same bits, in `track` and in `steps`, and other tracks than without."""
    assert json.loads((artifact / "tracker.json").read_text())["tracker"]["camera_motion"] is False
    config, runtime = fixed_point.config, load_artifact(artifact)
    coarse = np.random.default_rng(0).integers(0, 256, (14, 40, 3), np.uint8)
    wide = np.asarray(cv2.resize(coarse, (400, 96), interpolation=cv2.INTER_CUBIC), np.uint8)
    images = [np.ascontiguousarray(wide[:, 6 * i : 6 * i + 160]) for i in range(12)]
    # Nobody is seen again, all coast.
    still = replace(config.tracker, miss_score=1.0, reset_score=1.0, max_misses=9, coast_written=9, min_area_px=0.0)
    rules = replace(still, camera_motion=True)
    moving = replace(runtime, tracker=rules)
    found, without = run_all(moving, images), run_all(replace(runtime, tracker=still), images)
    sizes = config.model.height, config.model.width
    with torch.no_grad():
        expected = list(
            track_frames(
                fixed_point.quantised.graphs,
                images,
                lambda image: torch.from_numpy(preprocess(image, *sizes))[None],
                config.model,
                rules,
            )
        )
    assert_same_tracks(found, expected)
    assert len(list(moving.steps(images))) == 12
    assert any(not np.array_equal(a.ltwh, b.ltwh) for a, b in zip(found, without, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gives_the_tracks_of_the_network_it_was_made_from(
    artifact: Path, fixed_point: Any, images: Any, backend: str
) -> None:
    """To the bit, from images: torch, ONNX Runtime's kernels and OpenVINO's."""
    runtime, config = load_artifact(artifact, backend=backend), fixed_point.config
    sizes = config.model.height, config.model.width
    with torch.no_grad():
        expected = list(
            track_frames(
                fixed_point.quantised.graphs,
                images,
                lambda image: torch.from_numpy(preprocess(image, *sizes))[None],
                config.model,
                config.tracker,
            )
        )
    found = run_all(runtime, images)
    assert len({i for f in found for i in f.track_id.tolist()}) > 1
    assert_same_tracks(found, expected)


def test_signals_are_handled_after_openvino(artifact: Path) -> None:
    """Such as Ctrl-C, or the end of a child of torch's DataLoader."""
    command = [sys.executable, "-c", SIGNAL_AFTER_OPENVINO, str(artifact)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "SIGUSR1\n"), result.stderr


def test_nothing_is_kept_from_the_sequence_before(artifact: Path, images: Any) -> None:
    runtime = load_artifact(artifact)
    first = run_all(runtime, images)
    run_all(runtime, images[::-1])
    assert_same_tracks(run_all(runtime, images), first)
    assert min(i for f in first for i in f.track_id.tolist()) == 1


def test_an_empty_sequence_has_no_frames(artifact: Path) -> None:
    assert run_all(load_artifact(artifact), []) == []


def test_boxes_are_in_pixels_of_each_image(artifact: Path, images: Any) -> None:
    doubled = [image.repeat(2, 0).repeat(2, 1) for image in images[:1]]
    small, large = (run_all(load_artifact(artifact), x)[0] for x in (images[:1], doubled))
    common = np.intersect1d(small.track_id, large.track_id)
    assert common.size > 0
    ratio = large.ltwh[np.isin(large.track_id, common)] / small.ltwh[np.isin(small.track_id, common)]
    np.testing.assert_allclose(np.median(ratio), 2, rtol=0.05)


def test_every_stage_of_every_frame_is_timed(artifact: Path, images: Any) -> None:
    seconds: dict[str, list[float]] = {}
    list(load_artifact(artifact).track(images, seconds))
    assert set(seconds) == {"preprocess", "base", "tracker", "gather", "qim", "state", "total"}
    assert {len(values) for values in seconds.values()} == {len(images)}
    parts = sum(sum(values) for name, values in seconds.items() if name != "total")
    assert parts <= sum(seconds["total"])


def test_an_unknown_backend_is_a_user_error(artifact: Path) -> None:
    with pytest.raises(UserError, match=r"tensorrt.*onnxruntime, openvino"):
        load_artifact(artifact, backend="tensorrt")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_file_that_does_not_load_is_named(tmp_path: Path, backend: str) -> None:
    (tmp_path / "base.onnx").write_bytes(b"no model")
    with pytest.raises(
        UserError, match=rf"base\.onnx: {BACKENDS[backend]} cannot load it \(.+\); convert the run again"
    ):
        load_networks(tmp_path, "onnx", 1, backend)
