"""What a described target would do: the predicted half of `perf`, with its record where there is a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from motrlab.deploy.artifact import read_tracker_description
from motrlab.deploy.kernel_layers import layers_of_kernels
from motrlab.deploy.layers import Layer, layers_of_model
from motrlab.deploy.performance import Performance
from motrlab.deploy.predict.frame import predict
from motrlab.deploy.target import Target, assumed_figures
from motrlab.deploy.trace import save_performance
from motrlab.errors import UserError
from motrlab.names import lineage
from motrlab.run import Run
from motrlab.stages.graphs import STAGES, GraphSource

_BETWEEN = ("tracker", "gather", "state")  # parts of the frame step on the host, beside pre-processing


def predict_source(source: GraphSource, target: Target, host_ms: Mapping[str, float] | None = None) -> Performance:
    """Both graphs on a chip, or, for a host that was described by micro-benchmarks, the artefact's kernels on it.

    Its section `figures` says how many of the target's figures there are, and how many are assumed. Raises UserError
    where such a host is given anything but an artefact.
    """
    found = predict(target, _layers(source, target), host_ms)
    assumed, number = assumed_figures(target)
    return replace(found, sections={**found.sections, "figures": {"number": number, "assumed": assumed}})


def _layers(source: GraphSource, target: Target) -> dict[str, list[Layer]]:
    if not target.kernels:
        return {name: layers_of_model(model, name) for name, model in source.graphs.items()}
    if source.artifact is None:
        raise UserError(
            f"{source.told}: a described host runs an artefact's kernels; convert first, or give --artifact"
        )
    bits = int(read_tracker_description(source.artifact)["weight_bits"])
    files = {name: source.artifact / f"{name}.ort.onnx" for name in source.graphs}
    return {name: layers_of_kernels(file, name, weight_bits=bits) for name, file in files.items()}


def measured_host_ms(run: Run) -> dict[str, float] | None:
    """The host's parts of the frame step from the run's last `latency` record; None without."""
    record = run.last_record("perf", "latency")
    if record is None:
        return None
    found = {part: record["metrics"].get(f"step.{part}.p50_ms") for part in ("preprocess", *_BETWEEN)}
    if any(value is None for value in found.values()):
        return None
    return {"before": found["preprocess"], "between": sum(found[part] for part in _BETWEEN)}


def record_prediction(run: Run, performance: Performance, started: float) -> list[Path]:
    """Write its files (`deploy.trace.save_performance`) into the run's assets; record kind `prediction`; the files."""
    files = save_performance(performance, run.assets)
    metrics: dict[str, float | str] = {"target": performance.target}
    metrics |= {name: value for name, value in performance.frame.items() if isinstance(value, float | int)}
    metrics |= {name: float(value) for name, value in performance.sections.get("traffic", {}).items()}
    stage = next(filter(run.has, STAGES), "data")
    run.add_record("perf", "prediction", metrics, started=started, assets=files, made_from=lineage(stage))
    return files


def predict_run(run: Run, source: GraphSource, target: Target) -> Performance:
    """`predict_source` with the run's own host times and the record."""
    started = time.time()
    with run.held():
        performance = predict_source(source, target, measured_host_ms(run))
        record_prediction(run, performance, started)
    return performance


def prediction_text(source: GraphSource, performance: Performance) -> str:
    """For a terminal: what was predicted, the table, and what to look at first."""
    advice = [
        f"{entry['severity']}: {entry['layer']}: {entry['text']}" for entry in performance.sections["advice"][:10]
    ]
    figures = performance.sections["figures"]
    told = f"{figures['assumed']} of {figures['number']} figures of this target are assumed"
    return "\n".join([source.told, performance.table(), told, *advice])
