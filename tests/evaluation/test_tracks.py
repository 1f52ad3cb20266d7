"""Reading and writing result files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from motrlab.errors import UserError
from motrlab.evaluation.tracks import Tracks, read_tracks, write_tracks


def test_round_trip_is_sorted_and_deterministic(tmp_path: Path) -> None:
    tracks = Tracks.from_rows([(2, 1, 5.25, -6.5, 7, 8, 0.123456), (1, 9, 1, 2, 3, 4, 1), (1, 2, 0.1234, 0, 1, 1, 0.5)])
    write_tracks(tmp_path / "a.txt", tracks)
    write_tracks(tmp_path / "b.txt", read_tracks(tmp_path / "a.txt"))
    text = (tmp_path / "a.txt").read_text()
    assert text == (tmp_path / "b.txt").read_text()
    lines = text.splitlines()
    assert [line.split(",")[:2] for line in lines] == [["1", "2"], ["1", "9"], ["2", "1"]]
    assert all(line.endswith(",-1,-1,-1") and line.count(",") == 9 for line in lines)
    back = read_tracks(tmp_path / "a.txt")
    np.testing.assert_allclose(back.ltwh[2], [5.25, -6.5, 7, 8], atol=5e-4)
    np.testing.assert_allclose(back.score, [0.5, 1, 0.123456], atol=5e-5)
    assert (back.frame.dtype, back.track_id.dtype, back.ltwh.dtype) == (np.int64, np.int64, np.float64)


def test_no_tracks_make_an_empty_file(tmp_path: Path) -> None:
    write_tracks(tmp_path / "a.txt", Tracks.empty())
    assert (tmp_path / "a.txt").read_bytes() == b""
    assert len(read_tracks(tmp_path / "a.txt")) == 0
    assert read_tracks(tmp_path / "a.txt").ltwh.shape == (0, 4)


@pytest.mark.parametrize(
    "content",
    [
        b"1,2,3,4,5,6,0.5,-1,-1,-1\n2,2,3,4,5,6,0.5,-1,-1,-1\n",
        b"1,2,3,4,5,6,0.5\r\n2,2,3,4,5,6,0.5\r\n",
        b"\xef\xbb\xbf1,2,3,4,5,6,0.5\n\n2,2,3,4,5,6,0.5",
        b"1.0, 2, 3, 4, 5, 6, 5e-1\n2,2.0,3.0,4,5,6,.5\n",
        b"1 2 3 4 5 6 0.5\n2\t2\t3\t4\t5\t6\t0.5\n",
        b"1;2;3;4;5;6;0.5;\n2;2;3;4;5;6;0.5;\n",
    ],
    ids=["plain", "CRLF", "byte-order mark", "spaces and floats", "white space", "semicolons, also at the end"],
)
def test_spellings(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    tracks = read_tracks(tmp_path / "a.txt")
    assert tracks.frame.tolist() == [1, 2]
    assert tracks.track_id.tolist() == [2, 2]
    assert tracks.ltwh.tolist() == [[3, 4, 5, 6]] * 2
    assert tracks.score.tolist() == [0.5, 0.5]


def test_six_columns_have_score_1(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1,2,3,4,5,6\n")
    assert read_tracks(tmp_path / "a.txt").score.tolist() == [1]


MISTAKES = {
    "letters": ("1,2,3,4,5,6,1\n1,x,3,4,5,6,1\n", r":2: .*'x'"),
    "nan": ("1,2,nan,4,5,6,1\n", r":1: NaN"),
    "infinity": ("1,2,3,4,inf,6,1\n", r":1: NaN or infinity"),
    "twice": ("1,2,3,4,5,6,1\n\n1,2,9,9,5,6,1\n", r":3: id 2 twice in frame 1 \(first in line 1\)"),
    "an id beyond what is exact": ("1,9223372036854775808,3,4,5,6,1\n", r":1: a number beyond 9"),
    "frame 0": ("0,2,3,4,5,6,1\n", r":1: frame 0;"),
    "half a frame": ("1.5,2,3,4,5,6,1\n", r":1: .*whole numbers, not 1\.5"),
    "half an id": ("1,2.5,3,4,5,6,1\n", r":1: .*whole numbers, not 1 and 2\.5"),
    "detections": ("1,-1,3,4,5,6,1\n", r":1: id -1;.*detection file"),
    "short": ("1,2,3,4,5\n", r":1: 5 columns"),
    "shorter than the first": ("1,2,3,4,5,6,1\n2,2,3,4,5,6\n", r":2: 6 columns"),
    "empty column": ("1,2,,4,5,6,1\n", r":1: .*''"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_name_file_and_line(tmp_path: Path, name: str) -> None:
    content, message = MISTAKES[name]
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(UserError, match=r"a\.txt" + message) as caught:
        read_tracks(tmp_path / "a.txt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_bytes(b"\xff\xfe\x00\x81")])
def test_unreadable_files(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"a\.txt"):
        read_tracks(tmp_path / "a.txt")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.txt"
    write_tracks(file, Tracks.from_rows([(1, 2, 3, 4, 5, 6, 1)]))
    before = file.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(UserError, match="disk full"):
        write_tracks(file, Tracks.empty())
    assert file.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
