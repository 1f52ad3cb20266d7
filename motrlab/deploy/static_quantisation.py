"""ONNX Runtime's own post-training quantisation (`quantize_static`) of our fp32 graphs, to compare ours with.

As its documentation advises for x86: quantiser pairs, activations uint8, weights int8 by channel, ranges from the
smallest to the largest value of the samples; weights of 7 bits where 8-bit products may saturate (its `reduce_range`).
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from motrlab.deploy.kernels import Array
from motrlab.machine import may_saturate

Samples = Mapping[str, Sequence[Mapping[str, Array]]]


def quantize_static_graphs(floats: Path, samples: Samples, folder: Path, method: str = "MinMax") -> Path:
    """Quantise `base.onnx` and `qim.onnx` of `floats` into `folder`, which is returned.

    `samples`: for `base` and `qim` inputs by name, float32, as the closed loop of the float graphs has them. `method`:
    a name of its `CalibrationMethod`.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self, inputs: Sequence[Mapping[str, Array]]) -> None:
            self._rows = iter(inputs)

        def get_next(self) -> dict[str, Array] | None:
            row = next(self._rows, None)
            return None if row is None else dict(row)

    folder.mkdir(parents=True, exist_ok=True)
    with _quiet():
        for graph, inputs in samples.items():
            prepared = folder / f"{graph}.prepared.onnx"
            quant_pre_process(floats / f"{graph}.onnx", prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                folder / f"{graph}.onnx",
                Reader(inputs),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                reduce_range=may_saturate(),
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod[method],
            )
            prepared.unlink()
    return folder


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """It recommends at length in the log, and prints where our JSON goes."""
    log = logging.getLogger()
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        log.setLevel(level)
