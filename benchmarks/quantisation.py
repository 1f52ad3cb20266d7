"""What each stage of quantisation costs, over several seeds: the tables of docs/LOG.md.

    python benchmarks/quantisation.py --seeds 0 1 2
    python benchmarks/quantisation.py --preset mot17_small --data-root ../shared/data/mot --seeds 0 1 2 3 4 --float FILE

One run `quantisation_PRESET_SEED` a seed: float training, calibration, QAT, the float model trained for the same extra
steps, conversion, the accuracy of all, and whether the track files of all forms are equal; then time and memory of a
QAT step beside a float step, and of evaluating the QAT graph beside the float model. What a run has done already is not
done again. `--float` takes a folder of `SEED.safetensors` instead of training; or one float checkpoint for all seeds:
then calibration is done once, seeds differ in QAT and in the float model trained on, and only the first seed's track
files of OpenVINO are compared.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from motrlab.config.presets import load_preset
from motrlab.data.clips import make_loader
from motrlab.lineage import MAKING
from motrlab.quantization.qat import qat_config, qat_trainee
from motrlab.run import Run
from motrlab.stages.accuracy import evaluate_stage, evaluate_unseen, torch_engine, track_part
from motrlab.stages.agreement import FORMS, measure_agreement
from motrlab.stages.data import open_store, prepare_data
from motrlab.stages.deployment import convert
from motrlab.stages.models import load_quantized
from motrlab.stages.quantization import calibrate, train_float_extra, train_qat
from motrlab.stages.training import train_float
from motrlab.training.memory import SavedBytes
from motrlab.training.replay import clip_generators

STAGES = ("float", "calibration", "qat", "float_extra", "fixed_point")


def main() -> None:
    parser = argparse.ArgumentParser(description="the stages of quantisation, several seeds")
    parser.add_argument("--preset", default="street")
    parser.add_argument("--data-root", default="", help="MOTChallenge folder; default: the preset's own videos")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--float", type=Path, help="a float checkpoint, or a folder of SEED.safetensors")
    parser.add_argument("--lr", type=float, default=0.0, help="of QAT; default: the preset's")
    parser.add_argument("--learn-scales", action="store_true", help="learned step sizes (LSQ)")
    parser.add_argument("--suffix", default="", help="of the runs' names, for other settings")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    runs: list[Run] = []
    for seed in options.seeds:
        runs.append(build(seed, options, runs[0] if runs and shared(options) else None))
    print(table(runs, one_float=shared(options)))
    print(step_cost(runs[0]))
    print(evaluation_cost(runs[0]))


def shared(options: argparse.Namespace) -> bool:
    """Whether all seeds start from one float model."""
    return options.float is not None and options.float.is_file()


def build(seed: int, options: argparse.Namespace, first: Run | None) -> Run:
    """Every stage of one seed that is not there yet.

    `first` has the data, float model and calibration of all, and is the only one that is converted.
    """
    qat = load_preset(options.preset).qat
    qat = replace(qat, lr=options.lr or qat.lr, learn_scales=options.learn_scales)
    name = f"quantisation_{options.preset}_{seed}{options.suffix}"
    run = Run.open(name, options.preset, seed=seed, qat=asdict(qat), data_root=options.data_root)
    if first is not None and not run.data.exists():
        run.data.symlink_to(first.data)
        _adopt(run, "data", first.path)
        for stage in ("float", "calibration"):
            shutil.copytree(first.checkpoints(stage), run.checkpoints(stage))
            _adopt(run, stage, first.path)
    elif not run.has("data"):
        prepare_data(run)
    file = run.model_file("float")
    if not file.is_file() and options.float:
        file.parent.mkdir(parents=True, exist_ok=True)
        given = options.float / f"{seed}.safetensors" if options.float.is_dir() else options.float
        shutil.copy(given, file)
        _adopt(run, "float", given)
    stages = (train_float, calibrate, train_qat, train_float_extra, convert)
    todo = list(zip(STAGES, stages, strict=True))
    for stage, work in todo[2:4] if first else todo:
        if run.last_record(stage, "accuracy") is None:
            if not run.has(stage):
                work(run)
            evaluate_stage(run, stage)
            evaluate_unseen(run, stage)
    if first is not None:
        return run
    if run.last_record("fixed_point", "agreement") is None:
        measure_agreement(run)
    return run


def _adopt(run: Run, stage: str, source: Path) -> None:
    """Say that what is there of a stage was made elsewhere, from the same things: otherwise it would not count."""
    run.add_record(stage, MAKING[stage], {"copied_from": str(source)}, started=time.time())


def table(runs: list[Run], *, one_float: bool) -> str:
    """Rows of mean (lowest to highest) over the runs, differences in points."""

    def score(run: Run, stage: str, name: str) -> float:
        record = run.last_record(stage, "accuracy")
        assert record is not None
        return float(record["metrics"][f"motchallenge.{name}"])

    def agreement(run: Run, name: str) -> float:
        record = run.last_record("fixed_point", "agreement")
        assert record is not None
        return float(record["metrics"][name])

    def row(label: str, values: list[float], digits: int) -> str:
        text = f"{label:<52}{np.mean(values):>9.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"
        if len(values) > 2:  # of the mean, Student's t
            half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5
            text += f" ±{half:.{digits}f} (95 %)"
        return text

    compared = runs[:1] if one_float else runs
    seeded = dict.fromkeys(STAGES, compared) | {"qat": runs, "float_extra": runs}
    lines = []
    for stage, group in seeded.items():
        for name in ("mota", "idf1", "hota"):
            lines.append(row(f"{stage} {name}", [score(r, stage, name) for r in group], 4))
    for stage, other in (("calibration", "float"), ("qat", "float_extra"), ("fixed_point", "qat")):
        for name in ("mota", "idf1"):
            values = [100 * (score(r, stage, name) - score(r, other, name)) for r in seeded[stage]]
            lines.append(row(f"{stage} - {other}, {name}, points", values, 2))
    for form in FORMS:
        equal = sum(int(agreement(r, f"{form}.equal_files")) for r in compared)
        files = sum(int(agreement(r, f"{form}.num_files")) for r in compared)
        lines.append(f"track files of {form} equal to those of fixed_point, byte for byte: {equal} of {files}")
    for backend in ("onnxruntime", "openvino"):
        values = [agreement(r, f"portable_{backend}.idf1") for r in compared]
        lines.append(row(f"IDF1 of portable files on {backend} with fixed_point as gt", values, 4))
    durations = [float((r.last_record("calibration", "calibration") or {})["duration_s"]) for r in compared]
    lines.append(row("calibration, seconds", durations, 1))
    return "\n".join(lines)


def step_cost(run: Run, repeats: int = 10) -> str:
    """Time and saved activations of a QAT step beside the same step with quantisers off, in turn."""
    config = qat_config(run.config)
    config = replace(config, num_workers=0, train=replace(config.train, steps=repeats + 1))
    loader = make_loader(open_store(run, "train"), config)
    batches = [(keys, batch.to("cpu")) for keys, batch in enumerate(loader)]
    quantised = load_quantized(run, "calibration")
    trainee = qat_trainee(quantised, run.config)
    seconds: dict[str, list[float]] = {}
    saved: dict[str, int] = {}
    for number, batch in batches:
        for mode in ("float", "train", "evaluate"):
            quantised.ranges.advance()
            quantised.mode(mode)
            generators = clip_generators(0, [(number, i, 3) for i in range(batch.images.shape[1])])
            began = time.perf_counter()
            with SavedBytes(trainee.clips) if not number else contextlib.nullcontext() as count:
                loss = trainee.clips(batch, generators)
            loss.mean.backward()
            trainee.clips.zero_grad()
            if count is None:
                seconds.setdefault(mode, []).append(time.perf_counter() - began)
            else:  # the first one warms up, and its tensors are counted, which takes time
                saved[mode] = count.kept
    times = {mode: float(np.median(values)) for mode, values in seconds.items()}
    parts = [
        f"{mode} {1e3 * times[mode]:.0f} ms ({times[mode] / times['float']:.2f}x), "
        f"{saved[mode] / 1e6:.0f} MB saved ({saved[mode] / saved['float']:.2f}x)"
        for mode in times
    ]
    moving = run.config.qat.freeze_observers
    mean = moving * times["train"] + (1 - moving) * times["evaluate"]
    parts.append(f"over a whole QAT {mean / times['float']:.2f}x the time ({moving:.0%} of the steps with observers)")
    return "step of QAT, forward and backward: " + "; ".join(parts)


def evaluation_cost(run: Run, repeats: int = 3, num_frames: int = 24) -> str:
    """Time of tracking the first frames of all test halves with the QAT graph, quantised and with quantisers off."""
    quantised, seconds = load_quantized(run, "qat"), {"float": [0.0], "evaluate": [0.0]}
    for _ in range(repeats):
        for mode, values in seconds.items():
            quantised.mode(mode)
            began = time.perf_counter()
            track_part(run, torch_engine(quantised.graphs, run.config.model), "test", num_frames=num_frames)
            values.append(time.perf_counter() - began)
    floating, fixed = (float(np.median(values[1:])) for values in seconds.values())
    return f"evaluation: QAT graph {fixed:.1f} s, quantisers off {floating:.1f} s ({fixed / floating:.2f}x)"


if __name__ == "__main__":
    main()
