"""Of several classes each is evaluated as if it were alone; the average is TrackEval's over classes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from motrlab.classes import PEOPLE, Classes
from motrlab.data.motchallenge import Annotations, SequenceInfo, label_files, write_files
from motrlab.errors import UserError
from motrlab.evaluation.metrics import OVERALL, Results, agreement, as_json, evaluate, evaluate_folders
from motrlab.evaluation.mistakes import find_mistakes
from motrlab.evaluation.protocols import PROTOCOLS
from motrlab.evaluation.tracks import Tracks, read_tracks, write_tracks

TWO = Classes((1, 8), ("pedestrian", "statue"))
FRAMES = 12


def scene(seed: int, numbers: tuple[int, ...] = (1, 8, 1, 8, 2)) -> tuple[Annotations, Tracks]:
    """Objects that walk apart, of those classes (2 is forgiven: someone on a vehicle), and tracks: some boxes are
    missed, ids change, now and then the class is wrong."""
    random = np.random.default_rng(seed)
    frame, who = (x.ravel() for x in np.meshgrid(np.arange(FRAMES) + 1, np.arange(len(numbers)), indexing="ij"))
    number = np.array(numbers)[who]
    ltwh = np.stack((40.0 * who + frame, 0.0 * frame + 10, 0.0 * frame + 20, 0.0 * frame + 40), -1)
    flag = (number != 2).astype(np.int64)
    gt = Annotations(frame, who + 1, ltwh, flag, number, np.ones(len(frame)), has_class=True)
    said = np.where(number == 2, 1, number)
    said = np.where(random.random(len(frame)) < 0.2, 9 - said, said)
    boxes = ltwh + random.normal(0, 2.5, ltwh.shape)
    track = who + 1 + len(numbers) * (frame > random.integers(4, 9))
    tracks = Tracks(frame, track, boxes, random.uniform(0.3, 1, len(frame)), said)
    return gt, tracks.select(random.random(len(frame)) < 0.85)


def alone(gt: Annotations, tracks: Tracks, number: int) -> tuple[Annotations, Tracks]:
    """A class made the people of data without other classes that are tracked."""
    others = (gt.class_id == 8) | (gt.class_id == 1)
    kept = gt.select((gt.class_id == number) | ~others) if number == 1 else gt.select(gt.class_id == number)
    kind = np.where(kept.class_id == number, 1, kept.class_id)
    own = tracks.select(tracks.class_id == number)
    return replace(kept, class_id=kind), Tracks(own.frame, own.track_id, own.ltwh, own.score)


@pytest.fixture(scope="module")
def scenes() -> dict[str, tuple[Annotations, Tracks]]:
    return {"a": scene(1), "b": scene(2), "c": scene(3, (1, 2, 1))}


def both(scenes: dict) -> tuple[dict[str, Annotations], dict[str, Tracks]]:
    return {name: gt for name, (gt, _) in scenes.items()}, {name: tracks for name, (_, tracks) in scenes.items()}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_class_is_evaluated_as_if_it_were_alone(scenes: dict, protocol: str) -> None:
    found = evaluate(*both(scenes), protocol, classes=TWO)
    each: list[Results] = []
    for number, name in TWO:
        of = {key: alone(*own, number) for key, own in scenes.items()}
        if protocol == "hat":  # where flag and class decide
            of = {key: (gt.select(gt.class_id == 1), tracks) for key, (gt, tracks) in of.items()}
        each.append(evaluate(*both(of), protocol))
        assert found[f"CLASSES.{name}"] == each[-1][OVERALL]
    assert found["CLASSES.pedestrian"]["idsw"] > 0
    assert found["CLASSES.statue"]["fp"] > 0
    for name in (*scenes, OVERALL):
        people, statues = (results[name] for results in each)
        for metric, value in found[name].items():
            summed = people[metric] + statues[metric]
            wanted = summed if isinstance(people[metric], int) else summed / 2
            assert value == pytest.approx(wanted), (name, metric)
    gt = {"c": scenes["c"][0]}
    nothing = evaluate(gt, {"c": Tracks.empty()}, protocol, classes=TWO)
    assert nothing["c"] == nothing["CLASSES.pedestrian"]  # of statues there is nothing to average


def test_one_class_stays_as_it_was(scenes: dict) -> None:
    gt, tracks = alone(*scenes["a"], 1)
    assert evaluate({"a": gt}, {"a": tracks}) == evaluate({"a": gt}, {"a": tracks}, classes=PEOPLE)
    assert list(evaluate({"a": gt}, {"a": tracks})) == ["a", OVERALL]
    with pytest.raises(UserError, match="tracks of several classes"):
        evaluate({"a": gt}, {"a": scenes["a"][1]})


def test_files_say_classes(scenes: dict, tmp_path: Path) -> None:
    for name, (gt, tracks) in scenes.items():
        info = SequenceInfo(
            name=name, num_frames=FRAMES, width=300, height=100, frame_rate=30, image_ext=".jpg", classes=TWO.text
        )
        write_files(tmp_path / "gt" / name, label_files(info, gt))
        (tmp_path / "pred").mkdir(exist_ok=True)
        write_tracks(tmp_path / "pred" / f"{name}.txt", tracks)
        assert (tmp_path / "pred" / f"{name}.txt").read_text().split(",")[7] in ("1", "8")
    results = evaluate_folders(tmp_path / "gt", tmp_path / "pred")
    assert results[OVERALL]["num_gt"] == evaluate(*both(scenes), classes=TWO)[OVERALL]["num_gt"]
    printed = json.loads(json.dumps(as_json(results)))
    assert list(printed) == ["a", "b", "c", OVERALL, "CLASSES"]
    assert list(printed["CLASSES"]) == ["pedestrian", "statue"]
    assert list(printed["CLASSES"]["statue"]) == list(printed[OVERALL])
    file = tmp_path / "pred" / "a.txt"
    assert read_tracks(file).class_id.tolist() == [-1] * len(scenes["a"][1])  # one class: nothing of it is read
    file.write_text("1,1,2,3,4,5,1,3,-1,-1\n")
    with pytest.raises(UserError, match=r"a.txt:1: class \(column 8\) 3; one of 1 pedestrian, 8 statue expected"):
        evaluate_folders(tmp_path / "gt", tmp_path / "pred")
    ini = tmp_path / "gt" / "b" / "seqinfo.ini"
    ini.write_text(ini.read_text().replace("8 statue", "3 car"))
    file.unlink()
    with pytest.raises(UserError, match=r"seqinfo.ini has other classes than a"):
        evaluate_folders(tmp_path / "gt", tmp_path / "pred")


def test_a_box_of_the_wrong_class_is_a_miss_and_a_false_positive(scenes: dict) -> None:
    gt, tracks = scenes["a"]
    found, results = find_mistakes(gt, tracks, classes=TWO), evaluate({"a": gt}, {"a": tracks}, classes=TWO)[OVERALL]
    assert (len(found.missed), len(found.false)) == (results["fn"], results["fp"])
    gt_class, class_id = gt.class_id[found.matched[:, 0]], tracks.class_id[found.matched[:, 1]]
    assert np.array_equal(gt_class, class_id)


def test_tracks_of_several_classes_agree_with_themselves(scenes: dict) -> None:
    tracks = {"a": scenes["a"][1]}
    assert agreement(tracks, tracks)[OVERALL]["idf1"] == 1
    other = {"a": replace(tracks["a"], class_id=9 - tracks["a"].class_id)}
    assert agreement(tracks, other)[OVERALL]["idf1"] == 0


def test_it_is_what_trackeval_gives(scenes: dict) -> None:
    """Its own way to average over classes, on its own metrics of each."""
    trackeval = pytest.importorskip("trackeval")
    metrics = [trackeval.metrics.HOTA(), trackeval.metrics.CLEAR({"PRINT_CONFIG": False})]
    metrics.append(trackeval.metrics.Identity({"PRINT_CONFIG": False}))
    found = evaluate(*both(scenes), "hat", classes=TWO)[OVERALL]
    of_class: dict[str, list[dict]] = {}
    for number, name in TWO:
        parts = [prepared(gt.select(gt.class_id == number), tracks.select(tracks.class_id == number))
                 for gt, tracks in scenes.values()]  # fmt: skip
        of_class[name] = [m.combine_sequences({i: m.eval_sequence(p) for i, p in enumerate(parts)}) for m in metrics]
    hota, clear, identity = (
        m.combine_classes_class_averaged({name: own[i] for name, own in of_class.items()})
        for i, m in enumerate(metrics)
    )
    expected = {
        "hota": np.mean(hota["HOTA"]), "deta": np.mean(hota["DetA"]), "assa": np.mean(hota["AssA"]),
        "mota": clear["MOTA"], "motp": clear["MOTP"], "idsw": clear["IDSW"], "fp": clear["CLR_FP"],
        "fn": clear["CLR_FN"], "mt": clear["MT"], "frag": clear["Frag"],
        "idf1": identity["IDF1"], "idp": identity["IDP"], "idr": identity["IDR"],
    }  # fmt: skip
    assert {key: found[key] for key in expected} == pytest.approx({k: float(v) for k, v in expected.items()})


def prepared(gt: Annotations, tracks: Tracks) -> dict:
    """A sequence as TrackEval's metrics take it."""
    from motrlab.boxes import box_ltwh_to_xyxy, pairwise_iou

    ids = [np.unique(x.track_id, return_inverse=True)[1] for x in (gt, tracks)]
    data: dict = {"gt_ids": [], "tracker_ids": [], "similarity_scores": []}
    for frame in range(1, FRAMES + 1):
        rows = [x.frame == frame for x in (gt, tracks)]
        data["gt_ids"].append(ids[0][rows[0]])
        data["tracker_ids"].append(ids[1][rows[1]])
        corners = [box_ltwh_to_xyxy(x.ltwh[row]) for x, row in zip((gt, tracks), rows, strict=True)]
        data["similarity_scores"].append(pairwise_iou(*corners))
    counts = {"num_timesteps": FRAMES, "num_gt_dets": len(gt), "num_tracker_dets": len(tracks)}
    return data | counts | {"num_gt_ids": len(set(ids[0])), "num_tracker_ids": len(set(ids[1]))}
