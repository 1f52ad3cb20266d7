"""Qualcomm: the quantiser pairs that HTP's compiler takes, encodings for the SDK's converter, raw samples."""

from __future__ import annotations

from motrlab.deploy.handover.package import Package, encodings_text
from motrlab.deploy.qdq import qdq_form

_STEPS = """## Use

With ONNX Runtime: `GRAPH.qdq.onnx` on its QNN provider, backend HTP, `disabled_optimizers=["WeightBiasQuantization"]`.
`python -m motrlab compile --run NAME --target qnn-htp` does that, and was run: one context binary for each graph.

With Qualcomm's SDK, in the folder:

```
qairt-converter --input_network base.float.onnx --quantization_overrides base.encodings --output_path base.dlc
qairt-quantizer --input_dlc base.dlc --input_list base.txt --output_dlc base_quantized.dlc
```

The options are those of Qualcomm's public pages "Qairt Converter" and "Qairt Quantizer" (80-63442): the converter
applies the encodings, the quantizer calibrates what has none, on `base.txt`, which lists the raw samples (float32), all
inputs of a sample in a line. They were not run: whether your SDK reads encodings 2.0.0 is not known. A graph each: the
same for `qim`.
"""


def write(package: Package) -> None:
    folders = package.calibration("raw")
    for graph, form in package.forms.items():
        package.save(f"{graph}.float.onnx", form.model)
        package.save(f"{graph}.qdq.onnx", qdq_form(form))
        package.write(f"{graph}.encodings", encodings_text(form.encodings))
        lines = (
            " ".join(f"{name}:={folder}/{number:03d}.raw" for name, folder in folders[graph].items())
            for number in range(len(package.samples))
        )
        package.write(f"{graph}.txt", "\n".join(lines) + "\n")
    package.expectations()
    package.readme("Hand-over to Qualcomm's QNN", _STEPS)
