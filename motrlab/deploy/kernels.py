"""Networks on the two runtimes, on kernels that are exact on the processor at hand.

On x86 without VNNI the fast product of uint8 activations and int8 weights adds pairs of 8-bit products in int16 and
saturates (vpmaddubsw: 2 · 255 · 127 is twice what fits), in ONNX Runtime and in OpenVINO. Neither says so.
ONNX Runtime is given uint8 weights there (`unsigned_weights`), whose kernels widen first; its own option for that
(session.x64quantprecision) leaves some products out, and refuses constants that several products share. OpenVINO has
no such form: it is given products of float32 values (`plain.py`), whose sums are exact up to 2²⁴.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
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
    import openvino

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
    options: Mapping[str, Any] | None = None,
) -> Network:
    """An ONNX file, or a model named after one, on one of `BACKENDS`. Raises UserError if it fails.

    `options`: more for ONNX Runtime (`onnxruntime_session`).
    """
    try:
        if backend == "openvino":
            return openvino_network(openvino_model(model, num_threads), outputs)
        session = onnxruntime_session(exact_form(model, weight_bits), num_threads, **(options or {}))
    except UserError:
        raise
    except Exception as error:  # onnx and both runtimes have classes of their own
        reason = (str(error).splitlines() or [""])[0]
        name = model if isinstance(model, Path) else model.graph.name
        raise UserError(f"{name}: {BACKENDS[backend]} cannot load it ({reason}); convert the run again") from error
    return lambda inputs: session.run(list(outputs), inputs)


def onnxruntime_session(
    content: str | bytes,
    num_threads: int,
    *,
    providers: Sequence[str | tuple[str, Mapping[str, Any]]] = ("CPUExecutionProvider",),
    **options: Any,
) -> onnxruntime.InferenceSession:
    """A file's path or a model's bytes on ONNX Runtime, by default on its CPU kernels, the only ones that are exact.

    `options`: more of its `SessionOptions`; a name with a dot is a config entry (`session.intra_op.allow_spinning`).
    Raises UserError for what this ONNX Runtime does not have.

    By default all optimisations, `num_threads` threads within a node, one node at a time, quiet. Threads spin while a
    graph runs, and sleep between runs: each graph has a pool of its own, and those would spin against each other.
    Pairs of int8 stay int8: ONNX Runtime 1.31 would make them uint8 on x86, and then refuses the graph that it made.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = num_threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3  # errors
    for entry in ("session.force_spinning_stop", "session.qdqisint8allowed"):
        settings.add_session_config_entry(entry, "1")
    for name, value in options.items():
        if "." in name:
            settings.add_session_config_entry(name, str(value))
        elif hasattr(settings, name):
            setattr(settings, name, value)
        else:
            raise UserError(f"ONNX Runtime has no session option {name!r}; config entries have a dot in their name")
    names, there = [p if isinstance(p, str) else p[0] for p in providers], onnxruntime.get_available_providers()
    if missing := [name for name in names if name not in there]:
        raise UserError(f"this ONNX Runtime has no {', '.join(missing)}; it has {', '.join(there)}")
    return onnxruntime.InferenceSession(content, settings, providers=list(providers))


def openvino_model(model: Path | onnx.ModelProto | bytes, num_threads: int, **more: Any) -> openvino.CompiledModel:
    """Compiled for the CPU plugin at the lowest latency, kernels of ONNX Runtime in plain operators; of bytes that
    `export_model` gave, imported. `more`: its options. Float parts would run in bf16 if float32 were not asked for.
    """
    core, hints = _openvino_core(), {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    options = hints | {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": num_threads} | more
    if isinstance(model, bytes):
        return core.import_model(io.BytesIO(model), "CPU", options)
    import onnx

    from motrlab.deploy.plain import plain_form

    own = onnx.load(model) if isinstance(model, Path) else model
    if any(node.domain for node in own.graph.node):
        own = plain_form(own)
    return core.compile_model(core.read_model(own.SerializeToString()), "CPU", options)


def openvino_network(compiled: openvino.CompiledModel, outputs: Sequence[str]) -> Network:
    """A compiled model as a network."""
    request = compiled.create_infer_request()

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
    content: bytes = model.read_bytes() if isinstance(model, Path) else model.SerializeToString()
    return unsigned_weights(content) if saturates else content


def unsigned_weights(content: bytes) -> bytes:
    """An ONNX file with every int8 constant (weights, and all zero points) as uint8, 128 more: the same values.

    Read as `_FIELDS`, so that a robot needs no package `onnx`. Our files have their values in `raw_data`.
    """
    model = _onnx_model().FromString(content)
    for constant in model.graph.initializer:
        if constant.data_type == _INT8:
            constant.data_type = _UINT8
            constant.raw_data = bytes(np.frombuffer(constant.raw_data, np.uint8) ^ np.uint8(128))
    found: bytes = model.SerializeToString()
    return found


_INT8, _UINT8 = 3, 2  # TensorProto.DataType
# The part of onnx.proto that is read; protobuf, which ONNX Runtime brings along, keeps all other fields as they are.
_FIELDS = """
name: "part_of_onnx.proto" package: "motrlab"
message_type { name: "Model" field { name: "graph" number: 7 type: TYPE_MESSAGE type_name: ".motrlab.Graph" } }
message_type { name: "Graph" field { name: "initializer" number: 5 type: TYPE_MESSAGE type_name: ".motrlab.Tensor"
                                     label: LABEL_REPEATED } }
message_type { name: "Tensor" field { name: "data_type" number: 2 type: TYPE_INT32 }
                              field { name: "raw_data" number: 9 type: TYPE_BYTES } }
"""


@cache
def _onnx_model() -> Any:
    """The class of messages `Model` of `_FIELDS`."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(_FIELDS, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("motrlab.Model"))
