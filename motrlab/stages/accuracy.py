"""Evaluation of every stage: the same frames, the same frame step, the same metrics.

torch is imported only for the stages that need it: `fixed_point` runs without.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from motrlab.config import ModelConfig, TrackerConfig
from motrlab.data.preprocess import preprocess
from motrlab.data.store import FrameStore
from motrlab.errors import UserError
from motrlab.evaluation.metrics import Results
from motrlab.evaluation.protocols import PROTOCOLS, check_protocol
from motrlab.evaluation.tracks import Tracks, read_tracks
from motrlab.lineage import tracks_hash
from motrlab.machine import num_cpus
from motrlab.names import EVALUATED
from motrlab.run import Run, exclusive
from motrlab.stages.data import flat_scores, has_unseen, open_store, read_ground_truth, score_tracks, write_track_files
from motrlab.tracking.sequence import track_streams
from motrlab.tracking.step import Graphs

_STREAM_PIXELS = 1_000_000  # videos run in parallel while a batch stays below so many pixels


@dataclass(frozen=True)
class Engine:
    """A stage ready to track: its graphs, its pre-processing, and how many videos it takes in parallel."""

    graphs: Graphs
    preprocess: Callable[[Any], Any]
    num_streams: int


@exclusive
def evaluate_stage(run: Run, stage: str, protocol: str = PROTOCOLS[0]) -> Results:
    """Track the test halves, write `tracks/STAGE/`, add an `accuracy` record; the metrics under `protocol`."""
    check_protocol(protocol)
    return _evaluate(run, stage, "accuracy")[protocol]


def evaluate_raw(run: Run, stage: str) -> Results:
    """The same without duplicate suppression; record kind `accuracy_raw`."""
    tracker = replace(run.config.tracker, suppress_iou=None)
    return _evaluate(run, stage, "accuracy_raw", tracker=tracker)[PROTOCOLS[0]]


def evaluate_unseen(run: Run, stage: str) -> Results | None:
    """The videos never trained on; record kind `accuracy_unseen`. None where the data has no such videos."""
    return _evaluate(run, stage, "accuracy_unseen", "unseen")[PROTOCOLS[0]] if has_unseen(run) else None


def _evaluate(
    run: Run, stage: str, kind: str, part: str = "test", tracker: TrackerConfig | None = None
) -> dict[str, Results]:
    """Track a part, score it under every protocol, and record that."""
    started = time.time()
    tracks = track_part(run, open_engine(run, stage), part, tracker)
    folder = run.tracks(stage) if kind == "accuracy" else None
    if folder is not None:
        write_track_files(folder, tracks)
    results = score_tracks(read_ground_truth(run, part), tracks, open_store(run, part).classes)
    run.add_record(stage, kind, flat_scores(results), started=started, tracks=folder)
    return results


def require_tracks(run: Run, stage: str) -> None:
    """Make sure that `tracks/STAGE/` holds the tracks of the stage as it is now: they are made where it does not."""
    record = run.last_record(stage, "accuracy")
    if record is None or record["made_from"]["tracks"] != tracks_hash(run.tracks(stage)):
        evaluate_stage(run, stage)


def stage_tracks(run: Run, stage: str) -> dict[str, Tracks]:
    """What `tracks/STAGE/` holds, made where it is not of the stage as it is now."""
    require_tracks(run, stage)
    store = open_store(run)
    return {info.name: read_tracks(run.tracks(stage) / f"{info.name}.txt", store.classes) for info in store.sequences}


def open_engine(run: Run, stage: str) -> Engine:
    """The graphs of a stage. Raises UserError if the stage has not been run."""
    if stage == "fixed_point":
        from motrlab.deploy.runtime import load_artifact

        runtime = load_artifact(run.artifact, num_threads=num_cpus())
        return Engine(runtime.graphs, runtime.preprocess, 1)
    if stage not in EVALUATED:
        raise UserError(f"unknown stage {stage!r}: evaluate one of {', '.join(EVALUATED)}")
    from motrlab.stages.models import load_graphs

    return torch_engine(load_graphs(run, stage), run.config.model)


def torch_engine(graphs: Graphs, model: ModelConfig, device: Any = "cpu") -> Engine:
    """Graphs of torch modules on `device`, in eval mode."""
    import torch

    def to_tensor(image: Any) -> torch.Tensor:
        return torch.from_numpy(preprocess(image, model.height, model.width))[None].to(device)

    return Engine(graphs, to_tensor, max(1, _STREAM_PIXELS // (model.height * model.width)))


def track_part(
    run: Run, engine: Engine, part: str, tracker: TrackerConfig | None = None, *, num_frames: int | None = None
) -> dict[str, Tracks]:
    """Tracks of every sequence of `test` or `unseen`, or of its first `num_frames` frames."""
    store = open_store(run, part)
    store.classes.check(run.config.model.num_classes, str(store.path))
    tracks: dict[str, Tracks] = {}
    with _inference():
        for group in _groups(store, engine.num_streams):
            tracks.update(_track_group(run, engine, store, group, tracker or run.config.tracker, num_frames))
    return {info.name: tracks[info.name] for info in store.sequences}


def _groups(store: FrameStore, most: int) -> list[list[str]]:
    """Names of at most so many videos of about one length: the batch runs on until the longest has ended."""
    groups: list[list[str]] = []
    shortest = 0
    for info in sorted(store.sequences, key=lambda info: info.num_frames):
        if not groups or len(groups[-1]) == most or info.num_frames > 1.5 * shortest:
            groups.append([])
            shortest = info.num_frames
        groups[-1].append(info.name)
    return groups


def _track_group(
    run: Run, engine: Engine, store: FrameStore, names: list[str], tracker: TrackerConfig, num_frames: int | None
) -> dict[str, Tracks]:
    """Several videos in lock-step."""
    videos = [read_frames(store, name, last=num_frames) for name in names]
    streams = zip(*track_streams(engine.graphs, videos, engine.preprocess, run.config.model, tracker), strict=True)
    return {name: Tracks.of_frames(video, store.classes) for name, video in zip(names, streams, strict=True)}


def read_frames(store: FrameStore, name: str, first: int = 1, last: int | None = None) -> Iterator[Any]:
    """BGR images of frames `first` to `last` (default, and at most: the end) of a sequence."""
    end = store.info(name).num_frames
    for frame in range(first, min(last or end, end) + 1):
        yield store.image(name, frame)


def network_inputs(run: Run, store: FrameStore, name: str, first: int = 1, last: int | None = None) -> Iterator[Any]:
    """`read_frames` as the network takes them: tensors `[1, 3, H, W]`."""
    import torch

    for image in read_frames(store, name, first, last):
        yield torch.from_numpy(preprocess(image, run.config.model.height, run.config.model.width))[None]


def _inference() -> contextlib.AbstractContextManager[Any]:
    """No gradients, where torch is in play at all."""
    torch = sys.modules.get("torch")
    return torch.no_grad() if torch is not None else contextlib.nullcontext()
