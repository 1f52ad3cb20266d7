"""Pictures of one video of a run."""

from __future__ import annotations

import numpy as np
import pytest

from motrlab.evaluation.tracks import Tracks, write_tracks
from motrlab.run import Run
from motrlab.stages import looking
from motrlab.stages.data import open_store
from motrlab.stages.looking import attend, follow_slots, mistakes_by_video, stages_over_each_other


def test_slots_attention_and_two_stages(trained: Run) -> None:
    use, figure = follow_slots(trained, "float")
    assert use.person.shape == (trained.config.model.num_track, 12)
    assert figure.axes
    found, figure = attend(trained, 6)
    assert found.slot >= trained.config.model.num_detect  # somebody who is tracked
    assert found.layer == trained.config.model.decoder_layers - 1
    assert found.slots.sum() == pytest.approx(1, abs=1e-4)


def test_two_stages_where_they_differ_most(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    name = open_store(trained).sequences[0].name
    picture, told = stages_over_each_other(trained, 3, name, stages=("float", "float"))
    assert picture.shape == (540, 960, 3)  # of 90 by 160: enlarged
    assert picture.dtype == np.uint8
    assert told.startswith(f"{name}, frame 3: boxes that differ: 0 of")
    monkeypatch.setattr(looking, "require_tracks", lambda run, stage: None)  # it would track again
    for stage, frames in (("float", (2, 5)), ("qat", (2,))):
        rows = [(frame, 1, 20.0, 20.0, 10.0, 30.0, 0.9) for frame in frames]
        write_tracks(trained.tracks(stage) / f"{name}.txt", Tracks.from_rows(rows))
    _, told = stages_over_each_other(trained, sequence=name, stages=("float", "qat"))
    assert told == f"{name}, frame 5: boxes that differ: 1 of 1 of float, 0 of 0 of qat"


def test_the_video_with_most_mistakes_comes_first(trained: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "require_tracks", lambda run, stage: None)
    store = open_store(trained)
    perfect, *others = [info.name for info in store.sequences]
    for name in (perfect, *others):
        gt = store.annotations(name).people
        ids = gt.track_id + (100 * (gt.frame > 6) if name != perfect else 0)  # everybody gets another id
        rows = [(f, i, *box, 1.0) for f, i, box in zip(gt.frame, ids, gt.ltwh.tolist(), strict=True)]
        write_tracks(trained.tracks("float") / f"{name}.txt", Tracks.from_rows(rows))
    found = mistakes_by_video(trained, "float")
    assert list(found)[-1] == perfect
    assert found[perfect] | {"frames": 0, "boxes": 0, "tracks": 0} == dict.fromkeys(found[perfect], 0)
    assert found[others[0]]["switches"] > 0
    assert found[others[0]]["missed"] == found[others[0]]["false"] == 0


def test_attention_of_a_frame_without_tracks_and_beyond_the_end(trained: Run) -> None:
    assert attend(trained, 1)[0].slot < trained.config.model.num_detect  # a detect query
    last, beyond = attend(trained, 12)[0], attend(trained, 99)[0]
    assert (last.slot, last.box.tolist()) == (beyond.slot, beyond.box.tolist())
