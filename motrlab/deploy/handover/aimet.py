"""AIMET: float graphs of opset 21 with encodings 2.0.0."""

from __future__ import annotations

from motrlab.deploy.handover.package import Package, encodings_text

_STEPS = """## Use

```python
import onnx
from aimet_onnx.quantsim import QuantizationSimModel, load_encodings_to_sim

sim = QuantizationSimModel(onnx.load("base.float.onnx"))
load_encodings_to_sim(sim, "base.encodings", strict=False)
```

The same for `qim`. aimet-onnx reads encodings 2.0.0 since version 2.22 (its release notes); Qualcomm's AI Hub Models
call `load_encodings_to_sim` with `strict=False`. An earlier form of these files was imported once, by aimet-onnx 2.42
(QIM: 23 of 23 scales came out again, base: 167 of 168); these very lines were not run.

Every tensor has its encoding. AIMET calibrates what has none without a word, so do not remove any.
"""


def write(package: Package) -> None:
    for graph, form in package.forms.items():
        package.save(f"{graph}.float.onnx", form.model)
        package.write(f"{graph}.encodings", encodings_text(form.encodings))
    package.calibration()
    package.expectations()
    package.readme("Hand-over to AIMET", _STEPS)
