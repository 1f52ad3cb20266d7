"""This host described by micro-benchmarks, a frame's graphs predicted from that, and measured on ONNX Runtime.

    OMP_NUM_THREADS=1 python benchmarks/predicted_vs_measured_host.py --preset street mot17_small
    OMP_NUM_THREADS=1 python benchmarks/predicted_vs_measured_host.py --run demo

Prints the processor, then for each preset and graph: the predicted and the measured milliseconds of a call, their
ratio, the rank correlation over all nodes (two in three take under 3 µs, and what a call costs decides those) and over
our modules, and the ratio of each kind of kernel. One thread, in the processor time of the calling thread, so that
other processes count less. The shapes of the micro-benchmarks are drawn at random, none is of a preset. A preset's
weights are random and calibrated on noise; its kernels take the same time for every picture.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from fixed_point_vs_fp32 import FULL_HD, noise, processor, write_files
from scipy.stats import spearmanr

from motrlab.config.presets import PRESETS, load_preset
from motrlab.deploy.artifact import read_tracker_description
from motrlab.deploy.describe_host import describe_host
from motrlab.deploy.kernel_layers import layers_of_kernels
from motrlab.deploy.kernels import exact_form, onnxruntime_session
from motrlab.deploy.performance import LayerCost
from motrlab.deploy.predict.frame import predict
from motrlab.deploy.profiling import Called, call_seconds, node_seconds, typical
from motrlab.deploy.target import Target, load_target
from motrlab.errors import UserError
from motrlab.run import Run
from motrlab.stages.chain import require

_TURNS = 6  # of calls with a profile and without


def main() -> None:
    parser = argparse.ArgumentParser(description="predicted against measured, on this host")
    parser.add_argument("--preset", nargs="+", choices=PRESETS, default=[])
    parser.add_argument("--run", default="", help="a converted run instead")
    parser.add_argument("--artifact", nargs="+", type=Path, default=[], help="artefacts instead")
    parser.add_argument("--target", default="", help="a description that is there already")
    parser.add_argument("--repeats", type=int, default=120, help="timed calls of each graph")
    parser.add_argument("--layers", action="store_true", help="print every layer")
    options = parser.parse_args()
    print(processor())
    with tempfile.TemporaryDirectory() as folder:
        target = load_target(options.target) if options.target else _described(Path(folder) / "host.json")
        for name, artifact in _artifacts(options, Path(folder)):
            compare(name, artifact, target, options.repeats, every=options.layers)


def _described(path: Path) -> Target:
    started = time.perf_counter()
    target = describe_host(path)
    print(f"described in {time.perf_counter() - started:.1f} s: {len(target.kernels)} kinds of kernels")
    return target


def _artifacts(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Path]]:
    yield from ((str(path), path) for path in options.artifact)
    if options.run:
        try:
            run = Run.open(options.run, create=False)
            require(run, "fixed_point")
        except UserError as error:
            sys.exit(str(error))
        yield f"run {run.name}", run.artifact
    for preset in options.preset:
        config = load_preset(preset)
        tracker = replace(config.tracker, birth_score=0.1, miss_score=0.0, reset_score=0.0, suppress_iou=None)
        size = FULL_HD if preset.startswith("mot17") else (config.street.height, config.street.width)
        yield preset, write_files(replace(config, tracker=tracker), list(noise(size, 2)), folder / preset)[0]


def compare(name: str, artifact: Path, target: Target, repeats: int, *, every: bool = False) -> None:
    """Prints both graphs of an artefact, predicted and measured."""
    bits = int(read_tracker_description(artifact)["weight_bits"])
    files = {graph: artifact / f"{graph}.ort.onnx" for graph in ("base", "qim")}
    found = predict(target, {graph: layers_of_kernels(file, graph, weight_bits=bits) for graph, file in files.items()})
    measured = _measure([exact_form(file, bits) for file in files.values()], repeats)
    totals, everything, parts = np.zeros(2), list[tuple[float, float]](), list[tuple[float, float]]()
    for graph, (whole, nodes) in zip(files, measured, strict=True):
        layers = [cost for cost in found.layers if cost.layer.graph == graph]
        predicted = found.graphs[graph]["latency_ms"]
        totals += predicted, whole * 1e3
        own = np.array([cost.latency_ms for cost in layers])
        true = np.array([nodes[cost.layer.name] * 1e3 for cost in layers])
        pairs = list(zip(own, true, strict=True))
        rank, modules, everything = _rank(pairs), _by_module(layers, true), everything + pairs
        parts += modules
        print(
            f"{name} {graph}: predicted {predicted:.3f} ms, measured {whole * 1e3:.3f} ms, ratio "
            f"{predicted / whole / 1e3:.3f}; sum of nodes {true.sum():.3f} ms; rank correlation of {len(layers)} "
            f"layers {rank:.3f}"
        )
        print(f"  by module ({len(modules)}): rank correlation {_rank(modules):.3f}")
        print(_by_kind(layers, true))
        for cost, milliseconds in zip(layers, true, strict=True) if every else ():
            print(f"  {cost.layer.name:<60}{cost.latency_ms * 1e3:>9.1f}{milliseconds * 1e3:>9.1f} us")
    print(
        f"{name}, both graphs: predicted {totals[0]:.3f} ms, measured {totals[1]:.3f} ms: {totals[0] / totals[1]:.3f}; "
        f"rank correlation of all {len(everything)} layers {_rank(everything):.3f}, of all {len(parts)} modules "
        f"{_rank(parts):.3f}"
    )


def _measure(contents: Sequence[str | bytes], repeats: int) -> list[tuple[float, dict[str, float]]]:
    """Of each graph, called after the other as in a frame: seconds of a call, and of each node, without what the
    profile adds; some of both in turn, and the fastest turn counts.
    """
    random, graphs = np.random.default_rng(0), list[Called]()
    for content in contents:
        inputs = {
            item.name: random.integers(0, 256, item.shape, np.uint8) if "uint8" in item.type
            else random.uniform(0.1, 0.9, item.shape).astype(np.float32)
            for item in onnxruntime_session(content, 1).get_inputs()
        }  # fmt: skip
        graphs.append((content, inputs))
    how, found = {"repeats": repeats // _TURNS}, []
    turns = [(call_seconds(graphs, **how), node_seconds(graphs, **how)) for _ in range(_TURNS)]
    for index in range(len(graphs)):
        whole = min(typical(calls[index]) for calls, _ in turns)
        found.append((whole, min((nodes[index] for _, nodes in turns), key=lambda nodes: sum(nodes.values()))))
    return found


def _rank(pairs: Sequence[tuple[float, float]]) -> float:
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def _by_module(layers: Sequence[LayerCost], true: np.ndarray) -> list[tuple[float, float]]:
    """Predicted and measured milliseconds of each module of ours: the sums of its nodes."""
    sums = defaultdict[str, list[float]](lambda: [0.0, 0.0])
    for cost, milliseconds in zip(layers, true, strict=True):
        sums[cost.layer.module][0] += cost.latency_ms
        sums[cost.layer.module][1] += milliseconds
    return [(own, real) for own, real in sums.values()]


def _by_kind(layers: Sequence[LayerCost], true: np.ndarray) -> str:
    sums = defaultdict[str, list[float]](lambda: [0, 0.0, 0.0])
    for cost, milliseconds in zip(layers, true, strict=True):
        row = sums[cost.more["kernel"]]
        row[0], row[1], row[2] = row[0] + 1, row[1] + cost.latency_ms, row[2] + milliseconds
    rows = sorted(sums.items(), key=lambda item: -item[1][2])[:12]
    return "\n".join(
        f"  {kind:<28}{int(n):>5}{own:>9.3f}{real:>9.3f} ms{own / real:>7.2f}" for kind, (n, own, real) in rows
    )


if __name__ == "__main__":
    main()
