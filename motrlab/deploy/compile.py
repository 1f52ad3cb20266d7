"""An artefact compiled for a target: `compile_artifact` and the table of what compiles for which target.

Hosts: ONNX Runtime's optimised file, OpenVINO's blob; both are loaded again and must give the same bits. Chips with a
public compiler: `compile_qnn.py`, and RKNN here. For the others the vendor's tool compiles what `handover/` writes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from motrlab.deploy.artifact import MANIFEST, file_hash, read_tracker_description
from motrlab.deploy.kernels import Array, Network, exact_form, onnxruntime_session, openvino_model, openvino_network
from motrlab.deploy.runtime import OUTPUTS, Runtime, load_artifact
from motrlab.deploy.samples import Sample, closed_loop, random_sample
from motrlab.deploy.target import load_target
from motrlab.deploy.vendor import VendorTool
from motrlab.errors import UserError
from motrlab.files import MARKER, replaced_folder, write_text
from motrlab.machine import hardware, package_versions

SCHEMA = 1
_CHECKED = 4  # frames of the closed loop, and as many random samples, that compiled files are checked on
_SIMULATED = 2  # frames on a simulator, which takes seconds for each
RKNN = VendorTool(
    "Rockchip's compiler", "rknn", "rknn_tool.py", "MOTRLAB_RKNN_PYTHON",
    "it needs a separate environment (5.7 GB): python -m venv rknn && rknn/bin/pip install rknn-toolkit2==2.5.0, "
    "then MOTRLAB_RKNN_PYTHON=rknn/bin/python",
)  # fmt: skip


@dataclass
class Job:
    """What a compiler is given, and what it adds: `options`, `seconds`, `versions`, `checked`."""

    artifact: Path
    folder: Path
    runtime: Runtime
    samples: Sequence[Sample]
    options: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    checked: dict[str, Any] = field(default_factory=dict)

    def require_equal(self, graph: str, file: str, network: Network) -> None:
        """`file` loaded again against the artefact, bit by bit. Raises RuntimeError where they differ."""
        for number, sample in enumerate(self.samples):
            expected = list(sample.outputs[graph].values())
            if not all(map(np.array_equal, network(sample.inputs[graph]), expected)):
                raise RuntimeError(f"{file}: loaded again, its outputs differ from the artefact's on sample {number}")
        self.checked[file] = f"equal on {len(self.samples)} samples"

    def agreement(self, graph: str, file: str, network: Network, samples: Iterable[Sample]) -> None:
        """SQNR and the share of equal values of a form that is not exact."""
        pairs = [(network(s.float_inputs(graph)), list(s.outputs[graph].values())) for s in samples]
        for index, name in enumerate(OUTPUTS[graph]):
            found, expected = (np.concatenate([p[side][index] for p in pairs]) for side in (0, 1))
            noise, equal = sqnr(found, expected), float(np.isclose(found, expected, rtol=0, atol=1e-6).mean())
            told = {"sqnr_db": round(noise, 1), "equal": round(equal, 4)}
            self.checked[f"{file}: {name}"] = told if np.isfinite(noise) else f"equal on {len(pairs)} samples"


def sqnr(found: Array, expected: Array) -> float:
    """Signal to noise, dB; infinite where nothing differs."""
    noise = float(np.square(found.astype(np.float64) - expected).sum())
    signal = float(np.square(expected.astype(np.float64)).sum())
    return float(10 * np.log10(signal / noise)) if noise else float("inf")


def _onnxruntime(job: Job) -> None:
    """The optimised form of the exact integers, for this processor."""
    import onnxruntime

    bits = int(read_tracker_description(job.artifact)["weight_bits"])
    job.options |= {"num_threads": 1, "graph_optimization_level": "all", "processor": hardware()["cpu"]}
    level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # it is optimised already
    for graph, outputs in OUTPUTS.items():
        started, path = time.perf_counter(), job.folder / f"{graph}.optimised.onnx"
        given = exact_form(job.artifact / f"{graph}.ort.onnx", bits)
        onnxruntime_session(given, 1, optimized_model_filepath=str(path))
        job.seconds[graph] = time.perf_counter() - started
        session = onnxruntime_session(str(path), 1, graph_optimization_level=level)
        job.require_equal(graph, path.name, partial(session.run, list(outputs)))


def _openvino(job: Job) -> None:
    """Blobs of the exact integers in plain operators; with `native`, of the portable file, on int8 kernels."""
    native = bool(job.options.setdefault("native", False))
    job.options |= {"num_threads": 1, "inference_precision": "f32", "processor": hardware()["cpu"]}
    for graph, outputs in OUTPUTS.items():
        started, path = time.perf_counter(), job.folder / f"{graph}.blob"
        compiled = openvino_model(job.artifact / f"{graph}.{'onnx' if native else 'ort.onnx'}", 1)
        path.write_bytes(compiled.export_model().getvalue())
        job.seconds[graph] = time.perf_counter() - started
        network = openvino_network(openvino_model(path.read_bytes(), 1), outputs)
        if not native:
            job.require_equal(graph, path.name, network)
            continue
        first, given = openvino_network(compiled, outputs), [s.float_inputs(graph) for s in job.samples]
        if not all(np.array_equal(a, b) for x in given for a, b in zip(first(x), network(x), strict=True)):
            raise RuntimeError(f"{path.name}: loaded again, its outputs differ")
        job.agreement(graph, path.name, network, job.samples)


def _qnn(job: Job) -> None:
    from motrlab.deploy.compile_qnn import OPTIONS, compile_qnn, simulated_networks

    job.options = OPTIONS | job.options
    job.versions |= compile_qnn(job.artifact, job.folder, job.options, job.seconds)
    with simulated_networks(job.folder, job.options) as networks:
        for graph, network in zip(OUTPUTS, networks, strict=True):
            job.agreement(graph, f"{graph}.context.onnx", network, job.samples[1 : 1 + _SIMULATED])


def _rknn(job: Job) -> None:
    """float16; Rockchip's own int8 ruins the base graph, and its import of quantiser pairs fails."""
    import onnx

    from motrlab.deploy.encodings import float_form, opset_19
    from motrlab.deploy.onnx_graph import save_onnx

    if unknown := job.options.keys() - {"target_platform"}:
        raise UserError(f"rk3588: unknown option {min(unknown)!r}; there is target_platform")
    job.options = {"target_platform": "rk3588", "precision": "float16"} | job.options
    for graph in OUTPUTS:
        started, path = time.perf_counter(), job.folder / f"{graph}.float.onnx"
        save_onnx(opset_19(float_form(onnx.load(job.artifact / f"{graph}.onnx")).model), path)
        told = RKNN.run(str(path), str(job.folder / f"{graph}.rknn"), str(job.options["target_platform"]))
        job.versions["rknn-toolkit2"] = told.strip().splitlines()[-1]
        job.seconds[graph] = time.perf_counter() - started
    job.checked["outputs"] = "not compared: that needs the board"


@dataclass(frozen=True)
class Compiler:
    """What compiles for a target: a function that fills `Job.folder`, and what a user may ask of it."""

    compile: Callable[[Job], None]
    takes_options: bool = False  # of a vendor's compiler
    has_native: bool = False  # its own int8 kernels, which are not exact


COMPILERS = {
    "onnxruntime-cpu": Compiler(_onnxruntime),
    "openvino-cpu": Compiler(_openvino, has_native=True),
    "qnn-htp": Compiler(_qnn, takes_options=True),
    "rk3588": Compiler(_rknn, takes_options=True),
}


def compiler_of(target: str) -> Compiler:
    """Raises UserError: unknown, or a chip for which no public tool compiles our graphs."""
    if target in COMPILERS:
        return COMPILERS[target]
    who = load_target(target).toolchain or "a tool of the vendor"
    raise UserError(
        f"{target}: {who} compiles for it, which motrlab cannot run; "
        f"`python -m motrlab handover --run NAME --target {target}` writes what it needs"
    )


def compile_artifact(
    artifact: Path,
    target: str,
    out: Path,
    *,
    images: Iterable[NDArray[np.uint8]] = (),
    native: bool = False,
    options: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Compile both graphs into the folder `out`, with `compile.json`. Returns what stands there.

    Args:
        artifact: its folder.
        target: one of `COMPILERS`.
        out: a new folder, or one that this function wrote.
        images: frames of a sequence, BGR `uint8 [H, W, 3]`, on which outputs are compared in closed loop; without any,
            noise.
        native: the target's own int8 kernels, which are not exact.
        options: of the vendor's compiler.

    Raises UserError: unknown target, damaged artefact, a tool is missing or fails; RuntimeError: a compiled file gives
    other bits than the artefact.
    """
    compiler = compiler_of(target)
    if native and not compiler.has_native:
        own = ", ".join(name for name, known in COMPILERS.items() if known.has_native)
        raise UserError(f"--native is for {own}, not for {target}")
    if options and not compiler.takes_options:
        raise UserError(f"{target} takes no options of a vendor's compiler: leave --option out")
    runtime = load_artifact(artifact)
    with replaced_folder(out, marked=True) as folder:
        job = Job(artifact, folder, runtime, _samples(runtime, images), dict(options or {}))
        job.options |= {"native": True} if native else {}
        compiler.compile(job)
        files = [path for path in sorted(folder.iterdir()) if path.name != MARKER]
        told = {
            "schema": SCHEMA,
            "target": target,
            "made_from": {"artifact": str(artifact), MANIFEST: file_hash(artifact / MANIFEST)},
            "files": {p.name: {"bytes": p.stat().st_size, "sha256": file_hash(p)} for p in files},
            "options": job.options,
            "seconds": {graph: round(value, 2) for graph, value in job.seconds.items()},
            "versions": package_versions() | job.versions,
            "checked": job.checked,
        }
        write_text(folder / "compile.json", json.dumps(told, indent=2) + "\n")
    return told


def _samples(runtime: Runtime, images: Iterable[NDArray[np.uint8]]) -> list[Sample]:
    frames = list(islice(images, _CHECKED))
    noise = [random_sample(runtime, seed) for seed in range(_CHECKED)]
    return [*closed_loop(runtime, frames), *noise]
