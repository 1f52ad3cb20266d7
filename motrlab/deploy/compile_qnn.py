"""Qualcomm HTP: a context binary of each graph, and its simulator as a network, both of the package `onnxruntime-qnn`.

HTP runs tensors on 8 bits and what is between in float16; it is not exact. The simulator takes seconds for a frame and
says nothing about time.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO

import onnx

from motrlab.deploy.encodings import float_form
from motrlab.deploy.kernels import Array
from motrlab.deploy.onnx_graph import save_onnx
from motrlab.deploy.qdq import qdq_form
from motrlab.deploy.runtime import OUTPUTS, Runtime
from motrlab.deploy.vendor import VendorTool

TOOL = VendorTool(
    "Qualcomm's compiler",
    "onnxruntime_qnn",
    "qnn_tool.py",
    "MOTRLAB_QNN_PYTHON",
    "pip install 'motrlab[qnn]' (100 MB, Qualcomm's licence), or set MOTRLAB_QNN_PYTHON to a Python that has it",
)
# A chip has to be named. Snapdragon 8 Gen 2 (SM8550); others are in Qualcomm's table of SoC models.
OPTIONS = {"soc_model": "43", "htp_arch": "73"}


def compile_qnn(
    artifact: Path, folder: Path, options: Mapping[str, str], seconds: MutableMapping[str, float]
) -> dict[str, str]:
    """Writes `GRAPH.qdq.onnx`, `GRAPH.context.onnx` and its binary. Returns versions of the tool.

    `options`: of ONNX Runtime's QNN provider; `seconds` gets those of each graph. Raises UserError where the package is
    missing or fails.
    """
    versions: dict[str, str] = json.loads(TOOL.run("versions").splitlines()[-1])
    for graph in OUTPUTS:
        started = time.perf_counter()
        model = qdq_form(float_form(onnx.load(artifact / f"{graph}.onnx")))
        save_onnx(model, folder / f"{graph}.qdq.onnx")
        context = folder.resolve() / f"{graph}.context.onnx"
        TOOL.run("compile", str(folder / f"{graph}.qdq.onnx"), str(context), json.dumps(dict(options)))
        seconds[graph] = time.perf_counter() - started
    return versions


@dataclass
class SimulatedNetwork:
    """A context binary on the simulator: inputs by name → outputs, in a process of its own."""

    outputs: Sequence[str]
    process: subprocess.Popen[bytes]
    connection: Connection
    printed: IO[str]

    def __call__(self, inputs: dict[str, Array]) -> list[Array]:
        """Raises UserError with the simulator's last line where it fails."""
        try:
            self.connection.send((list(self.outputs), inputs))
            found: list[Array] = self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.wait()
            self.printed.seek(0)
            raise TOOL.failed(self.process.returncode, self.printed.read()) from error
        return found


@contextlib.contextmanager
def simulated_networks(folder: Path, options: Mapping[str, str]) -> Iterator[list[SimulatedNetwork]]:
    """`base` and `qim` of a folder that `compile_qnn` wrote."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_simulated(folder / f"{g}.context.onnx", o, options)) for g, o in OUTPUTS.items()]


@contextlib.contextmanager
def _simulated(context: Path, outputs: Sequence[str], options: Mapping[str, str]) -> Iterator[SimulatedNetwork]:
    ours, theirs = Pipe()
    number = theirs.fileno()
    command = TOOL.command("run", str(context.resolve()), str(number), json.dumps(dict(options)))
    with ours, tempfile.TemporaryFile("w+", errors="replace") as printed:
        process = subprocess.Popen(command, pass_fds=[number], stdout=subprocess.DEVNULL, stderr=printed)
        theirs.close()
        try:
            yield SimulatedNetwork(outputs, process, ours, printed)
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def simulated_runtime(runtime: Runtime, folder: Path, options: Mapping[str, str]) -> Iterator[Runtime]:
    """The tracker of an artefact with its graphs on the simulator."""
    with simulated_networks(folder, options) as (base, qim):
        yield replace(runtime, graphs=replace(runtime.graphs, base_network=base, qim_network=qim, exact=False))
