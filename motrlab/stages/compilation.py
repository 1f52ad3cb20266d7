"""What compiling and handing over need of a run: its artefact, and frames to compare on and to calibrate with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motrlab.deploy.compile import compile_artifact, compiler_of
from motrlab.deploy.handover import toolchain_of, writer_of
from motrlab.deploy.handover.package import NUM_EXPECTED, Package
from motrlab.deploy.runtime import load_artifact
from motrlab.deploy.samples import Sample, closed_loop
from motrlab.deploy.target import load_target
from motrlab.errors import UserError
from motrlab.files import replaced_folder
from motrlab.run import Run
from motrlab.stages.accuracy import read_frames
from motrlab.stages.chain import require
from motrlab.stages.data import open_store

_STRIDE = 3  # frames from one sample of a video to the next


def compile_source(
    target: str,
    *,
    run: str = "default",
    artifact: Path | None = None,
    out: Path | None = None,
    native: bool = False,
    options: Mapping[str, str] | None = None,
) -> tuple[dict[str, Any], Path]:
    """Of a run, compared on frames of its first test half, or of an artefact, compared on noise.

    Returns what stands in `compile.json`, and the folder. Raises UserError as `compile_artifact`; where the run has
    no artefact.
    """
    compiler_of(target)  # before anything is built
    images: Iterator[NDArray[np.uint8]] = iter(())
    if artifact is None:
        opened = Run.open(run, create=False)
        require(opened, "fixed_point")
        store, artifact = open_store(opened), opened.artifact
        images = read_frames(store, store.sequences[0].name)
    folder = out or artifact.parent / "compiled" / (f"{target}-native" if native else target)
    return compile_artifact(artifact, target, folder, images=images, native=native, options=options), folder


def hand_over(
    run: Run, target: str = "", toolchain: str = "", *, out: Path | None = None, num_samples: int = 32
) -> Path:
    """The folder that `toolchain`, or the one of `target`, needs of a run's artefact. Returns it.

    Samples are frames with tracks of the closed loop over the train halves, spread over the videos; three frames to
    compare with are of the first test half. Raises UserError: unknown target or toolchain, no artefact, nobody is
    tracked, `out` is not ours to replace.
    """
    if num_samples < 1:
        raise UserError(f"--samples {num_samples}: at least one frame is needed")
    known = load_target(target) if target else None
    toolchain = toolchain_of(known) if known else toolchain
    write, chip = writer_of(toolchain), known.toolchain.partition(" ")[2] if known else ""
    require(run, "fixed_point")
    folder = out or run.path / "handover" / toolchain
    samples, expected = _calibration_samples(run, num_samples), _samples_with_tracks(run, "test", 0, NUM_EXPECTED)
    with replaced_folder(folder, marked=True) as temporary:
        write(Package(temporary, run.artifact, samples, expected, f"run {run.name}", chip))
    return folder


def _calibration_samples(run: Run, number: int) -> list[Sample]:
    """As many of each train half; fewer where videos are short."""
    videos = len(open_store(run, "train").sequences)
    each = -(-number // videos)
    found = [sample for index in range(videos) for sample in _samples_with_tracks(run, "train", index, each)]
    if not found:
        raise UserError(f"run {run.name!r}: its tracker tracks nobody in the train halves: nothing to calibrate with")
    return found[:number]


def _samples_with_tracks(run: Run, part: str, index: int, number: int) -> list[Sample]:
    """Evenly spread over the first frames that have tracks, of a video of `part`."""
    store = open_store(run, part)
    frames = read_frames(store, store.sequences[index].name)
    tracked = (s for s in closed_loop(load_artifact(run.artifact), frames) if s.num_tracks)
    return list(islice(tracked, 0, number * _STRIDE, _STRIDE))
