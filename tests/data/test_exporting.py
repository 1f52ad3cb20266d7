from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from motrlab.__main__ import main
from motrlab.data.exporting import export_sequences
from motrlab.data.motchallenge import SequenceInfo, read_annotations, read_sequence_info
from motrlab.data.packing import SequenceSource, write_store
from motrlab.data.prepare import prepare
from motrlab.data.store import FrameStore

MakeSequence = Callable[..., Path]
MOT15 = "1,1,-5,1.5,9,9,1,-1,-1,-1\n7,1,5,1,9,9,0,-1,-1,-1\n7,2,5,1,9,9,1,-1,-1,-1\n"


def without_det(folder: Path) -> dict[str, bytes]:
    files = {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}
    return {name: data for name, data in files.items() if "det.txt" not in name}


@pytest.fixture
def data(make_sequence: MakeSequence, tmp_path: Path) -> Path:
    make_sequence("A", seed=1)
    make_sequence("B", seed=2, num_frames=9, gt=MOT15)
    make_sequence("E", seed=4, num_frames=2, gt="", det=None)
    make_sequence("U", seed=3, num_frames=5, gt="2,1,1,1,5,5,1,1,0.5\n", det=None)
    prepare(tmp_path / "source", tmp_path / "data", unseen=lambda name: name == "U")
    return tmp_path / "data"


def test_what_was_prepared_comes_back_byte_for_byte(data: Path, tmp_path: Path) -> None:
    infos = export_sequences(data, tmp_path / "out")
    assert {i.name: i.num_frames for i in infos} == {"A": 8, "B": 9, "E": 2, "U": 5}
    assert without_det(tmp_path / "out") == without_det(tmp_path / "source")
    again = prepare(tmp_path / "out", tmp_path / "again", unseen=lambda name: name == "U")
    assert again.data_hash == prepare(tmp_path / "source", data, unseen=lambda name: name == "U").data_hash


def test_one_lmdb_gives_its_halves(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--src", str(data / "test_lmdb"), "--dst", str(tmp_path / "out")]) == 0
    assert f"{tmp_path}/out/B: 5 frames of 96×64" in capsys.readouterr().out.splitlines()
    assert (tmp_path / "out/B/gt/gt.txt").read_text() == "3,1,5,1,9,9,0,-1,-1,-1\n3,2,5,1,9,9,1,-1,-1,-1\n"
    assert (tmp_path / "out/B/img1/000001.jpg").read_bytes() == (tmp_path / "source/B/img1/000005.jpg").read_bytes()


def test_a_run_is_exported_by_its_folder(data: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    data.parent.joinpath("runs", "a").mkdir()
    data.rename(tmp_path / "runs/a/data")
    assert len(export_sequences(tmp_path / "runs/a", tmp_path / "out")) == 4


def test_nothing_is_overwritten(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out" / "E").mkdir(parents=True)
    assert main(["export", "--src", str(data), "--dst", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "out/E: already there" in err
    assert err.count("\n") == 1
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["E"]


@pytest.mark.parametrize("source", ["gone", "."])
def test_a_source_without_packed_data(source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--src", str(tmp_path / source), "--dst", str(tmp_path / "out")]) == 2
    assert "no packed data" in capsys.readouterr().err


def test_a_target_that_cannot_be_written(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["export", "--src", str(data), "--dst", str(tmp_path / "file")]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [{"name": "../evil"}, {"name": ".."}, {"image_dir": "../../evil"}, {"image_dir": "gt"}, {"image_ext": "/../evil"}],
    ids=str,
)
def test_names_that_lead_outside_are_refused(
    change: dict[str, str], make_sequence: MakeSequence, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_sequence("A")
    info = read_sequence_info(folder)
    files = tuple(info.frame_path(folder, frame) for frame in range(1, 9))
    gt = read_annotations(folder / "gt/gt.txt", info)
    evil: SequenceInfo = dataclasses.replace(info, **change)  # type: ignore[arg-type]
    write_store(tmp_path / "lmdb", [SequenceSource(info=evil, files=files, annotations=gt)])
    assert main(["export", "--src", str(tmp_path / "lmdb"), "--dst", str(tmp_path / "deep/out")]) == 2
    assert "not written by motrlab, refused" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("name", ["MOT17-09-DPM", "TUD-Campus", "MOT17-13-FRCNN"])
def test_real_sequences_come_back(name: str, mot_root: Path, tmp_path: Path) -> None:
    prepare(mot_root, tmp_path / "data", [name])
    (info,) = export_sequences(tmp_path / "data", tmp_path / "out")
    old, new = mot_root / name, tmp_path / "out" / name
    for frame in range(1, info.num_frames + 1):
        assert info.frame_path(new, frame).read_bytes() == info.frame_path(old, frame).read_bytes()
    before, after = (read_annotations(f / "gt/gt.txt", info) for f in (old, new))
    for field in ("frame", "track_id", "ltwh", "flag", "class_id", "visibility"):
        assert getattr(after, field).tolist() == getattr(before, field).tolist()
    assert after.has_class == before.has_class
    store = FrameStore(tmp_path / "data" / "train_lmdb")
    assert store.info(name).num_frames == info.num_frames // 2
