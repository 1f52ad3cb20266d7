"""Stages `calibration` and `qat`: what they watch, what they refuse, what they warn of."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from motrlab.config import Config
from motrlab.data.store import FrameStore
from motrlab.errors import UserError
from motrlab.model.motr import build_motr
from motrlab.run import Run
from motrlab.stages import quantization
from motrlab.stages.models import load_quantized
from motrlab.stages.quantization import calibrate, calibration_videos, train_qat
from motrlab.training.checkpoint import save_model


@pytest.fixture
def with_float(run: Run) -> Run:
    """Random weights as float model, and nothing watched yet."""
    save_model(run.model_file("float"), build_motr(run.config.model, seed=3), run.config)
    return with_settings(run, num_frames=4, num_sequences=2)


def with_settings(run: Run, **fields: Any) -> Run:
    return replace(run, config=replace(run.config, calibration=replace(run.config.calibration, **fields)))


def test_named_videos_are_watched_all(run: Run) -> None:
    settings = replace(run.config.calibration, num_sequences=1, sequences=("STREET-01", "STREET-02"))
    assert len(calibration_videos(run, settings)) == 2
    assert len(calibration_videos(run, replace(settings, sequences=()))) == 1


def test_a_video_that_is_not_there(run: Run) -> None:
    settings = replace(run.config.calibration, sequences=("STREET-02", "STREET-77"))
    with pytest.raises(UserError, match="no video 'STREET-77' among the train halves; there are STREET-01, STREET-02"):
        calibration_videos(run, settings)


def test_nobody_on_the_frames_is_refused(with_float: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """People come on the third frame; two of each video are watched."""
    annotations = FrameStore.annotations

    def late(store: FrameStore, name: str) -> Any:
        found = annotations(store, name)
        return found.select(found.frame > 2)

    monkeypatch.setattr(FrameStore, "annotations", late)
    with pytest.raises(UserError, match=r"nobody is on the first 2 frames of STREET-01, STREET-02"):
        calibrate(with_float)
    assert not with_float.model_file("calibration").exists()
    assert calibrate(with_float, num_frames=6)["metrics"]["num_frames"] == 6
    with pytest.raises(UserError, match=r"nobody is on the first 2 frames of STREET-02"):
        calibrate(with_float, num_frames=2, sequences=["STREET-02"])
    assert calibrate(with_float, num_frames=2, stride=2, sequences=["STREET-02"])["metrics"]["num_sequences"] == 1


def test_a_model_that_tracks_nobody_is_warned_of(with_float: Run) -> None:
    tracker = replace(with_float.config.tracker, birth_score=1.0)
    shy = replace(with_float, config=replace(with_float.config, tracker=tracker))
    with pytest.warns(UserWarning, match=r"tracked nobody on 4 frames.*train it further"):
        assert calibrate(shy)["metrics"]["tracks_per_frame"] == 0


def test_equalised_models_load_as_such(with_float: Run) -> None:
    calibrate(with_float)
    plain = load_quantized(with_float, "calibration").model.base.state_dict()
    calibrate(with_settings(with_float, equalise=True))
    equalised = load_quantized(with_float, "calibration").model.base.state_dict()
    changed = [name for name, value in plain.items() if not value.equal(equalised[name])]
    assert any(name.endswith("weight") for name in changed)


def test_qat_longer_than_float_training_is_warned_of(with_float: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Exception): ...

    def stop(*_: Any, **__: Any) -> None:
        raise Stop

    calibrate(with_float)
    monkeypatch.setattr(quantization, "fit_qat", stop)
    with pytest.warns(UserWarning, match=r"3 steps are more than the 2 of the float training"), pytest.raises(Stop):
        train_qat(with_float, steps=3)


def test_qat_rounds_on_the_frames_that_calibration_watched(with_float: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def stop(_quantised: Any, _store: Any, config: Config, _folder: Any, *, videos: Any) -> None:
        given.update(calibration=config.calibration, videos=[sum(1 for _ in video) for video in videos])
        raise KeyboardInterrupt

    calibrate(with_float, num_frames=6, sequences=["STREET-02"])
    monkeypatch.setattr(quantization, "fit_qat", stop)
    with pytest.raises(KeyboardInterrupt):
        train_qat(with_float, steps=1)
    assert given["calibration"].num_frames == 6
    assert len(given["videos"]) == 1
