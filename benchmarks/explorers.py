"""Milliseconds of each step of the explorers on a run, such as the slider of `TrackExplorer` at the next frame.

    OMP_NUM_THREADS=1 python benchmarks/explorers.py --run demo [--stage qat] [--repeats 15]

The run has tracks of two stages, a quantised model, results of `perf` and an artefact. What opening takes is printed
once; of each step the median and the largest over `--repeats` steps, each with another value, as a person would choose
it: wall clock, and the processor's own time, which other programs on the machine do not lengthen. `before`: the same
step as it was drawn before the explorers (the whole figure through matplotlib into PNG, the frame decoded again). The
target of issue 13 is 200 ms a step on `street`: the exit status is 1 where a step's median is above it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from motrlab.deploy.performance import read_performance
from motrlab.machine import hardware
from motrlab.run import Run
from motrlab.stages.recording import tune_explorer
from motrlab.viz.explore import TrackExplorer
from motrlab.viz.explore_perf import SORTS, PerfExplorer
from motrlab.viz.explore_quant import QuantExplorer
from motrlab.viz.raster import jpeg

LIMIT_MS = 200.0
slow: list[str] = []  # steps whose median is above the limit


def timed(act: Callable[[], Any]) -> tuple[float, float]:
    """Wall clock and processor time in milliseconds."""
    wall, own = time.perf_counter(), time.process_time()
    act()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - own)


def steps(name: str, values: Iterable[Any], act: Callable[[Any], Any], counts: bool = True) -> None:
    """A line for a step that is taken once with each of `values`; `counts`: whether the limit holds for it."""
    walls, owns = zip(*(timed(lambda value=value: act(value)) for value in values), strict=True)
    line = f"{statistics.median(walls):9.1f}{max(walls):9.1f}{statistics.median(owns):11.1f}{max(owns):9.1f}"
    above = counts and statistics.median(walls) > LIMIT_MS
    slow.extend([name.strip()] * above)
    print(f"{name:<44}{line}{f'  above {LIMIT_MS:g} ms' * above}")


def opened(name: str, make: Callable[[], Any]) -> Any:
    """The explorer; a line says what opening it took."""
    found: list[Any] = []
    wall, own = timed(lambda: found.append(make()))
    print(f"{name:<44}{wall:9.1f}{'':9}{own:11.1f}")
    return found[0]


def tracks(run: Run, beside: str, repeats: int) -> None:
    explorer = opened(f"TrackExplorer {beside} opens", lambda: TrackExplorer(run, beside=beside))
    frames = range(2, 2 + repeats)

    def select(sequence: str) -> bytes:
        explorer.select(sequence)
        return explorer.jpeg(1)

    steps("  another sequence", explorer.sequences[:repeats], select)
    steps("  slider: next frame", frames, explorer.jpeg)
    steps("  errors only", frames, lambda frame: explorer.jpeg(frame, errors_only=True))
    steps("  next error, and its picture", frames, lambda frame: explorer.jpeg(explorer.next_error(frame) or frame))
    steps("  before: whole figure as PNG", range(40, 45), explorer.png, counts=False)


def quantisation(run: Run, stage: str, repeats: int) -> None:
    explorer = opened("QuantExplorer opens", lambda: QuantExplorer.of_run(run, stage))
    keys = explorer.ranked()[:repeats]
    steps("  another tensor", keys, lambda key: jpeg(explorer.picture(explorer.try_grid(key))))
    free = next(key for key in keys if explorer.found[key].row.observer != "fixed")
    top = explorer.found[free].row.scale * explorer.found[free].row.quant_max
    reaches = [top * 2 ** (i / 8 - 1) for i in range(repeats)]
    steps("  slider: another range", reaches, lambda r: jpeg(explorer.picture(explorer.try_grid(free, reach=r))))
    observers = ("min_max", "percentile", "mse", "kl")
    steps("  another observer", observers, lambda o: jpeg(explorer.picture(explorer.try_grid(free, observer=o))))
    steps("  another rank", ("clipped", "graph order"), explorer.ranked)


def performance(files: Sequence[Path], repeats: int) -> None:
    explorer = opened("PerfExplorer opens", lambda: PerfExplorer({file.stem: read_performance(file) for file in files}))
    names = list(explorer.results)
    steps(
        "  another result: table and roofline",
        names,
        lambda n: (explorer.html(explorer.rows([n]), [n]), explorer.roofline(n)),
    )
    steps("  sort", islice(cycle(SORTS), repeats), lambda sort: explorer.html(explorer.rows(sort=sort)))
    steps("  filter", ("decoder", "encoder.0", "norm"), lambda find: explorer.html(explorer.rows(find=find)))
    modules = [row.name for row in explorer.rows()[:repeats]]
    steps("  another module, marked", modules, lambda m: explorer.roofline(names[-1], m))
    find = ("decoder", "encoder.0", "norm")
    steps("  filter layers", find, lambda find: explorer.html(explorer.rows(find=find, by="layer")))
    layers = [row.name for row in explorer.rows(by="layer")[:repeats]]
    steps("  another layer, marked", layers, lambda m: explorer.roofline(names[-1], m, "layer"))


def tuning(run: Run) -> None:
    opened("TuneExplorer opens, nothing recorded", lambda: tune_explorer(run))
    explorer = opened("TuneExplorer opens again", lambda: tune_explorer(run))
    tune_grid(explorer, "output_score", "min_area_px")
    tune_grid(explorer, "reset_score", "max_misses")
    values = explorer.axes["output_score"].values
    steps("  slider: another cell", values, lambda v: explorer.describe(output_score=v, min_area_px=100.0))
    explorer.closed_loop(explorer.rules, 2)
    steps("  closed loop, 5 frames of each video", [5], lambda n: explorer.closed_loop(explorer.rules, n), counts=False)


def tune_grid(explorer: Any, across: str, down: str) -> None:
    """The widget shows the first row at once and the others as they come."""
    rows = explorer.rows(across, down)
    found = []

    def row(_: object) -> str:
        found.append(next(rows))
        return str(explorer.tables(found, across, down))

    steps(f"  {across} × {down}: each row", explorer.axes[down].values, row)
    steps("    whole grid, once known", range(5), lambda _: explorer.grid(across, down))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="demo")
    parser.add_argument("--stage", default="qat", help="of the quantised model")
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    run = Run.open(options.run, create=False)
    print(f"{hardware()['cpu']}, run {run.name}, preset {run.config.preset}")
    print(f"{'milliseconds':<44}{'wall':>9}{'most':>9}{'processor':>11}{'most':>9}")
    tracks(run, "", options.repeats)
    tracks(run, "float", options.repeats)
    quantisation(run, options.stage, options.repeats)
    found = sorted(f for f in run.assets.glob("perf_*.json") if not f.name.endswith(".trace.json"))
    if found:
        performance(found, options.repeats)
    tuning(run)
    if slow:
        raise SystemExit(f"steps above {LIMIT_MS:g} ms: {', '.join(slow)}")


if __name__ == "__main__":
    main()
