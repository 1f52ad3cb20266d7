"""What a user can get wrong in his data, through the command line: exit status 2, one line, nothing half-written.

And what only looks wrong, and is taken.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest

from motrlab.__main__ import main
from motrlab.data.store import FrameStore

MakeSequence = Callable[..., Path]
ROW = "1,1,5,6,7,8,1,1,0.5\n"
FRAME = "img1/000003.jpg"
KITTI = "0 2 Pedestrian 0 1 1.5 5 6 12 14 1 1 1 2 2 9 0\n"


def one_line(capfd: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr, whoever wrote there, Python or C."""
    out, err = capfd.readouterr()
    assert out == ""
    assert err.startswith("motrlab: ")
    assert err.count("\n") == 1
    return err


def noise(height: int, width: int) -> bytes:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(".jpg", image)[1].tobytes()


def rewrite(file: str, old: str, new: str) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        text = (folder / file).read_text()
        assert old in text
        (folder / file).write_text(text.replace(old, new))

    return damage


def bytes_of(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_bytes(change((folder / file).read_bytes()))


def gt(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "gt/gt.txt").write_text(text)


def det(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "det/det.txt").write_text(text)


# name: damage to a sequence of 8 frames of 96×64, what the line says (a regular expression, after the file's path)
REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated JPEG": (bytes_of(FRAME, lambda d: d[:-100]), rf"{FRAME}: JPEG file is cut short; copy it again"),
    "JPEG with its tail zeroed": (
        bytes_of(FRAME, lambda d: d[:-300] + bytes(300)), rf"{FRAME}: JPEG file is cut short"),
    "JPEG cut, then closed": (
        bytes_of(FRAME, lambda _: noise(64, 96)[:4000] + b"\xff\xd9"), rf"{FRAME}: JPEG file is damaged inside"),
    "JPEG with a hole": (
        bytes_of(FRAME, lambda _: noise(64, 96)[:2000] + bytes(1500) + noise(64, 96)[3500:]),
        rf"{FRAME}: JPEG file is damaged inside"),
    "empty JPEG": (bytes_of(FRAME, lambda _: b""), rf"{FRAME}: not a JPEG or PNG file"),
    "PNG called JPEG": (bytes_of(FRAME, lambda _: b"\x89PNG\r\n"), rf"{FRAME}: PNG file is cut short"),
    "JPEG of another size": (
        bytes_of(FRAME, lambda _: noise(60, 96)), rf"{FRAME}: 96×60 pixels, but seqinfo\.ini says 96×64"),
    "missing frame": (lambda f: (f / FRAME).unlink(), r"img1: frame 3 of 8 is missing; copy it again"),
    "frame that is a folder": (
        lambda f: ((f / FRAME).unlink(), (f / FRAME).mkdir()), r"img1: frame 3 of 8 is missing"),
    "frames that are missing": (
        lambda f: [(f / f"img1/00000{i}.jpg").unlink() for i in (2, 3, 7)],
        r"img1: 3 of 8 frames are missing, the first of them 2; copy it again"),
    "no frames": (lambda f: (f / "img1").rename(f / "img2"), r"img1: missing; give the folder that holds the frames"),
    "gt row with letters": (gt(ROW + "2,1,5,x,7,8,1,1,1\n"), r"gt/gt\.txt:2: could not convert string to float: 'x'"),
    "gt row with NaN": (gt(ROW + "2,1,5,nan,7,8,1,1,1\n"), r"gt/gt\.txt:2: NaN or infinity"),
    "gt row with a huge number": (gt("1,1e30,5,6,7,8,1,1,1\n"), r"gt/gt\.txt:1: a number beyond"),
    "negative width": (gt("1,1,5,6,-7,8,1,1,1\n"), r"gt/gt\.txt:1: width -7 and height 8 must be positive"),
    "duplicate id in a frame": (gt(ROW + ROW), r"gt/gt\.txt:2: id 1 twice in frame 1 \(first in line 1\)"),
    "frame 0": (gt("0,1,5,6,7,8,1,1,1\n"), r"gt/gt\.txt:1: frame 0; frames count from 1"),
    "frame past the end": (gt(ROW + "9,1,5,6,7,8,1,1,1\n"), r"gt/gt\.txt:2: frame 9 is past the end \(8 frames"),
    "too few columns": (gt("1,1,5,6,7,8\n"), r"gt/gt\.txt:1: 6 columns, at least 9 needed"),
    "columns change": (gt(ROW + "2,1,5,6,7,8,1,1,0.5,0\n"), r"gt/gt\.txt:2: 10 columns, 9 expected"),
    "gt that is no text": (lambda f: (f / "gt/gt.txt").write_bytes(b"\xff\xfe1"), r"gt/gt\.txt: not UTF-8 text"),
    "det row with letters": (det("1,-1,a,6,7,8,1\n"), r"det/det\.txt:1: could not convert"),
    "det past the end": (det("9,-1,5,6,7,8,1\n"), r"det/det\.txt:1: frame 9 is past the end"),
    "det with too few columns": (det("1,-1,5,6,7,8\n"), r"det/det\.txt:1: 6 columns, at least 7 needed"),
    "missing seqinfo": (lambda f: (f / "seqinfo.ini").unlink(), r"seqinfo\.ini: missing"),
    "seqinfo without length": (rewrite("seqinfo.ini", "seqLength", "length"), r"seqinfo\.ini: no seqLength"),
    "seqinfo with letters": (rewrite("seqinfo.ini", "=96", "=wide"), r"seqinfo\.ini: imWidth must be"),
    "seqinfo of no frames": (rewrite("seqinfo.ini", "seqLength=8", "seqLength=0"), r"seqinfo\.ini: seqLength must be"),
    "seqinfo too long": (rewrite("seqinfo.ini", "seqLength=8", "seqLength=9"), r"img1: frame 9 of 9 is missing"),
    "another extension": (
        rewrite("seqinfo.ini", ".jpg", ".png"), r"img1: no pictures .*000001\.jpg, but seqinfo\.ini says imExt=\.png"),
    "gt that is a link to nowhere": (
        lambda f: ((f / "gt/gt.txt").unlink(), (f / "gt/gt.txt").symlink_to("gone.txt")),
        r"gt/gt\.txt: a link to gone\.txt, which is not there"),
    "gt folder that is a link to nowhere": (
        lambda f: ((f / "gt").rename(f / "old"), (f / "gt").symlink_to("gone")),
        r"gt/gt\.txt: .*/source/B/gt is a link to gone, which is not there"),
    "seqinfo that is a link to nowhere": (
        lambda f: ((f / "seqinfo.ini").unlink(), (f / "seqinfo.ini").symlink_to("gone.ini")),
        r"seqinfo\.ini: a link to gone\.ini, which is not there"),
    "sequence that is a link to nowhere": (
        lambda f: (f.rename(f.parents[1] / "old"), f.symlink_to("gone")),
        r"seqinfo\.ini: .*/source/B is a link to gone, which is not there"),
    "a confidence for a flag": (gt("1,1,5,6,7,8,0.87,1,1\n"), r"gt/gt\.txt:1: the flag .* not 0\.87; a confidence\?"),
    "rows of VisDrone": (
        gt("1,1,5,6,7,8,1,4,0,0\n2,1,5,6,7,8,1,1,0,2\n"),
        r"gt/gt\.txt: rows of VisDrone .*`python -m motrlab import --format visdrone` converts them"),
    "rows of VisDrone or MOT15": (
        gt("1,1,5,6,7,8,1,4,0,0\n"), r"gt/gt\.txt: fits MOT15 .*VisDrone .* `--format mot15` or `--format visdrone`"),
    "rows of KITTI": (gt(KITTI), r"gt/gt\.txt: rows of KITTI .*--format kitti` converts"),
    "rows of UAVDT": (gt("1,1,5,6,7,8,1,2,3\n"), r"gt/gt\.txt: rows of UAVDT .*not converted: save them as MOTCh"),
    "rows of DarkLabel": (gt("0,2,7,5,6,9,9,car,8,5,6,9,9,car\n"), r"gt/gt\.txt: rows of DarkLabel .*not converted"),
    "SoccerNet": (
        lambda f: (gt("1,1,5,6,7,8,1,-1,-1,-1\n")(f), (f / "gameinfo.ini").touch()),
        r"gt/gt\.txt: SoccerNet, classes in gameinfo\.ini; `python -m motrlab import --format soccernet`"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_sequence_is_refused(
    case: str, make_sequence: MakeSequence, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_sequence("A")
    damage, message = REFUSED[case]
    damage(make_sequence("B"))
    assert main(["prepare", "--src", str(tmp_path / "source"), "--dst", str(tmp_path / "data")]) == 2
    assert re.match(rf"motrlab: {re.escape(str(tmp_path))}/source/B/{message}", one_line(capfd))
    assert not (tmp_path / "data").exists()


ACCEPTED: dict[str, tuple[str | bytes, int]] = {
    "empty gt": ("", 0),
    "gt of blank lines": ("\n\n", 0),
    "blanks": (ROW.replace(",", " "), 1),
    "tabs": (ROW.replace(",", "\t"), 1),
    "semicolons": (ROW.replace(",", ";"), 1),
    "commas at the end": (ROW.replace("\n", ",,\n"), 1),
    "unknown visibility": ("1,1,5,6,7,8,1,1,-1\n", 1),
    "frames without people": (ROW + "8,1,5,6,7,8,1,1,0.5\n", 2),
    "boxes outside the image": ("1,1,-50,-60,70,80,1,1,1\n1,2,90,60,700,800,1,1,1\n1,3,500,600,7,8,1,1,1\n", 3),
    "CRLF": ((ROW + "2,1,5,6,7,8,1,1,1\n").replace("\n", "\r\n"), 2),
    "byte-order mark": (b"\xef\xbb\xbf" + ROW.encode(), 1),
    "unsorted rows": ("8,2,5,6,7,8,1,1,1\n" + ROW + "8,1,5,6,7,8,1,1,1\n3,7,5,6,7,8,1,1,1\n", 4),
    "no newline at the end": (ROW.strip(), 1),
    "only ignored rows": ("1,1,5,6,7,8,0,1,0.5\n2,2,5,6,7,8,1,12,0.5\n", 0),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_only_looks_wrong_is_taken(
    case: str, make_sequence: MakeSequence, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text, boxes = ACCEPTED[case]
    make_sequence("B")
    folder = make_sequence("A", gt="", det=None)
    (folder / "gt/gt.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["prepare", "--src", str(tmp_path / "source"), "--dst", str(tmp_path / "data")]) == 0
    out, err = capfd.readouterr()
    assert err == ""  # no bar: not a terminal
    assert out.startswith("sequence")
    stores = [FrameStore(tmp_path / "data" / f"{half}_lmdb") for half in ("train", "test")]
    assert [store.info("A").num_frames for store in stores] == [4, 4]
    assert sum(len(store.annotations("A").people) for store in stores) == boxes


NOBODY: dict[str, tuple[str, str]] = {
    "class 0": (
        "1,1,5,6,7,8,1,0,1\n2,1,5,6,7,8,1,0,1\n",
        r"classes 0 \(2×\), flags 1 \(2×\); .*import --map NAME=pedestrian",
    ),
    "class 19 and cars": (
        "1,1,5,6,7,8,1,19,1\n2,1,5,6,7,8,1,3,1\n2,2,5,6,7,8,1,19,1\n",
        r"classes 19 \(2×\), 3 \(1×\), .*import --map NAME=pedestrian",
    ),
    "flag 0": ("1,1,5,6,7,8,0,-1,-1,-1\n", r"classes 1 \(1×\), flags 0 \(1×\); flag 0 is ignore: write 1"),
    "empty": ("", "their gt is empty"),
}


@pytest.mark.parametrize("case", NOBODY)
def test_videos_without_a_person_are_refused(
    case: str, make_sequence: MakeSequence, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text, message = NOBODY[case]
    make_sequence("A", gt="", det=None)
    make_sequence("B", gt=text)
    assert main(["prepare", "--src", str(tmp_path / "source"), "--dst", str(tmp_path / "data")]) == 2
    line = one_line(capfd)
    assert re.search(rf"source: no person in any sequence \(class 1, flag not 0\): {message}", line)
    assert not (tmp_path / "data").exists()


NOTED: dict[str, tuple[str, str]] = {
    "nobody among others": ("1,1,5,6,7,8,1,0,1\n", "no box is a person: classes 0 (1×), flags 1 (1×)"),
    "flags of -1": ("1,1,5,6,7,8,-1,1,1\n", "flags -1 (1×): all but 0 count"),
    "MOT15": ("1,1,5,6,7,8,1,-1,-1,-1\n", "read as MOT15 without classes: every box is a person"),
    "nine columns, class -1": ("1,1,5,6,7,8,1,-1,-1\n", "read as MOT17 without classes: every box is a person"),
}


@pytest.mark.parametrize("case", NOTED)
def test_what_a_user_may_not_expect_is_said(
    case: str, make_sequence: MakeSequence, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, note = NOTED[case]
    make_sequence("A", gt=text)
    make_sequence("B")
    assert main(["prepare", "--src", str(tmp_path / "source"), "--dst", str(tmp_path / "data")]) == 0
    assert f"{tmp_path}/source/A/gt/gt.txt: {note}\n" in capsys.readouterr().out


def test_frames_are_packed_as_they_are(make_sequence: MakeSequence, tmp_path: Path) -> None:
    """PNG, numbers of eight digits and from 0, an extension without its dot, and what macOS leaves behind."""
    folder = make_sequence("A")
    rewrite("seqinfo.ini", "imExt=.jpg", "imExt=png")(folder)
    frames = []
    for frame in range(1, 9):
        old, new = folder / f"img1/{frame:06d}.jpg", folder / f"img1/{frame - 1:08d}.png"
        cv2.imwrite(str(new), cv2.imread(str(old)))
        frames.append(new.read_bytes())
        old.rename(new.with_name(f"._{new.name}"))
    assert main(["prepare", "--src", str(tmp_path / "source"), "--dst", str(tmp_path / "data")]) == 0
    train, test = (FrameStore(tmp_path / "data" / f"{half}_lmdb") for half in ("train", "test"))
    assert [store.frame_bytes("A", frame) for store in (train, test) for frame in range(1, 5)] == frames
    np.testing.assert_array_equal(train.image("A", 1), cv2.imread(str(folder / "img1/00000000.png")))
    assert train.image("A", 1, reduce=2).shape == (32, 48, 3)
    assert main(["export", "--src", str(tmp_path / "data"), "--dst", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out/A/img1/000008.png").read_bytes() == frames[-1]


def test_seqinfo_with_crlf_and_byte_order_mark(make_sequence: MakeSequence, tmp_path: Path) -> None:
    file = make_sequence("A") / "seqinfo.ini"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_text().replace("\n", "\r\n").encode())
    assert main(["prepare", "--src", str(tmp_path / "source"), "--dst", str(tmp_path / "data")]) == 0


def other_schema(path: Path) -> None:
    with lmdb.open(str(path), lock=False) as environment, environment.begin(write=True) as transaction:
        meta = json.loads(bytes(transaction.get(b"meta")))
        transaction.put(b"meta", json.dumps({**meta, "schema": 99}).encode())


STORES: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut short": (lambda p: os.truncate(p / "data.mdb", 20_000), r"LMDB is cut short \(20000 of \d+ bytes\)"),
    "cut to nothing": (lambda p: os.truncate(p / "data.mdb", 0), r"not a readable LMDB"),
    "overwritten": (lambda p: (p / "data.mdb").write_bytes(b"?" * 50_000), r"not a readable LMDB"),
    "another schema version": (other_schema, r"written with schema 99, motrlab reads 3"),
}


@pytest.fixture
def store(make_sequence: MakeSequence, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    make_sequence("A")
    assert main(["prepare", "--src", str(tmp_path / "source"), "--dst", str(tmp_path / "data")]) == 0
    capfd.readouterr()
    return tmp_path / "data" / "train_lmdb"


@pytest.mark.parametrize("case", STORES)
def test_a_bad_lmdb_is_refused_and_packed_again(
    case: str, store: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, message = STORES[case]
    damage(store)
    assert main(["export", "--src", str(tmp_path / "data"), "--dst", str(tmp_path / "out")]) == 2
    assert re.search(f"train_lmdb: {message}.*; prepare the data again", one_line(capfd))
    assert not (tmp_path / "out").exists()
    assert main(["prepare", "--src", str(tmp_path / "source"), "--dst", str(tmp_path / "data")]) == 0
    assert main(["export", "--src", str(tmp_path / "data"), "--dst", str(tmp_path / "out")]) == 0


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A file system in memory, of its own; skips where the user may not mount (not root, or in a sandbox)."""
    folder.mkdir()
    try:
        mount = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("no mount command")
    if mount.returncode:
        pytest.skip(f"may not mount: {mount.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_while_packing(
    make_sequence: MakeSequence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A real one: the kernel says so in the midst of a commit. Afterwards there is room, and it goes through."""
    make_sequence("A")
    arguments = ["prepare", "--src", str(tmp_path / "source"), "--dst", str(tmp_path / "disk" / "data")]
    with mounted(tmp_path / "disk", "size=20k") as disk:
        with monkeypatch.context() as patch:
            patch.setattr("motrlab.data.packing.free_bytes", lambda _: 1 << 40)  # the disk fills up after that check
            assert main(arguments) == 2
        assert re.search(
            r"train_lmdb: cannot be written \(No space left on device\); free some space and run again", one_line(capfd)
        )
        assert not (disk / "data" / "train_lmdb").exists()
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert main(arguments) == 0


def test_a_disk_too_small_is_seen_before_packing(
    make_sequence: MakeSequence, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_sequence("A")
    with mounted(tmp_path / "disk", "size=8k") as disk:
        assert main(["prepare", "--src", str(tmp_path / "source"), "--dst", str(disk / "data")]) == 2
        assert re.search(r"train_lmdb: cannot be written \(0\.0 MB needed, 0\.0 MB free\)", one_line(capfd))
        assert [p.name for p in (disk / "data").iterdir()] == []


def test_a_full_disk_where_none_can_be_mounted(
    make_sequence: MakeSequence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The same by a write that fails as the kernel lets it fail."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    make_sequence("A")
    monkeypatch.setattr("motrlab.data.packing._pack", fail)
    assert main(["prepare", "--src", str(tmp_path / "source"), "--dst", str(tmp_path / "data")]) == 2
    assert "train_lmdb: cannot be written (No space left on device); free some space" in one_line(capfd)
    assert not (tmp_path / "data" / "train_lmdb").exists()


def test_a_read_only_file_system(
    make_sequence: MakeSequence, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Root as well may not write there."""
    make_sequence("A")
    with mounted(tmp_path / "disk", "ro") as disk:
        assert main(["prepare", "--src", str(tmp_path / "source"), "--dst", str(disk / "data")]) == 2
        assert "disk/data: cannot be written" in (line := one_line(capfd))
        assert "disk is read-only" in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into any folder")
def test_a_read_only_folder(make_sequence: MakeSequence, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make_sequence("A")
    (tmp_path / "data").mkdir(mode=0o555)
    assert main(["prepare", "--src", str(tmp_path / "source"), "--dst", str(tmp_path / "data")]) == 2
    assert "data is read-only" in one_line(capfd)


def test_a_file_in_place_of_the_target(
    make_sequence: MakeSequence, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_sequence("A")
    (tmp_path / "data").touch()
    for target in ("data", "data/deeper"):
        assert main(["prepare", "--src", str(tmp_path / "source"), "--dst", str(tmp_path / target)]) == 2
        assert f"{target}: cannot be written ({tmp_path}/data is a file)" in one_line(capfd)


@pytest.mark.parametrize(
    ("source", "message"),
    [("gone", "gone: no such folder"), (".", "no sequences"), ("source/A", "did you mean")],
    ids=["missing", "empty", "the sequence itself"],
)
def test_a_source_that_is_none(
    source: str, message: str, make_sequence: MakeSequence, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_sequence("A")
    assert main(["prepare", "--src", str(tmp_path / source), "--dst", str(tmp_path / "data")]) == 2
    assert message in one_line(capfd)
