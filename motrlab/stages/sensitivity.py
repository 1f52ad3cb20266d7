"""Which parts of a run's network int8 hurts, what leaving some in float buys, and which way to calibrate is best."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from motrlab.config import Config
from motrlab.errors import UserError
from motrlab.evaluation.metrics import evaluate
from motrlab.evaluation.protocols import PROTOCOLS
from motrlab.files import write_bytes, write_text
from motrlab.model.motr import MotrGraphs, folded_copy
from motrlab.quantization.analysis.groups import float_rules, groups_of, switched_on
from motrlab.quantization.analysis.layers import write_csv
from motrlab.quantization.analysis.probe import Probe
from motrlab.quantization.analysis.sensitivity import Scores, measure_groups, search_groups
from motrlab.quantization.analysis.sensitivity_tables import (
    AS_CONFIGURED,
    PathPoint,
    pareto_front,
    raised_until,
)
from motrlab.quantization.analysis.sweep import calibration_variants, compare_calibrations
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.run import Run
from motrlab.stages.accuracy import network_inputs, torch_engine, track_part
from motrlab.stages.data import open_store, read_ground_truth
from motrlab.stages.models import load_float, load_quantized
from motrlab.stages.quantization import calibration_videos
from motrlab.tracking.step import Graphs
from motrlab.viz.curves import figure_png
from motrlab.viz.sensitivity import calibration_bars, group_ranking, pareto_plot

_MAX_PROBE_VIDEOS = 4


def measure_sensitivity(
    run: Run, *, num_frames: int = 0, clip_frames: int = 0, max_float_share: float = 0.1
) -> dict[str, Any]:
    """Rank the groups of the calibrated model, and search which to leave in float; record kind `sensitivity`.

    Leaves `assets/sensitivity.csv` (a row for each group, most noise first), `assets/sensitivity_path.csv` (a row for
    each round of the search), a picture of each, and `assets/sensitivity_scheme.json`: the scheme that the search ends
    with, for `Scheme.from_dict`.

    Args:
        run: calibrated.
        num_frames: of the train halves, to measure errors on; 0: half as many as calibration watches, at most 16.
        clip_frames: so many frames of each test video make the short clips for MOTA and IDF1; 0: as many as
            `num_frames`; -1: neither is measured.
        max_float_share: limit of the share of multiply-accumulates that are not int8 (0 to 1).
    """
    if not 0 <= max_float_share <= 1:
        raise UserError(f"sensitivity: max_float_share is a share from 0 to 1, not {max_float_share}")
    started = time.time()
    frames, clips = _sizes(run.config, num_frames, clip_frames)
    quantised = load_quantized(run, "calibration")
    score = _scorer(run, clips)
    graphs = MotrGraphs(folded_copy(load_float(run)))
    probe = Probe(graphs, probe_videos(run, frames), run.config)
    reference = score(graphs) if score else {}
    rows = measure_groups(quantised, probe, score)
    path = search_groups(quantised, probe, rows, max_float_share)
    path = _scored_front(quantised, path, score)
    groups = groups_of(quantised)
    raised = [groups[name] for name in raised_until(path, len(path) - 1)]
    scheme = run.config.scheme.with_rules(*float_rules(raised))
    limits = (reference["mota"], reference["idf1"]) if reference else None
    assets = _write(
        run,
        {"sensitivity.csv": rows, "sensitivity_path.csv": path},
        {
            "sensitivity.png": group_ranking(rows),
            "sensitivity_path.png": pareto_plot(path, rows, max_float_share=max_float_share, reference=limits),
        },
    )
    assets.append(run.assets / "sensitivity_scheme.json")
    write_text(assets[-1], json.dumps(scheme.to_dict(), indent=2) + "\n")
    metrics = _common_metrics(probe, clips, reference)
    metrics |= {"max_float_share": max_float_share, "num_groups": len(rows)}
    for row in rows:
        metrics |= _finite(row.group.replace(" ", "_"), row)
    metrics |= _path_metrics(path)
    return run.add_record("calibration", "sensitivity", metrics, started=started, assets=assets)


def sweep_calibration(
    run: Run, *, variants: Sequence[str] = (), num_frames: int = 0, clip_frames: int = 0
) -> dict[str, Any]:
    """Calibrate the float model in several ways and compare them; record kind `calibration_sweep`.

    The run's own calibration is left alone. Leaves `assets/calibration_sweep.csv` and a picture of it.

    Args:
        run: with a float model.
        variants: names of `analysis.sweep.calibration_variants`; empty: all. The run's own is always there.
        num_frames, clip_frames: as in `measure_sensitivity`.
    """
    started = time.time()
    frames, clips = _sizes(run.config, num_frames, clip_frames)
    every = calibration_variants(run.config)
    unknown = [name for name in variants if name not in every]
    if unknown:
        raise UserError(f"calibration sweep: no variant {unknown[0]!r}; there are {', '.join(every)}")
    chosen = {name: c for name, c in every.items() if not variants or name in (AS_CONFIGURED, *variants)}
    model, score = folded_copy(load_float(run)), _scorer(run, clips)
    graphs = MotrGraphs(model)
    probe = Probe(graphs, probe_videos(run, frames), run.config)
    reference = score(graphs) if score else {}
    rows = compare_calibrations(model, chosen, lambda config: calibration_videos(run, config.calibration), probe, score)
    assets = _write(
        run, {"calibration_sweep.csv": rows}, {"calibration_sweep.png": calibration_bars(rows)}
    )  # fmt: skip
    metrics = _common_metrics(probe, clips, reference) | {"num_variants": len(rows)}
    for row in rows:
        metrics |= _finite(row.variant, row)
    return run.add_record(
        "calibration", "calibration_sweep", metrics, started=started, assets=assets, made_from=("data", "float")
    )


def probe_videos(run: Run, num_frames: int) -> list[Iterator[torch.Tensor]]:
    """Network inputs `[1, 3, H, W]` of the last frames of the first train halves, `num_frames` in all or a few more.

    Calibration watches the first frames, so these are new to it as long as it does not watch all; and a scheme chosen
    on them is not chosen on the test halves.
    """
    store = open_store(run, "train")
    videos = store.sequences[: min(_MAX_PROBE_VIDEOS, num_frames)]
    per_video = -(-num_frames // max(1, len(videos)))

    return [network_inputs(run, store, i.name, max(1, i.num_frames - per_video + 1)) for i in videos]


def _sizes(config: Config, num_frames: int, clip_frames: int) -> tuple[int, int]:
    """Frames of the probe, and frames of each test video (0: none)."""
    if num_frames < 0 or clip_frames < -1:
        raise UserError("sensitivity: num_frames must be at least 0, clip_frames at least -1")
    frames = num_frames or max(1, min(16, config.calibration.num_frames // 2))
    return frames, {0: frames, -1: 0}.get(clip_frames, clip_frames)


def _scorer(run: Run, clip_frames: int) -> Callable[[Graphs], Scores] | None:
    """MOTA and IDF1 of graphs on the first `clip_frames` frames of every test video; None where that is 0."""
    if not clip_frames:
        return None
    truth = {name: gt.select(gt.frame <= clip_frames) for name, gt in read_ground_truth(run).items()}

    def score(graphs: Graphs) -> Scores:
        tracks = track_part(run, torch_engine(graphs, run.config.model), "test", num_frames=clip_frames)
        overall = evaluate(truth, tracks, PROTOCOLS[0])["OVERALL"]
        return {name: float(overall[name]) for name in ("mota", "idf1")}

    return score


def _scored_front(
    quantised: QuantizedMotr, path: Sequence[PathPoint], score: Callable[[Graphs], Scores] | None
) -> list[PathPoint]:
    """The path with MOTA and IDF1 of its points on the Pareto front."""
    if score is None:
        return list(path)
    found = list(path)
    for index in pareto_front([(point.float_share, point.noise_share) for point in path]):
        with switched_on(quantised, groups_of(quantised).keys() - set(raised_until(path, index))):
            scores = score(quantised.graphs)
        found[index] = replace(path[index], mota=scores["mota"], idf1=scores["idf1"])
    return found


def _common_metrics(probe: Probe, clip_frames: int, reference: Scores) -> dict[str, Any]:
    counts = {"num_frames": probe.num_frames, "tracks_per_frame": probe.num_tracks / probe.num_frames}
    scores = {f"float.{name}": value for name, value in reference.items() if math.isfinite(value)}
    return counts | {"clip_frames": clip_frames} | scores


def _path_metrics(path: Sequence[PathPoint]) -> dict[str, Any]:
    """First and last point of the search."""
    counts = {"search.num_rounds": len(path) - 1, "search.raised": ", ".join(raised_until(path, len(path) - 1))}
    return counts | _finite("all_int8", path[0]) | _finite("mixed", path[-1])


def _finite(prefix: str, row: Any) -> dict[str, float]:
    """Numbers of a row as `prefix.NAME`; JSON knows neither infinite values nor NaN."""
    values = {f"{prefix}.{k}": v for k, v in asdict(row).items() if not isinstance(v, str)}
    return {name: v for name, v in values.items() if math.isfinite(v)}


def _write(run: Run, tables: Mapping[str, Sequence[Any]], figures: Mapping[str, Any]) -> list[Path]:
    for name, rows in tables.items():
        write_csv(run.assets / name, rows)
    for name, figure in figures.items():
        write_bytes(run.assets / name, figure_png(figure))
    return [run.assets / name for name in (*tables, *figures)]
