"""Verb `import`: a data set's folder, or a file of a labelling tool, to MOTChallenge folders that `prepare` takes.

`formats.py` has the data sets, `coco.py` and `cvat.py` the tools.
"""

from __future__ import annotations

import re
from pathlib import Path

from motrlab.classes import PEOPLE, Classes
from motrlab.data.coco import import_coco
from motrlab.data.cvat import import_cvat
from motrlab.data.formats import FORMATS, PLACES, Format, how_to_import, read_labels, recognise
from motrlab.data.frames import list_frames
from motrlab.data.importing import ClassMap, LabelledVideo, safe_name, write_videos
from motrlab.data.motchallenge import SequenceInfo, check_labels, find_sequences, read_detections, read_sequence_info
from motrlab.data.rows import Rows, is_promised, read_text
from motrlab.errors import UserError

_TOOLS = {"coco": (import_coco, (".json", ".odgt")), "cvat": (import_cvat, (".zip",))}  # importer, ends of its files
_FOLDERS = {format.name.lower(): format for format in FORMATS if format.converted}
CHOICES = (*_TOOLS, *_FOLDERS)


def import_labels(
    source: Path,
    destination: Path,
    *,
    format: str = "",
    images: Path | None = None,
    class_map: ClassMap | None = None,
    tracked: Classes = PEOPLE,
) -> list[tuple[SequenceInfo, str]]:
    """Write every video of `source` as `destination/NAME`; their infos, and what each was recognised as.

    `format` is one of `CHOICES`, "" for what is recognised; `images` is for coco and cvat. All labels are checked
    before the first video is written. Raises UserError.
    """
    if format and format not in CHOICES:
        raise UserError(f"--format {format}: not one of {', '.join(CHOICES)}")
    tool = format or next((name for name, (_, ends) in _TOOLS.items() if source.suffix.lower() in ends), "")
    if tool in _TOOLS:
        return [(info, tool.upper()) for info in _TOOLS[tool][0](source, destination, images, class_map, tracked)]
    if images is not None:
        raise UserError(f"--images {images}: for coco and cvat only; a data set's folder holds its frames")
    found = [_read(folder, labels, _FOLDERS.get(format) or of) for folder, labels, of in _sequences(source)]
    infos = write_videos([video for video, _ in found], destination, class_map, tracked)
    return list(zip(infos, [said for _, said in found], strict=True))


def _sequences(source: Path) -> list[tuple[Path, Path, Format | None]]:
    """Folder of each sequence with labels, their file, and the format where the layout says it. Raises UserError."""
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; give a data set's folder, a COCO .json or .odgt, or CVAT's .zip")
    found: list[tuple[Path, Path, Format | None]] = []
    for base in (source / place for place in PLACES):
        for format in FORMATS:
            labels, frames = format.layout
            name = re.compile(re.escape(labels).replace(r"\*", "([^.].*)"))
            for file in sorted(base.glob(labels)) if labels else ():
                if match := name.fullmatch(file.relative_to(base).as_posix()):
                    found.append((base / frames.replace("*", match[1]), file, format))
    found = found or [(folder, folder / "gt" / "gt.txt", None) for folder in find_sequences(source)]
    found = [(folder, labels, format) for folder, labels, format in found if is_promised(labels)]
    if not found:
        raise UserError(f"{source}: no sequence with gt/gt.txt in it; there is nothing to import")
    return found


def _read(folder: Path, file: Path, format: Format | None) -> tuple[LabelledVideo, str]:
    """A sequence, and what to say of it; `file` holds the labels."""
    rows = Rows.of(read_text(file), file)
    format = format or recognise(rows, folder)
    if not format.converted:
        raise UserError(f"{file}: rows of {format.name} ({format.says}); {how_to_import(format)}")
    info = read_sequence_info(folder) if is_promised(folder / "seqinfo.ini") else None
    images = folder / (info.image_dir if info is not None else "img1")
    frames = list_frames(images if info is not None or images.is_dir() else folder, info, numbered=True)
    if frames.fault:
        raise UserError(frames.fault)
    labels = read_labels(rows, format, folder)
    # Rows of MOTChallenge count from 1, or from 0 if they do, however the files are numbered; those of others as they,
    # or from 0 where the files were given numbers from 1.
    first = min(1 if format.is_mot else frames.first, *labels.table[:, 0]) if len(labels.table) else frames.first
    labels.table[:, 0] += 1 - first
    labels.table[:, 6] = labels.table[:, 6] != 0  # whatever is not 0 counts, a confidence too
    det = folder / "det" / "det.txt"
    video = LabelledVideo(
        name=safe_name(folder.name),
        frame_rate=info.frame_rate if info is not None else format.frame_rate,
        images=list(frames.files.values()),
        annotations=check_labels(labels, frames.num_frames, "frames there"),
        names=labels.names,
        detections=read_detections(det, info, int(first)) if is_promised(det) else None,
    )
    files = f", files counted from {frames.first}, rows from 1 (there is none of frame 0)" * (frames.first != 1)
    moved = f", frames counted from {first:.0f}" if first != 1 else files
    return video, f"{format.name} ({format.says}){moved}"
