"""Our integers against what ONNX Runtime's own `quantize_static` makes of the same float model: speed and accuracy.

    OMP_NUM_THREADS=1 python benchmarks/against_quantize_static.py --run demo [--methods MinMax Percentile]

Both are run by ONNX Runtime, some calls of each graph in turn, on frames of the run's first test video. Both are scored
by the run's own tracker on its test halves, protocol motchallenge; fp32 beside them. `quantize_static` gets inputs of
the float graphs' closed loop on the train halves, as many frames as the run's own calibration. It has no QAT, and ours
does; the calibrated model without QAT is therefore scored, too. Of its methods the one with the highest MOTA on the
first frames of the train halves is held against ours: nothing is chosen on test halves. Ends with status 1 where ours
is not faster than every method, or has not the higher MOTA.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from onnxruntime.quantization import CalibrationMethod

from motrlab.data.prepare import cut
from motrlab.deploy.perf import GRAPHS, Form, Recorded, measure_latency, record_inputs
from motrlab.deploy.runtime import Runtime, load_artifact, load_networks
from motrlab.deploy.static_quantisation import quantize_static_graphs
from motrlab.errors import UserError
from motrlab.evaluation.metrics import OVERALL, evaluate
from motrlab.machine import hardware, num_cpus
from motrlab.run import Run
from motrlab.stages.accuracy import Engine, open_engine, read_frames, track_part
from motrlab.stages.chain import require
from motrlab.stages.data import open_store, read_ground_truth

METHODS = [method.name for method in CalibrationMethod]


def main() -> None:
    parser = argparse.ArgumentParser(description="our integers against quantize_static of ONNX Runtime")
    parser.add_argument("--run", default="demo", help="a run that has been converted")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="of quantize_static")
    parser.add_argument("--train-frames", type=int, default=60, help="of each train half, to choose a method on")
    parser.add_argument("--repeats", type=int, default=50, help="timed calls of each graph")
    options = parser.parse_args()
    try:
        run = Run.open(options.run, create=False)
        require(run, "fixed_point")
    except UserError as error:
        sys.exit(str(error))
    fixed, floats = load_artifact(run.artifact, num_threads=num_cpus()), run.path / "export" / "float"
    floating = fixed.on_files(floats, num_threads=num_cpus())
    print(f"{hardware()['cpu']}; run {run.name}, preset {run.config.preset}")
    with tempfile.TemporaryDirectory() as temporary:
        samples = train_samples(run, floating)
        folders = {m: quantize_static_graphs(floats, samples, Path(temporary) / m, m) for m in options.methods}
        ratios = compare_speed(run, floats, folders, options.repeats)
        engines = {m: engine(fixed.on_files(f, num_threads=num_cpus())) for m, f in folders.items()}
        trained = {m: score_train(run, m, e, options.train_frames) for m, e in engines.items()}
        best = max(trained, key=lambda m: trained[m])
        print(f"chosen on the train halves: {best}; on the test halves:")
        score(run, "calibrated, no QAT", open_engine(run, "calibration"))
        score(run, "fp32", engine(floating))
        ours = score(run, "ours", engine(fixed))
        others = {m: score(run, m, e) for m, e in engines.items()}
    print(f"ours {ours:.4f}, {best} {others[best]:.4f} MOTA; ours is at least {min(ratios):.2f} times as fast")
    sys.exit(int(min(ratios) <= 1 or ours <= others[best]))


def engine(runtime: Runtime) -> Engine:
    return Engine(runtime.graphs, runtime.preprocess, 1)


def train_samples(run: Run, floating: Runtime) -> Recorded:
    """Inputs of both graphs in the float closed loop, as many frames as the run's calibration had."""
    config, store = run.config.calibration, open_store(run, "train")
    chosen = store.sequences[: config.num_sequences]
    number = -(-config.num_frames // len(chosen))
    rows = [record_inputs(floating, list(read_frames(store, i.name, 1, number)), most=number) for i in chosen]
    print(f"quantize_static: {sum(len(row['base']) for row in rows)} samples of {len(chosen)} train halves")
    return {graph: [inputs for row in rows for inputs in row[graph]] for graph in GRAPHS}


def compare_speed(run: Run, floats: Path, folders: dict[str, Path], repeats: int) -> list[float]:
    """Medians of both graphs together; how many times as fast ours is as each method's."""
    store = open_store(run)
    frames = list(read_frames(store, store.sequences[0].name, 1, 60))

    def form(folder: Path) -> Form:
        return Form(lambda threads: load_networks(folder, "onnx", threads))

    forms = {method: form(folder) for method, folder in folders.items()}
    metrics = measure_latency(run.artifact, floats, frames, num_threads=(1,), repeats=repeats, more=forms).metrics
    ratios = []
    for name in ("fixed_point", "fp32", *folders):
        base, qim = (metrics[f"{graph}.{name}.p50_ms"] for graph in GRAPHS)
        ours = sum(metrics[f"{graph}.fixed_point.p50_ms"] for graph in GRAPHS)
        ratio = (base + qim) / ours
        ratios += [ratio] * (name in folders)
        print(f"{name:<20} base {base:8.3f} ms, qim {qim:7.3f} ms, one thread; ours is {ratio:.2f} times as fast")
    return ratios


def score_train(run: Run, name: str, tracker: Engine, num_frames: int) -> float:
    """MOTA on the first frames of the train halves."""
    store, frames = open_store(run, "train"), range(1, num_frames + 1)
    gt = {info.name: cut(store.annotations(info.name), frames) for info in store.sequences}
    return _told(f"{name}, train", evaluate(gt, track_part(run, tracker, "train", num_frames=num_frames))[OVERALL])


def score(run: Run, name: str, tracker: Engine) -> float:
    """MOTA on the test halves."""
    return _told(name, evaluate(read_ground_truth(run), track_part(run, tracker, "test"))[OVERALL])


def _told(name: str, found: Mapping[str, float]) -> float:
    told = ", ".join(f"{key} {found[key]:.4f}" for key in ("mota", "idf1", "hota"))
    print(f"{name:<20} {told}, {found['idsw']:.0f} switches", flush=True)
    return float(found["mota"])


if __name__ == "__main__":
    main()
