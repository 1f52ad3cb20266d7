"""What a graph holds in memory as a runtime executes it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from motrlab.deploy.executed import executed_memory
from motrlab.deploy.perf import record_inputs
from motrlab.deploy.profiling import profile_graph
from motrlab.deploy.runtime import load_artifact


@pytest.mark.parametrize(("backend", "graph"), [("onnxruntime", "base"), ("onnxruntime", "qim"), ("openvino", "qim")])
def test_memory_is_that_of_the_files_tensors(backend: str, graph: str, artifact: Path, images: Any) -> None:
    file = artifact / f"{graph}.ort.onnx"
    inputs = record_inputs(load_artifact(artifact), images[:1])
    costs = profile_graph(file, graph, inputs[graph], 1, backend=backend)
    found = executed_memory(file, graph, costs, backend)
    body = onnx.load(file).graph
    for side, ends in (("inputs", body.input), ("outputs", body.output)):
        types = [item.type.tensor_type for item in ends]
        sizes = [math.prod(d.dim_value for d in t.shape.dim) * item_bytes(t.elem_type) for t in types]
        assert found[f"{side}_bytes"] == sum(sizes)
    weights = sum(math.prod(i.dims) * item_bytes(i.data_type) for i in body.initializer)
    # OpenVINO runs the plain form, whose integers travel in float32.
    low, high = (0.9, 1.1) if backend == "onnxruntime" else (3.0, 4.5)
    assert low * weights < found["weights_bytes"] < high * weights
    names, curve = [c.layer.name for c in costs], dict(found["curve"])
    assert set(curve) <= set(range(len(costs)))
    if backend == "onnxruntime":  # all steps are profiled; those of OpenVINO depend on the processor
        assert list(curve) == list(range(len(costs)))
        assert max(curve.values()) == found["peak_bytes"] == curve[names.index(found["peak_layer"])]
        largest = max(t.num_bytes for c in costs for t in c.layer.outputs if not t.end)
        assert largest <= found["intermediate_bytes"] <= sum(t.num_bytes for c in costs for t in c.layer.outputs)
    parts = [found[f"{part}_bytes"] for part in ("inputs", "outputs", "weights", "intermediate")]
    assert found["total_bytes"] == sum(parts)


def item_bytes(kind: int) -> int:
    return int(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).itemsize)
