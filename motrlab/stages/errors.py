"""Where a stage's misses and switches come from: tables, and pictures of the worst."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from motrlab.data.store import FrameStore
from motrlab.evaluation.errors import Event, Outcome, error_rows, outcome, worst_events
from motrlab.evaluation.tracks import Tracks
from motrlab.quantization.analysis.layers import write_csv
from motrlab.run import Run, exclusive
from motrlab.stages.accuracy import stage_tracks
from motrlab.stages.data import open_store
from motrlab.viz.errors import error_crop
from motrlab.viz.overlay import contact_sheet, tracks_of_frame, write_image

_COLUMNS = {"miss": 3, "switch": 2}


@exclusive
def find_errors(run: Run, stage: str = "fixed_point", *, num_pictures: int = 6) -> dict[str, Any]:
    """Explain the misses and switches of a stage's tracks on the test halves; record kind `errors`.

    Leaves `assets/errors_STAGE.csv` (boxes, misses and switches by level of each factor), `errors_STAGE_worst.csv`,
    and a picture of the worst `num_pictures` misses and of the worst switches. Tracks that are missing, or not those of
    the stage as it is now, are made first.
    """
    tracks, started = stage_tracks(run, stage), time.time()
    store = open_store(run)
    found = {i.name: outcome(store.annotations(i.name), tracks[i.name], i) for i in store.sequences}
    rows, events = error_rows(list(found.values())), worst_events(found, num_pictures)
    stem, assets = run.assets / f"errors_{stage}", []
    for name, table in (("", rows), ("_worst", events)):
        if table:
            assets.append(stem.with_name(f"{stem.name}{name}.csv"))
            write_csv(assets[-1], table)
    assets += _write_pictures(store, tracks, found, events, stem)
    one = [row for row in rows if row.factor == "Visibility"]
    sums = {f"num_{name}": sum(getattr(row, name) for row in one) for name in ("boxes", "missed", "switches")}
    return run.add_record(stage, "errors", sums, started=started, assets=assets, tracks=run.tracks(stage))


def _write_pictures(
    store: FrameStore, tracks: Mapping[str, Tracks], found: Mapping[str, Outcome], events: Sequence[Event], stem: Path
) -> list[Path]:
    """A sheet for each kind of event."""
    assets = []
    for kind, columns in _COLUMNS.items():
        images = [_picture(store, tracks[e.sequence], found[e.sequence], e) for e in events if e.kind == kind]
        if images:
            assets.append(stem.with_name(f"{stem.name}_{kind}.jpg"))
            write_image(assets[-1], contact_sheet(images, columns=columns))
    return assets


def _picture(store: FrameStore, tracks: Tracks, one: Outcome, event: Event) -> np.ndarray:
    """A miss where the person is seen best; a switch before and after."""
    told = f"{event.sequence} frame {event.frame}"
    labels = {event.before: f"{event.sequence} frame {event.before}, before", event.frame: f"{told}, switched"}
    if event.kind == "miss":
        labels = {event.frame: f"{told}, missed {event.length} in a row"}
    crops = []
    for frame, label in labels.items():
        box = one.people.ltwh[(one.people.frame == frame) & (one.people.track_id == event.person)][0]
        crops.append(error_crop(store.image(event.sequence, frame), tracks_of_frame(tracks, frame), box, label))
    return np.concatenate(crops, 1)
