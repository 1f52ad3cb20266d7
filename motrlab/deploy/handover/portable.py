"""Any tool that reads ONNX: float graphs, the same with quantiser pairs at every tensor, encodings, samples."""

from __future__ import annotations

from motrlab.deploy.handover.package import Package, encodings_text
from motrlab.deploy.qdq import qdq_form

_STEPS = """## Use

A tool that takes quantiser pairs: `GRAPH.qdq.onnx`, opset 21. There a pair stands at every tensor, also inside
functions (int16, scales are powers of two). A tool that quantises itself: `GRAPH.float.onnx`, with the grids of
`GRAPH.encodings` where it takes them, or calibrated on the samples.

A tool that stops at opset 19 (or 20) can take the float files with their opset relabelled; then GridSample's mode
`linear` is called `bilinear`. Nothing else that they use has changed since.
"""


def write(package: Package) -> None:
    for graph, form in package.forms.items():
        package.save(f"{graph}.float.onnx", form.model)
        package.save(f"{graph}.qdq.onnx", qdq_form(form, inner=True))
        package.write(f"{graph}.encodings", encodings_text(form.encodings))
    package.calibration()
    package.expectations()
    package.readme("Hand-over to tools that read ONNX", _STEPS)
