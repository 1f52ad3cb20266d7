"""Which parts of a run's network int8 hurts, what leaving some in float buys, and which way to calibrate is best."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from motrlab.config import Config
from motrlab.config.scheme import Scheme
from motrlab.errors import UserError
from motrlab.evaluation.metrics import evaluate
from motrlab.evaluation.protocols import PROTOCOLS
from motrlab.files import write_text
from motrlab.model.motr import MotrGraphs, folded_copy
from motrlab.quantization.analysis.groups import float_rules, groups_of, switched_on
from motrlab.quantization.analysis.layers import read_table
from motrlab.quantization.analysis.probe import Probe
from motrlab.quantization.analysis.sensitivity import Score, Scores, measure_groups, search_groups
from motrlab.quantization.analysis.sensitivity_tables import AS_CONFIGURED, PathPoint, pareto_front, raised_until
from motrlab.quantization.analysis.sweep import calibration_variants, compare_calibrations
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.run import Run
from motrlab.stages.accuracy import network_inputs, torch_engine, track_part
from motrlab.stages.data import open_store, read_ground_truth
from motrlab.stages.layers import write_assets
from motrlab.stages.models import load_float, load_quantized
from motrlab.stages.quantization import calibration_videos
from motrlab.tracking.step import Graphs
from motrlab.viz.sensitivity import calibration_bars, group_ranking, pareto_plot

_MAX_PROBE_VIDEOS = 4


def measure_sensitivity(
    run: Run,
    *,
    num_frames: int = 0,
    clip_frames: int = 0,
    max_float_share: float | None = None,
    max_drop_mota: float | None = None,
    score_groups: bool = True,
) -> dict[str, Any]:
    """Rank the groups of the calibrated model, and search which to leave in float; record kind `sensitivity`.

    Errors are measured on `num_frames` of the train halves (0: half as many as calibration watches, at most 16), MOTA
    and IDF1 on the first `clip_frames` of each test video (0: as many as `num_frames`; -1: neither is measured).
    `max_float_share`: limit of the share of multiply-accumulates that are not int8, 0 to 1, by default .1.
    `max_drop_mota`: the search stops where MOTA is at most so many points below float's, and the share is not limited.
    MOTA of each group alone, which takes most of the time, is not measured then, nor without `score_groups`.

    Leaves `sensitivity.csv` (a row for each group, most noise first), `sensitivity_path.csv` (a row for each round of
    the search), a picture of each, and `sensitivity_scheme.json`: the scheme that the search ends with.
    """
    if max_float_share is None:
        max_float_share = 0.1 if max_drop_mota is None else 1.0
    if not 0 <= max_float_share <= 1:
        raise UserError(f"sensitivity: max_float_share must be a fraction from 0 to 1, not {max_float_share}")
    if max_drop_mota is not None and (clip_frames == -1 or not max_drop_mota >= 0):
        raise UserError("sensitivity: max_drop_mota must be at least 0, in points of MOTA, and needs clip_frames")
    started, sizes = time.time(), _sizes(run.config, num_frames, clip_frames)
    quantised = load_quantized(run, "calibration")
    bench = _Bench(run, *sizes)
    score = bench.score if score_groups and max_drop_mota is None else lambda _: {}
    rows = measure_groups(quantised, bench.probe, score)
    raised_scores = _RaisedScores(quantised, bench)
    path = search_groups(quantised, bench.probe, rows, max_float_share, raised_scores.within(max_drop_mota))
    path = _scored_front(path, raised_scores)
    groups, raised = groups_of(quantised), raised_until(path, len(path) - 1)
    scheme = run.config.scheme.with_rules(*float_rules({name: groups[name] for name in raised}))
    pareto = pareto_plot(path, rows, max_float_share, bench.reference)
    tables: dict[str, Sequence[Any]] = {"sensitivity.csv": rows, "sensitivity_path.csv": path}
    assets = write_assets(run, tables, {"sensitivity.png": group_ranking(rows), "sensitivity_path.png": pareto})
    assets.append(run.assets / "sensitivity_scheme.json")
    write_text(assets[-1], json.dumps(scheme.to_dict(), indent=2) + "\n")
    metrics = bench.metrics | {"max_float_share": max_float_share, "num_groups": len(rows)}
    metrics |= _finite({row.group.replace(" ", "_"): row for row in rows})
    metrics |= {"search.num_rounds": len(path) - 1, "search.raised": ", ".join(raised)}
    metrics |= _finite({"all_int8": path[0], "mixed": path[-1]})
    if max_drop_mota is not None:
        drop = raised_scores.drop(frozenset(raised))
        metrics |= {"max_drop_mota": max_drop_mota, "search.drop_mota": drop, "search.within": drop <= max_drop_mota}
    return run.add_record("calibration", "sensitivity", metrics, started=started, assets=assets)


def sweep_calibration(
    run: Run, *, variants: Sequence[str] = (), num_frames: int = 0, clip_frames: int = 0
) -> dict[str, Any]:
    """Calibrate the float model in several ways and compare them; record kind `calibration_sweep`.

    `variants`: names of `analysis.sweep.calibration_variants`; empty: all; the run's own is always there. `num_frames`,
    `clip_frames`: as in `measure_sensitivity`. The run's own calibration is left alone. Leaves
    `assets/calibration_sweep.csv` and a picture of it.
    """
    started = time.time()
    sizes = _sizes(run.config, num_frames, clip_frames)
    every = calibration_variants(run.config)
    unknown = [name for name in variants if name not in every]
    if unknown:
        raise UserError(f"calibration sweep: no variant {unknown[0]!r}; there are {', '.join(every)}")
    chosen = {name: c for name, c in every.items() if not variants or name in (AS_CONFIGURED, *variants)}
    bench = _Bench(run, *sizes)
    probe, score = bench.probe, bench.score
    rows = compare_calibrations(bench.model, chosen, lambda c: calibration_videos(run, c.calibration), probe, score)
    assets = write_assets(run, {"calibration_sweep.csv": rows}, {"calibration_sweep.png": calibration_bars(rows)})
    metrics = bench.metrics | {"num_variants": len(rows)} | _finite({row.variant: row for row in rows})
    kind, made_from = "calibration_sweep", ("data", "float")
    return run.add_record("calibration", kind, metrics, started=started, assets=assets, made_from=made_from)


class _Bench:
    """What both analyses measure with: the float model, its probe, and the short clips.

    `reference`: scores of float on the clips. `metrics`: for the record, how much was measured, and `reference`.
    """

    def __init__(self, run: Run, num_frames: int, clip_frames: int) -> None:
        self.model = folded_copy(load_float(run))
        self.score = _scorer(run, clip_frames)
        graphs = MotrGraphs(self.model)
        self.probe = Probe(graphs, probe_videos(run, num_frames), run.config)
        self.reference = self.score(graphs)
        self.metrics: dict[str, Any] = {
            "num_frames": self.probe.num_frames,
            "tracks_per_frame": self.probe.num_tracks / self.probe.num_frames,
            "clip_frames": clip_frames,
            **{f"float.{name}": value for name, value in self.reference.items() if math.isfinite(value)},
        }


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


def _scorer(run: Run, clip_frames: int) -> Score:
    """Measures MOTA and IDF1 of graphs on the first `clip_frames` frames of every test video; neither if that is 0."""
    if not clip_frames:
        return lambda _: {}
    truth = {name: gt.select(gt.frame <= clip_frames) for name, gt in read_ground_truth(run).items()}

    def score(graphs: Graphs) -> Scores:
        tracks = track_part(run, torch_engine(graphs, run.config.model), "test", num_frames=clip_frames)
        overall = evaluate(truth, tracks, PROTOCOLS[0], classes=open_store(run).classes)["OVERALL"]
        return {name: float(overall[name]) for name in ("mota", "idf1")}

    return score


class _RaisedScores:
    """Scores of the model with groups left in float, each set measured once."""

    def __init__(self, quantised: QuantizedMotr, bench: _Bench) -> None:
        self.quantised, self.bench = quantised, bench
        self._known: dict[frozenset[str], Scores] = {}

    def __contains__(self, raised: frozenset[str]) -> bool:
        return raised in self._known

    def __call__(self, raised: frozenset[str]) -> Scores:
        if raised not in self._known:
            with switched_on(self.quantised, groups_of(self.quantised).keys() - raised) as graphs:
                self._known[raised] = self.bench.score(graphs)
        return self._known[raised]

    def drop(self, raised: frozenset[str]) -> float:
        """Points of MOTA below float."""
        return 100 * (self.bench.reference["mota"] - self(raised)["mota"])

    def within(self, max_drop: float | None) -> Callable[[frozenset[str]], bool]:
        """Whether that is no more than `max_drop`; without a limit never."""
        return lambda raised: max_drop is not None and self.drop(raised) <= max_drop


def _scored_front(path: Sequence[PathPoint], scores: _RaisedScores) -> list[PathPoint]:
    """The path with MOTA and IDF1 of its start, its points on the Pareto front, and those that were measured anyway."""
    front = {0}.union(pareto_front([(point.float_share, point.noise_share) for point in path]))
    found = []
    for index, point in enumerate(path):
        raised = frozenset(raised_until(path, index))
        known: dict[str, Any] = dict(scores(raised)) if index in front or raised in scores else {}
        found.append(replace(point, **known))
    return found


def format_search(run: Run, metrics: Mapping[str, Any]) -> str:
    """What `measure_sensitivity` found, with the rules to paste into a scheme."""
    path = read_table(run.assets / "sensitivity_path.csv", PathPoint)
    scheme = Scheme.from_dict(json.loads((run.assets / "sensitivity_scheme.json").read_text()))
    lines = [f"{'left in float, one group after the other':44}{'float ops':>10}{'noise':>8}{'MOTA':>8}"]
    for point in path:
        mota = f"{100 * point.mota:8.2f}" if math.isfinite(point.mota) else f"{'-':>8}"
        lines.append(f"{point.raised or '(all int8)':44}{point.float_share:>10.1%}{point.noise_share:>8.3f}{mota}")
    if "search.drop_mota" in metrics:
        end = "within" if metrics["search.within"] else "nothing more gains: NOT within"
        told = f"{end} {metrics['max_drop_mota']:g} points of float's {100 * metrics['float.mota']:.2f}"
        where = f"the first {metrics['clip_frames']} frames of each test video"
        lines.append(f"{metrics['search.drop_mota']:+.2f} points below float, {told}, MOTA on {where}")
    added = scheme.rules[len(run.config.scheme.rules) :]
    told = (
        "paste into the scheme (float is for analysis; on a chip with int16 say that, for all that share a grid):"
        if added
        else "no rule is needed"
    )
    lines += ["", told, *(f"    {rule.code}," for rule in added)]
    return "\n".join(lines)


def _finite(rows: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of rows by prefix, as `PREFIX.COLUMN`; JSON knows neither infinite values nor NaN."""
    cells = {f"{prefix}.{name}": value for prefix, row in rows.items() for name, value in asdict(row).items()}
    return {name: value for name, value in cells.items() if not isinstance(value, str) and math.isfinite(value)}
