"""The synthetic street: layout, determinism, exact boxes and visibility, and how hard it is."""

from __future__ import annotations

import hashlib
import itertools
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from motrlab.boxes import box_ltwh_to_xyxy, pairwise_iou
from motrlab.config import StreetConfig
from motrlab.data.motchallenge import read_annotations, read_sequence_info
from motrlab.data.street import generate_street, gt_rows, is_unseen, street_names, street_scene
from motrlab.data.street_render import Renderer
from motrlab.data.street_world import NUM_PHASES, TOWARDS, Look, Person, Prop, Scene
from motrlab.errors import UserError

TINY = StreetConfig(num_videos=2, num_unseen=1, num_frames=12, width=160, height=90)
LOOK = Look((40, 40, 210), (25, 25, 25), (20, 20, 25), (130, 170, 220), None, None, False, False)


def hash_folder(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def still_person(track_id: int, x: float, y: float, height: float, num_frames: int) -> Person:
    rows = np.ones(num_frames, dtype=np.int64)
    foot = np.tile((x, y), (num_frames, 1)).astype(np.float64)
    return Person(0, foot, height * np.ones(num_frames), rows * TOWARDS, rows * NUM_PHASES, track_id, LOOK)


def make_scene(people: list[Person], props: list[Prop], camera: NDArray[np.float64] | None = None) -> Scene:
    """A scene of one's own, 480×270, without noise and at normal brightness."""
    num_frames = 4 if camera is None else len(camera)
    config = StreetConfig(num_frames=max(4, num_frames))
    camera = np.zeros((config.num_frames, 2)) if camera is None else camera
    gain = np.ones(config.num_frames)
    return Scene("TEST", config, (0,), tuple(people), tuple(props), camera, (700, 300), gain, 0.0)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("street")
    generate_street(TINY, folder, num_workers=1)
    return folder


@pytest.fixture(scope="module")
def annotations() -> dict[str, tuple[Scene, NDArray[np.float64]]]:
    """Scene and gt rows of every sequence of the default config."""
    names = street_names(StreetConfig())
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        return dict(zip(names, pool.map(partial(_annotate, config=StreetConfig()), names), strict=True))


def annotate_scene(scene: Scene) -> NDArray[np.float64]:
    """The rows of gt.txt without drawing a picture."""
    renderer = Renderer(scene)
    return gt_rows([renderer.compose(i)[1] for i in range(scene.config.num_frames)])


def _annotate(name: str, config: StreetConfig) -> tuple[Scene, NDArray[np.float64]]:
    scene = street_scene(name, config)
    return scene, annotate_scene(scene)


def people_of(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return rows[(rows[:, 6] == 1) & (rows[:, 7] == 1)]


def test_bytes_depend_on_the_seed_alone(tiny: Path, tmp_path: Path) -> None:
    generate_street(TINY, tmp_path / "two_workers", num_workers=2)
    assert hash_folder(tmp_path / "two_workers") == hash_folder(tiny)
    generate_street(replace(TINY, seed=18), tmp_path / "other_seed", num_workers=1)
    assert hash_folder(tmp_path / "other_seed") != hash_folder(tiny)


def test_layout_is_motchallenge(tiny: Path) -> None:
    assert sorted(p.name for p in tiny.iterdir()) == ["STREET-01", "STREET-02", "STREET-U1"]
    for sequence in sorted(tiny.iterdir()):
        images = sorted((sequence / "img1").iterdir())
        assert [p.name for p in images] == [f"{i:06d}.jpg" for i in range(1, TINY.num_frames + 1)]
        for path in images:
            picture = cv2.imread(str(path))
            assert picture is not None
            assert picture.shape == (TINY.height, TINY.width, 3)
            assert picture.std() > 10
        gt = [line.split(",") for line in (sequence / "gt" / "gt.txt").read_text().splitlines()]
        det = [line.split(",") for line in (sequence / "det" / "det.txt").read_text().splitlines()]
        assert {len(row) for row in gt} == {9}
        assert {len(row) for row in det} == {10}
        assert {row[1] for row in det} == {"-1"}
        assert all(0 < float(row[6]) <= 1 for row in det)
        info = (sequence / "seqinfo.ini").read_text()
        assert f"seqLength={TINY.num_frames}\n" in info
        assert f"name={sequence.name}\n" in info


def test_gt_file_holds_the_annotation(tiny: Path) -> None:
    for name in street_names(TINY):
        rows = np.loadtxt(tiny / name / "gt" / "gt.txt", delimiter=",", ndmin=2)
        np.testing.assert_array_equal(rows, annotate_scene(street_scene(name, TINY)))
        assert len(read_annotations(tiny / name / "gt" / "gt.txt", read_sequence_info(tiny / name)).people) == len(
            people_of(rows)
        )


def test_second_run_keeps_what_is_finished_and_mends_the_rest(tmp_path: Path) -> None:
    config = replace(TINY, num_unseen=0)
    generate_street(config, tmp_path, num_workers=1)
    before = hash_folder(tmp_path)
    kept = (tmp_path / "STREET-01" / "gt" / "gt.txt").stat().st_mtime_ns
    for file in (tmp_path / "STREET-02").rglob("*.*"):
        file.unlink()
    for folder in ("img1", "gt", "det", ""):
        (tmp_path / "STREET-02" / folder).rmdir()
    (tmp_path / ".STREET-02.0a1b2c3d.tmp").mkdir()
    generate_street(config, tmp_path, num_workers=1)
    assert hash_folder(tmp_path) == before
    assert (tmp_path / "STREET-01" / "gt" / "gt.txt").stat().st_mtime_ns == kept
    assert not (tmp_path / ".STREET-02.0a1b2c3d.tmp").exists()


def test_other_config_replaces_the_old_data(tmp_path: Path) -> None:
    generate_street(TINY, tmp_path, num_workers=1)
    generate_street(replace(TINY, num_videos=1, num_unseen=0, num_frames=5), tmp_path, num_workers=1)
    assert [p.name for p in tmp_path.iterdir()] == ["STREET-01"]
    assert len(list((tmp_path / "STREET-01" / "img1").iterdir())) == 5


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "STREET-01").mkdir()
    (tmp_path / "STREET-01" / "precious.txt").write_text("mine")
    with pytest.raises(UserError, match="not written by the street generator"):
        generate_street(TINY, tmp_path, num_workers=1)
    assert (tmp_path / "STREET-01" / "precious.txt").read_text() == "mine"


def test_names_tell_unseen_videos() -> None:
    names = street_names(StreetConfig())
    assert names[:2] + names[11:] == ["STREET-01", "STREET-02", "STREET-12", "STREET-U1", "STREET-U2"]
    assert [n for n in names if is_unseen(n)] == ["STREET-U1", "STREET-U2"]
    with pytest.raises(UserError, match="STREET-13"):
        street_scene("STREET-13", StreetConfig())


@pytest.mark.parametrize(
    "config",
    [
        StreetConfig(num_videos=1, num_unseen=0, num_frames=4, width=64, height=36),
        StreetConfig(num_videos=1, num_unseen=1, num_frames=32, width=240, height=135),
        StreetConfig(num_videos=1, num_unseen=0, num_frames=4, width=960, height=540),
        StreetConfig(num_videos=1, num_unseen=0, num_frames=5, width=200, height=200),
    ],
    ids=["minute", "smoke", "large", "square"],
)
def test_other_sizes_work(config: StreetConfig) -> None:
    for name in street_names(config):
        scene = street_scene(name, config)
        picture, _ = Renderer(scene).render(config.num_frames - 1)
        assert picture.shape == (config.height, config.width, 3)
        assert len(people_of(annotate_scene(scene))) > 0


@pytest.mark.parametrize(
    ("x", "y", "height"), [(240.0, 220.0, 100.0), (100.3, 130.7, 52.4), (3.0, 200.0, 90.0), (470.0, 290.0, 131.0)]
)
def test_box_is_that_of_the_drawn_person(x: float, y: float, height: float) -> None:
    """Against an empty scene, what has changed is the person (and the shadow under the feet, left out here)."""
    scene = make_scene([still_person(1, x, y, height, 4)], [])
    picture, (found,) = Renderer(scene).render(0)
    empty, _ = Renderer(make_scene([], [])).render(0)
    changed = np.abs(picture.astype(int) - empty).max(2) > 25
    changed[int(y - 0.06 * height) :] = False
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    left, top, width, _ = found.ltwh
    assert columns[0] == pytest.approx(max(left, 0), abs=1.5)
    assert columns[-1] + 1 == pytest.approx(min(left + width, 480), abs=1.5)
    assert rows[0] == pytest.approx(top, abs=1.5)
    assert found.ltwh[1] + found.ltwh[3] == pytest.approx(y, abs=0.02 * height)
    assert found.ltwh[3] == pytest.approx(height, rel=0.03)


def test_boxes_fit_every_pose() -> None:
    """The tight box of the mask at each size and phase is the gt box, within a pixel."""
    scene = street_scene("STREET-02", StreetConfig())
    for person, row in itertools.islice(itertools.product(scene.people, range(0, 40, 7)), 60):
        if row >= len(person.height):
            continue
        middle = replace(
            person, start=0, foot=np.array([[240.3, 200.6]]), height=person.height[row : row + 1],
            view=person.view[row : row + 1], phase=person.phase[row : row + 1],
        )  # fmt: skip
        renderer = Renderer(make_scene([middle], []))
        labels, (found,) = renderer.compose(0)
        rows, columns = np.flatnonzero((labels == 1).any(1)), np.flatnonzero((labels == 1).any(0))
        drawn = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        np.testing.assert_allclose(drawn, box_ltwh_to_xyxy(np.array(found.ltwh)), atol=1.0)


@pytest.mark.parametrize(
    ("case", "offset", "width", "expected"),
    [
        ("pole far from the person", 120.0, 8.0, 1.0),
        ("wall over all of the person", 0.0, 80.0, 0.0),
        ("wall over the left half", -40.0, 80.0, 0.5),
        ("wall behind the person", 0.0, -80.0, 1.0),
    ],
)
def test_visibility_is_exact(case: str, offset: float, width: float, expected: float) -> None:
    """A frontal standing figure is symmetric, so half a wall leaves half of the pixels."""
    person = still_person(1, 240.0, 200.0, 100.0, 4)
    foot_y = 210.0 if width > 0 else 190.0
    wall = Prop("pole", (240.0 + offset, foot_y), abs(width), 150.0, (50, 50, 50))
    (found,) = Renderer(make_scene([person], [wall])).compose(0)[1]
    assert found.visibility == pytest.approx(expected, abs=0.01), case


def test_visibility_counts_pixels_outside_the_image() -> None:
    half = Renderer(make_scene([still_person(1, 0.0, 200.0, 100.0, 4)], [])).compose(0)[1]
    assert half[0].visibility == pytest.approx(0.5, abs=0.01)
    assert half[0].ltwh[0] < -15
    assert Renderer(make_scene([still_person(1, -60.0, 200.0, 100.0, 4)], [])).compose(0)[1] == []


def test_nearer_person_covers_and_hidden_person_stays_in_gt() -> None:
    far, near = still_person(1, 240.0, 190.0, 60.0, 4), still_person(2, 240.0, 215.0, 120.0, 4)
    by_id = {s.track_id: s for s in Renderer(make_scene([near, far], [])).compose(0)[1]}
    assert by_id[2].visibility == 1.0
    assert by_id[1].visibility < 0.15
    column = Prop("column", (240.0, 230.0), 90.0, 160.0, (60, 85, 70))
    hidden = {s.track_id: s.visibility for s in Renderer(make_scene([near, far], [column])).compose(0)[1]}
    assert hidden == {1: 0.0, 2: 0.0}


def test_boxes_follow_a_moving_camera() -> None:
    camera = np.array([[0.0, 0.0], [3.5, 1.0], [10.25, -2.0], [40.0, 4.0]])
    renderer = Renderer(make_scene([still_person(1, 240.0, 200.0, 100.0, 4)], [], camera))
    boxes = np.array([renderer.compose(i)[1][0].ltwh for i in range(4)])
    np.testing.assert_allclose(boxes[0, :2] - boxes[:, :2], camera, atol=1e-6)
    np.testing.assert_allclose(boxes[:, 2:], boxes[:1, 2:].repeat(4, 0), atol=1e-6)
    pictures = [renderer.render(i)[0] for i in range(4)]
    moved = cv2.warpAffine(pictures[3], np.array([[1.0, 0, 40], [0, 1, 4]]), (480, 270))
    assert np.abs(moved[10:, 45:].astype(int) - pictures[0][10:, 45:]).mean() < 3


@pytest.mark.slow
def test_statues_are_distractors(annotations: dict[str, tuple[Scene, NDArray[np.float64]]]) -> None:
    for name, (scene, rows) in annotations.items():
        statues = rows[rows[:, 7] == 8]
        assert len(statues) > 0, name
        assert (statues[:, 6] == 0).all()
        assert set(rows[:, 7]) == {1, 8}
        assert not set(statues[:, 1]) & {p.track_id for p in scene.people}


@pytest.mark.slow
def test_difficulty_of_the_test_halves(annotations: dict[str, tuple[Scene, NDArray[np.float64]]]) -> None:
    half = StreetConfig().num_frames // 2
    test = [people_of(rows) for name, (_, rows) in annotations.items() if not is_unseen(name)]
    boxes = np.concatenate([rows[rows[:, 0] > half] for rows in test])
    visibility = boxes[:, 8]
    assert len(test) == 12
    assert len(boxes) >= 10_000
    assert len(boxes) / (12 * half) >= 6
    assert 0.20 <= (visibility < 0.7).mean() <= 0.23
    assert 0.08 <= (visibility < 0.3).mean() <= 0.095
    assert np.quantile(boxes[:, 5], 0.1) >= 45


@pytest.mark.slow
def test_people_are_few_enough_and_never_hidden_for_long(
    annotations: dict[str, tuple[Scene, NDArray[np.float64]]],
) -> None:
    for name, (_, rows) in annotations.items():
        people = people_of(rows)
        assert np.unique(people[:, 0], return_counts=True)[1].max() <= 16, name
        for track_id in np.unique(people[:, 1]):
            track = people[people[:, 1] == track_id]
            assert (np.diff(track[:, 0]) >= 1).all()
            unseen = "".join("x" if v < 0.1 else " " for v in track[:, 8]).split()
            assert max(map(len, unseen), default=0) <= 20, (name, track_id)


@pytest.mark.slow
def test_boxes_overlap_those_of_five_frames_before(annotations: dict[str, tuple[Scene, NDArray[np.float64]]]) -> None:
    overlaps = []
    for _, rows in annotations.values():
        people = people_of(rows)
        for track_id in np.unique(people[:, 1]):
            boxes = box_ltwh_to_xyxy(people[people[:, 1] == track_id, 2:6])
            overlaps.append(pairwise_iou(boxes[:-5, None], boxes[5:, None])[:, 0, 0])
    assert np.mean(np.concatenate(overlaps) > 0.2) > 0.9


@pytest.mark.slow
def test_cameras_move_in_a_third(annotations: dict[str, tuple[Scene, NDArray[np.float64]]]) -> None:
    moving = [name for name, (scene, _) in annotations.items() if np.ptp(scene.camera[:, 0]) > 20]
    assert [is_unseen(name) for name in moving] == [False] * 4 + [True]


@pytest.mark.slow
def test_streets_are_empty_at_times(annotations: dict[str, tuple[Scene, NDArray[np.float64]]]) -> None:
    num_frames = StreetConfig().num_frames
    empty = {False: 0, True: 0}
    for name, (_, rows) in annotations.items():
        for frame in set(range(1, num_frames + 1)) - set(people_of(rows)[:, 0].astype(int)):
            empty[frame > num_frames // 2] += not is_unseen(name)
    assert min(empty.values()) >= 10


@pytest.mark.slow
def test_every_video_has_crossings_and_look_alikes(
    annotations: dict[str, tuple[Scene, NDArray[np.float64]]],
) -> None:
    for name, (scene, rows) in annotations.items():
        looks = [p.look for p in scene.people]
        assert 1 < len(set(looks)) < len(looks), name
        assert count_crossings(people_of(rows)) >= 1, name


def count_crossings(people: NDArray[np.float64]) -> int:
    """Pairs that change sides while their boxes overlap by a fifth or more."""
    crossings = 0
    tracks = {int(i): people[people[:, 1] == i] for i in np.unique(people[:, 1])}
    for a, b in itertools.combinations(tracks.values(), 2):
        _, rows_a, rows_b = np.intersect1d(a[:, 0], b[:, 0], return_indices=True)
        if len(rows_a) > 1:
            a_boxes, b_boxes = (box_ltwh_to_xyxy(t[r, 2:6]) for t, r in ((a, rows_a), (b, rows_b)))
            order = np.sign(a_boxes[:, [0, 2]].sum(1) - b_boxes[:, [0, 2]].sum(1))
            overlap = pairwise_iou(a_boxes[:, None], b_boxes[:, None])[:, 0, 0]
            crossings += bool(((order[1:] != order[:-1]) & (overlap[1:] > 0.2)).any())
    return crossings
