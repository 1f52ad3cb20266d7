"""Folders of ground truth and results, as trackers and TrackEval leave them: what is read, and what is ignored."""

from collections.abc import Collection, Mapping
from pathlib import Path

from motrlab.classes import Classes
from motrlab.data.motchallenge import (
    ENDLESS,
    Annotations,
    SequenceInfo,
    read_annotations,
    read_sequence_info,
    shown_folders,
    video_name,
)
from motrlab.data.rows import Rows, is_promised, read_text
from motrlab.errors import UserError
from motrlab.evaluation.tracks import Tracks, read_tracks


def read_folders(gt_dir: Path, pred_dir: Path) -> tuple[dict[str, Annotations], dict[str, Tracks], Classes, list[str]]:
    """Ground truth and tracks by sequence, the tracked classes, and what to say about files that were left out.

    `gt_dir` or its `train/` holds `SEQ/gt/gt.txt`, seqinfo.ini beside `gt/` optional. `pred_dir` or its `data/`, as
    TrackEval has it, holds `SEQ.txt`, one for each sequence; other texts and hidden files are ignored. Of the
    detector copies of one video (`MOT17-02-DPM`, ...) those without results are left out; where no copy has
    any, one is kept, for its boxes are missed. Raises UserError for folders without such files, unreadable
    files, tracks of a sequence without gt, and frames beyond the sequence's end.
    """
    folders = {file.parent.parent.name: file.parent.parent for file in _gt_files(gt_dir)}
    files, others = _result_files(pred_dir, folders)
    counted = _without_copies(folders, files)
    infos = {name: _sequence_info(folders[name]) for name in counted}
    classes = next(iter(infos.values())).tracked
    if other := next((name for name, info in infos.items() if info.tracked != classes), None):
        raise UserError(
            f"{folders[other]}: seqinfo.ini has other classes than {next(iter(infos))}; evaluate them apart"
        )
    gt = {name: read_annotations(folders[name] / "gt" / "gt.txt", info) for name, info in infos.items()}
    pred = {name: _read_pred(file, infos[name]) for name, file in files.items()}
    left_out = [name for name in folders if name not in counted]
    missed = [name for name in counted if not len(pred.get(name, ()))]
    notes = [f"left out, copies of videos that are counted: {', '.join(left_out)}"] if left_out else []
    notes += [f"no results, so all of it counts as missed: {', '.join(missed)}"] if missed else []
    return gt, pred, classes, notes + ([f"ignored, no tracks: {', '.join(map(str, others))}"] if others else [])


def _gt_files(gt_dir: Path) -> list[Path]:
    for root in (gt_dir, gt_dir / "train"):
        if files := [file for f in shown_folders(root) if is_promised(file := f / "gt" / "gt.txt")]:
            return files
    raise UserError(f"{gt_dir}: no SEQ/gt/gt.txt in it; --gt is the folder that holds the sequences")


def _result_files(pred_dir: Path, names: Collection[str]) -> tuple[dict[str, Path], list[Path]]:
    """The result file of each sequence that has one, and the texts that are no results."""
    if not pred_dir.is_dir():
        raise UserError(f"{pred_dir}: no such folder; --pred is the folder that holds SEQ.txt files")
    for folder in (pred_dir, pred_dir / "data"):
        texts = sorted(f for f in folder.glob("[!.]*") if f.suffix.lower() == ".txt")
        files: dict[str, Path] = {}
        for file in (f for f in texts if f.stem in names):
            first = files.setdefault(file.stem, file)
            if first != file:
                raise UserError(f"{first} and {file.name}: two results of one sequence; remove one")
        others = [f for f in texts if f.stem not in names]
        unknown = next(filter(_begins_with_a_row, others), None)
        if unknown is not None:
            known = ", ".join(names)
            raise UserError(f"{unknown}: predictions of {unknown.stem!r}, but no ground truth of it; there is {known}")
        if files:
            return files, others
    raise UserError(f"{pred_dir}: no results; --pred holds one SEQ.txt for each sequence, such as {min(names)}.txt")


def _begins_with_a_row(file: Path) -> bool:
    """Whether the first line is six numbers or more, as those of tracks and detections are."""
    try:
        rows = Rows.of(read_text(file), file)
        return len([float(cell) for cell in rows.cells()[:6]]) == 6 if len(rows) else False
    except ValueError:  # of float, and every UserError
        return False


def _without_copies(names: Collection[str], results: Mapping[str, Path]) -> list[str]:
    """Of each video the copies that have results, else one: of a detector that has results elsewhere, if it can be."""
    videos: dict[str, list[str]] = {}
    for name in names:
        videos.setdefault(video_name(name), []).append(name)
    used = {name.removeprefix(video_name(name)) for name in results}
    counted = []
    for video, copies in videos.items():
        by_use = sorted(copies, key=lambda name: name.removeprefix(video) not in used)
        counted += [name for name in copies if name in results] or by_use[:1]
    return counted


def _sequence_info(folder: Path) -> SequenceInfo:
    """What seqinfo.ini says; without one, a sequence that is never over."""
    if is_promised(folder / "seqinfo.ini"):
        return read_sequence_info(folder)
    return SequenceInfo(name=folder.name, num_frames=ENDLESS, width=1, height=1, frame_rate=1)


def _read_pred(file: Path, info: SequenceInfo) -> Tracks:
    tracks = read_tracks(file, info.tracked)
    last = int(tracks.frame.max(initial=0))
    if last > info.num_frames:
        raise UserError(
            f"{file}: a box in frame {last}, but {info.name} has {info.num_frames} frames; the tracks of a whole video"
            " need the gt of the whole video"
        )
    return tracks
