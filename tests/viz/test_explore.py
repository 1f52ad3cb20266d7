from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from motrlab.data.motchallenge import Annotations, SequenceInfo
from motrlab.data.packing import SequenceSource, write_store
from motrlab.errors import UserError
from motrlab.evaluation.tracks import Tracks, write_tracks
from motrlab.run import Run
from motrlab.viz.explore import LossExplorer, TrackExplorer

FRAMES = {"walk": 5, "square": 3}


def source(folder: Path, name: str, num_frames: int) -> SequenceSource:
    files = []
    for frame in range(1, num_frames + 1):
        file = folder / f"{name}_{frame}.jpg"
        cv2.imwrite(str(file), np.full((54, 96, 3), 60, np.uint8))
        files.append(file)
    frame = np.arange(1, num_frames + 1)
    ones = np.ones(num_frames, np.int64)
    ltwh = np.stack((10.0 + frame, 0 * frame + 10, 0 * frame + 8, 0 * frame + 24), -1)
    annotations = Annotations(frame, ones, ltwh, ones, ones, ones.astype(float), True)
    info = SequenceInfo(name=name, num_frames=num_frames, width=96, height=54, frame_rate=15)
    return SequenceSource(info=info, files=tuple(files), annotations=annotations)


@pytest.fixture
def run(home: Path) -> Run:
    run = Run.open("demo", "smoke")
    run.data.mkdir()
    sources = [source(home, name, count) for name, count in FRAMES.items()]
    write_store(run.data / "test_lmdb", sources)
    for name, count in FRAMES.items():
        rows = [(frame, 7, 11.0 + frame, 10, 8, 24, 0.9) for frame in range(2, count + 1)]
        write_tracks(run.tracks("float") / f"{name}.txt", Tracks.from_rows(rows))
    return run


def decoded(png: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return np.asarray(image)


def test_track_explorer_draws_each_frame(run: Run) -> None:
    explorer = TrackExplorer(run, "float")
    assert explorer.sequence == "walk"
    pictures = {explorer.png(frame) for frame in range(1, 6)}
    assert len(pictures) == 5
    assert decoded(explorer.png(1)).shape[1] == 800
    assert not np.array_equal(explorer.image(1), explorer.image(2))


@pytest.mark.parametrize("frame", [0, 6])
def test_frames_outside_the_sequence(run: Run, frame: int) -> None:
    with pytest.raises(UserError, match="walk has frames 1 to 5"):
        TrackExplorer(run, "float").png(frame)


def test_missing_tracks_name_the_command(run: Run) -> None:
    with pytest.raises(UserError, match="evaluate --run demo --stage qat"):
        TrackExplorer(run, "qat")
    with pytest.raises(UserError, match="no tracks of 'gone'; there are walk, square"):
        TrackExplorer(run, "float", "gone")


def test_two_stages_side_by_side(run: Run) -> None:
    write_tracks(run.tracks("qat") / "walk.txt", Tracks.from_rows([(1, 3, 11.0, 10, 8, 24, 0.9)]))
    explorer = TrackExplorer(run, "float", beside="qat")
    assert explorer.sequences == ["walk"]  # the other has tracks of one stage only
    assert explorer.known_stages == ["float", "qat"]
    left, right = np.split(explorer.image(1), [560], 1)
    assert not np.array_equal(left, right[:, 6:])  # frame 1 has a track in one of them
    assert explorer.describe(1).endswith("float: 1 missed, 0 false, 0 switched; qat: 0 missed, 0 false, 0 switched")
    with pytest.raises(UserError, match="evaluate --run demo --stage calibration"):
        TrackExplorer(run, "float", beside="calibration")


def test_what_is_shown(run: Run) -> None:
    explorer = TrackExplorer(run, "float")
    every = explorer.image(3)
    pictures = [
        explorer.image(3, **shown) for shown in ({"gt": False}, {"trails": False}, {"ids": (8,)}, {"errors_only": True})
    ]
    assert all(not np.array_equal(every, picture) for picture in pictures)
    bare = explorer.image(3, gt=False, ids=(8,))
    assert np.array_equal(bare, pictures[-1])  # frame 3 has no mistake
    assert not np.array_equal(explorer.image(1, errors_only=True), explorer.image(1, gt=False))  # a miss


def test_mistakes_are_marked_and_found(run: Run) -> None:
    rows = [
        (1, 7, 11.0, 10, 8, 24, 0.9),
        (2, 8, 12.0, 10, 8, 24, 0.9),
        (4, 8, 14.0, 10, 8, 24, 0.9),
        (5, 8, 15.0, 10, 8, 24, 1),
        (5, 9, 60, 10, 8, 24, 1),
    ]
    write_tracks(run.tracks("float") / "walk.txt", Tracks.from_rows(rows))
    explorer = TrackExplorer(run, "float")
    (view,) = explorer.views
    assert [view.counts(frame) for frame in (1, 2, 3, 5)] == [
        {"miss": 0, "false": 0, "switch": 0},
        {"miss": 0, "false": 0, "switch": 1},
        {"miss": 1, "false": 0, "switch": 0},
        {"miss": 0, "false": 1, "switch": 0},
    ]
    assert view.mistakes["switch"][2] == ["7 > 8"]
    assert [explorer.next_error(frame) for frame in (1, 2, 3, 5)] == [2, 3, 5, 2]
    write_tracks(
        run.tracks("float") / "square.txt", Tracks.from_rows([(f, 1, 10.0 + f, 10, 8, 24, 1) for f in (1, 2, 3)])
    )
    explorer.select("square")
    assert explorer.next_error(1) is None


def test_track_widget_follows_its_controls(run: Run) -> None:
    explorer = TrackExplorer(run, "float", "walk")
    controls, what, picture, words = explorer.widget().children
    chosen, _, slider, onward = controls.children
    assert picture.value == explorer.jpeg(1)
    assert decoded(picture.value).shape[1] == 800
    slider.value = 5
    assert picture.value == explorer.jpeg(5)
    assert "frame 5 of 5" in words.value
    what.children[4].value = True
    assert picture.value == explorer.jpeg(5, errors_only=True)
    onward.click()
    assert slider.value == 1  # the only mistake: nobody is tracked in the first frame
    what.children[4].value = False
    what.children[5].value = "8, x"
    assert picture.value == explorer.jpeg(1, ids=(8,))
    what.children[5].value = ""
    slider.value = 5
    chosen.value = "square"
    assert explorer.sequence == "square"
    assert slider.max == slider.value == 3
    assert picture.value == explorer.jpeg(3)


def test_a_pane_has_its_name_above(run: Run) -> None:
    explorer = TrackExplorer(run, "float", "walk")
    picture, bare = decoded(explorer.jpeg(3)), explorer.image(3)
    assert picture.shape[0] > bare.shape[0] + 22
    assert picture[:22, :100].min() < 128  # words
    np.testing.assert_allclose(picture[22 : 22 + bare.shape[0]], bare, atol=60)  # JPEG
    title = explorer.figure(3).axes[0].get_title(loc="left")
    assert "Float" in title
    assert repr(explorer.widget()).startswith("TrackExplorer: moves in Jupyter only")


def test_track_widget_compares_stages(run: Run) -> None:
    for stage in ("qat", "fixed_point"):
        write_tracks(run.tracks(stage) / "walk.txt", Tracks.from_rows([(1, 3, 11.0, 10, 8, 24, 0.9)]))
    explorer = TrackExplorer(run, "float", "walk")
    _, what, picture, words = explorer.widget().children
    stage, beside = what.children[:2]
    assert beside.options == ("", "float", "qat", "fixed_point")
    beside.value = "qat"
    assert explorer.stages == ("float", "qat")
    assert picture.value == explorer.jpeg(1)
    assert "qat: 0 missed" in words.value
    stage.value, beside.value = "fixed_point", ""
    assert explorer.stages == ("fixed_point",)


COLUMNS = {"step": [0.0, 1, 2, 3], "loss": [4.0, 3, 2, 1], "l1": [1.0, 1, 1, 0], "lr": [1e-3] * 4}


def test_loss_explorer() -> None:
    explorer = LossExplorer(COLUMNS)
    assert explorer.terms == ["loss", "l1"]
    assert explorer.png() == explorer.png(["loss", "l1"])
    assert len({explorer.png(), explorer.png(["l1"]), explorer.png(window=2), explorer.png(log=True)}) == 4
    assert explorer.png(window=20) == explorer.png(window=2)  # no mean over more points than half of so few
    with pytest.raises(UserError, match="no loss term 'giou'; there are loss, l1"):
        explorer.png(["giou"])
    with pytest.raises(UserError, match="needs step"):
        LossExplorer({"loss": [1.0]})


def test_loss_widget_follows_its_controls() -> None:
    explorer = LossExplorer(COLUMNS)
    controls, picture = explorer.widget().children
    terms, box = controls.children
    terms.value = ["l1"]
    assert picture.value == explorer.png(["l1"])
    box.children[1].value = True
    assert picture.value == explorer.png(["l1"], log=True)


def test_loss_explorer_of_a_run(run: Run) -> None:
    with pytest.raises(UserError, match="no losses of stage 'float'"):
        LossExplorer.of_run(run)
    run.assets.mkdir()
    (run.assets / "float_loss.csv").write_text("step,loss\n0,3\n1,2\n")
    assert LossExplorer.of_run(run).terms == ["loss"]
