"""Networks on the two runtimes, on kernels that are exact on the processor at hand.

On x86 without VNNI the fast product of uint8 activations and int8 weights adds pairs of 8-bit products in int16 and
saturates (vpmaddubsw: 2 · 255 · 127 is twice what fits), in ONNX Runtime and in OpenVINO. Neither says so.
ONNX Runtime is given uint8 weights there (`unsigned_weights`), whose kernels widen first; its own option for that
(session.x64quantprecision) leaves some products out, and refuses constants that several products share. OpenVINO has
no such form: it is given products of float32 values (`plain.py`), whose sums are exact up to 2²⁴.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from motrlab.errors import UserError
from motrlab.machine import may_saturate

if TYPE_CHECKING:
    import onnx
    import onnxruntime

Array = NDArray[Any]
Network = Callable[[dict[str, Array]], list[Array]]  # inputs by name → outputs in the order asked for
BACKENDS = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}  # and what they are called


def load_network(
    model: Path | onnx.ModelProto,
    outputs: Sequence[str],
    num_threads: int,
    backend: str = "onnxruntime",
    *,
    weight_bits: int = 8,
) -> Network:
    """An ONNX file, or a model named after one, on one of `BACKENDS`. Raises UserError if it fails."""
    try:
        if backend == "openvino":
            return _on_openvino(model, outputs, num_threads)
        session = onnxruntime_session(exact_form(model, weight_bits), num_threads)
    except Exception as error:  # onnx and both runtimes have classes of their own
        reason = (str(error).splitlines() or [""])[0]
        name = model if isinstance(model, Path) else model.graph.name
        raise UserError(f"{name}: {BACKENDS[backend]} cannot load it ({reason}); convert the run again") from error
    return lambda inputs: session.run(list(outputs), inputs)


def onnxruntime_session(content: str | bytes, num_threads: int, **options: Any) -> onnxruntime.InferenceSession:
    """A file's path or a model's bytes on ONNX Runtime's CPU kernels; `options`: more of its `SessionOptions`.

    By default all optimisations, `num_threads` threads within a node, one node at a time, quiet. Threads spin while a
    graph runs, and sleep between runs: each graph has a pool of its own, and those would spin against each other.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = num_threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3  # errors
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    for name, value in options.items():
        setattr(settings, name, value)
    return onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])


def _on_openvino(model: Path | onnx.ModelProto, outputs: Sequence[str], num_threads: int) -> Network:
    """On the CPU plugin; kernels of ONNX Runtime in plain operators. Lowest latency.

    Float parts would run in bf16 if float32 were not asked for.
    """
    import onnx

    from motrlab.deploy.plain import plain_form

    own = onnx.load(model) if isinstance(model, Path) else model
    if any(node.domain for node in own.graph.node):
        own = plain_form(own)
    core, hints = _openvino_core(), {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    options = hints | {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": num_threads}
    request = core.compile_model(core.read_model(own.SerializeToString()), "CPU", options).create_infer_request()

    def run(inputs: dict[str, Array]) -> list[Array]:
        found = request.infer({name: np.ascontiguousarray(value) for name, value in inputs.items()})
        return [np.array(found[name]) for name in outputs]  # the request's own buffers are overwritten next time

    return run


@cache
def _openvino_core() -> Any:
    """The one `openvino.Core` of the process, kept for good.

    The CPU plugin of a Core gives its thread a stack for signal handlers, and unmaps it when the Core goes. Of two that
    go in the order in which they came, the second puts the unmapped one back: the next signal that Python handles
    (Ctrl-C, the SIGCHLD of torch's DataLoader) is a segmentation fault. Seen with 2026.4.1 (docs/LOG.md).
    """
    import openvino

    return openvino.Core()


def exact_form(model: Path | onnx.ModelProto, weight_bits: int = 8) -> str | bytes:
    """What ONNX Runtime is given of a file or a model, so that it computes its products exactly here.

    `weight_bits`: with 7, two products of bytes always fit into int16, and the fast kernels are exact everywhere.
    """
    saturates = weight_bits > 7 and may_saturate()  # not elsewhere: VNNI kernels want signed weights
    if isinstance(model, Path) and not saturates:
        return str(model)
    import onnx

    own = onnx.load(model) if isinstance(model, Path) else copy.deepcopy(model)
    content: bytes = (unsigned_weights(own) if saturates else own).SerializeToString()
    return content


def unsigned_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """`model` itself, with every int8 constant (weights, and all zero points) as uint8, 128 more: the same values."""
    from onnx import TensorProto, numpy_helper

    for constant in model.graph.initializer:
        if constant.data_type == TensorProto.INT8:
            value = numpy_helper.to_array(constant)
            constant.CopyFrom(numpy_helper.from_array(value.view(np.uint8) ^ np.uint8(128), constant.name))
    return model
