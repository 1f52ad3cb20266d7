"""How the runtimes are asked for kernels that are exact on the processor at hand.

On x86 without VNNI the fast product of uint8 activations and int8 weights adds pairs of 8-bit products in int16 and
saturates (vpmaddubsw: 2 · 255 · 127 is twice what fits), in ONNX Runtime and in OpenVINO. Neither says so.
ONNX Runtime is given uint8 weights there (`unsigned_weights`), whose kernels widen first; its own option for that
(session.x64quantprecision) leaves some products out, and refuses constants that several products share. OpenVINO has
no such form: it is given products of float32 values (`plain.py`), whose sums are exact up to 2²⁴.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from motrlab.machine import may_saturate

if TYPE_CHECKING:
    import onnx
    import onnxruntime


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


def onnxruntime_options(num_threads: int) -> onnxruntime.SessionOptions:
    """All optimisations, `num_threads` threads within a node, one node at a time, quiet.

    Threads spin while a graph runs, and sleep between runs: each graph has a pool of its own, and those would spin
    against each other.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def openvino_options(num_threads: int) -> dict[str, Any]:
    """Lowest latency on `num_threads` threads. Float parts would run in bf16 if float32 were not asked for."""
    return {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": num_threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
