"""Horizon's hb_compile (Journey 6, D-Robotics S100): float graphs, calibration folders and a YAML for each graph."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from motrlab.deploy.encodings import FloatForm, opset_19
from motrlab.deploy.handover.package import Package, encodings_text

_DEFAULT = "nash-m"
_STEPS = """## Use

```
hb_compile -c base.yaml
hb_compile -c qim.yaml
```

Chip: {march}, `march` in both YAML files. Inputs are feature maps as the float graphs take them: the image is
(YUV - 128) / 128, YUV 4:4:4 of BT.601 full range, so its int8 values are the bytes minus 128.

The YAML follows what Horizon's OE-Skills (github.com/HorizonRobotics/OE-Skills, `horizon-tc-ui`) says of hb_compile's
checks: several inputs need `input_name`, one value for each input in every list, a calibration folder for each, in that
order, with samples that have its shape. `cal_data_type` says that they are float32: some versions of the tool take
bytes for granted where it is missing, newer ones read the type from `.npy` and call the key deprecated. 20 to 100
samples are advised. The keys of `quant_config_*.json` (`all_node_type`, `qtype`) are those of public files for nash-e
and nash-p: D-Robotics' model zoo, repositories of users.

hb_compile finds its own scales from the samples; it takes none of ours. `quant_config_*.json` asks for int16 where our
integers have it. The compiler splits and joins nodes: for those that it reports as unknown, take their names from its
`*_optimized_float_model.onnx`. The `.encodings` are for comparing its scales with ours.
"""


def write(package: Package) -> None:
    march = package.chip or _DEFAULT
    folders = package.calibration()
    for graph, form in package.forms.items():
        package.save(f"{graph}.float.onnx", opset_19(form.model))
        package.write(f"{graph}.encodings", encodings_text(form.encodings))
        package.write(f"quant_config_{graph}.json", json.dumps(quant_config(form), indent=2) + "\n")
        package.write(f"{graph}.yaml", yaml_text(config(graph, form.model, march, list(folders[graph].items()))))
    package.expectations()
    package.readme("Hand-over to Horizon's hb_compile", _STEPS.format(march=march))


def config(
    graph: str, model: onnx.ModelProto, march: str, folders: Sequence[tuple[str, str]]
) -> dict[str, dict[str, Any]]:
    """The YAML of a graph; what belongs to an input stands in the order of `folders`, apart by semicolons."""
    sizes = {i.name: "x".join(str(d.dim_value) for d in i.type.tensor_type.shape.dim) for i in model.graph.input}
    names = [name for name, _ in folders]
    return {
        "model_parameters": {
            "onnx_model": f"./{graph}.float.onnx",
            "march": march,
            "output_model_file_prefix": graph,
            "working_dir": f"./{graph}_output",
        },
        "input_parameters": {
            "input_name": ";".join(names),
            "input_shape": ";".join(sizes[name] for name in names),
            "input_type_rt": ";".join("featuremap" for _ in names),
            "input_type_train": ";".join("featuremap" for _ in names),
            "input_layout_train": ";".join("NCHW" for _ in names),
            "norm_type": ";".join("no_preprocess" for _ in names),
        },
        "calibration_parameters": {
            "cal_data_dir": ";".join(f"./{folder}" for _, folder in folders),
            "cal_data_type": ";".join("float32" for _ in folders),
            "quant_config": f"./quant_config_{graph}.json",
        },
        "compiler_parameters": {"compile_mode": "latency", "core_num": 1, "optimize_level": "O2"},
    }


def quant_config(form: FloatForm) -> dict[str, Any]:
    """int8 but for the nodes whose results have 16 bits."""
    wide = [n.name for n in form.model.graph.node if form.encodings[n.output[0]].dtype == "int16"]
    return {"model_config": {"all_node_type": "int8"}, "node_config": {name: {"qtype": "int16"} for name in wide}}


def yaml_text(values: Mapping[str, Mapping[str, Any]]) -> str:
    """Two levels; strings in JSON's quotes, which are YAML's."""
    sections = (
        "\n".join([f"{name}:", *(f"  {key}: {json.dumps(value)}" for key, value in section.items())])
        for name, section in values.items()
    )
    return "\n".join(sections) + "\n"
