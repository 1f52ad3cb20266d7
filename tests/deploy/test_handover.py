"""Hand-over folders are complete and readable, and what stands in them belongs together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml

from motrlab.deploy.compile import sqnr
from motrlab.deploy.encodings import float_tensors
from motrlab.deploy.handover import TOOLCHAINS, toolchain_of, writer_of
from motrlab.deploy.handover.package import Package
from motrlab.deploy.kernels import onnxruntime_session
from motrlab.deploy.runtime import INPUTS, OUTPUTS, load_artifact
from motrlab.deploy.samples import closed_loop
from motrlab.deploy.target import load_target, target_names
from motrlab.errors import UserError
from tests.deploy.conftest import FixedPoint, Image

Make = Callable[..., Path]
SAMPLES, FRAMES = 4, 3


@pytest.fixture(scope="module")
def hand_over(fixed_point: FixedPoint, images: list[Image], tmp_path_factory: pytest.TempPathFactory) -> Make:
    """`hand_over("aimet")`: its folder."""
    samples = [s for s in closed_loop(load_artifact(fixed_point.artifact), images) if s.num_tracks]
    assert len(samples) >= SAMPLES + FRAMES

    def make(toolchain: str, chip: str = "") -> Path:
        folder = tmp_path_factory.mktemp(toolchain)
        given = samples[:SAMPLES], samples[-FRAMES:]
        writer_of(toolchain)(Package(folder, fixed_point.artifact, *given, "run test", chip))
        return folder

    return make


@pytest.mark.parametrize("toolchain", TOOLCHAINS)
def test_a_folder_has_all_that_its_readme_names(toolchain: str, hand_over: Make) -> None:
    folder = hand_over(toolchain)
    text = (folder / "README.md").read_text(encoding="utf-8")
    names = {p.name for p in folder.iterdir()} - {"README.md"}
    assert [name for name in sorted(names) if f"- `{name}`: " not in text] == []
    assert {"base.float.onnx", "base.encodings", "qim.float.onnx", "qim.encodings", "calibration", "expected"} <= names
    for graph, inputs in INPUTS.items():
        model = onnx.load(folder / f"{graph}.float.onnx")
        shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
        assert tuple(shapes) == inputs
        for name, shape in shapes.items():
            files = sorted((folder / "calibration" / graph / name).iterdir())
            assert len(files) == SAMPLES
            for file in files:
                array = np.load(file) if file.suffix == ".npy" else np.fromfile(file, np.float32).reshape(shape)
                assert (list(array.shape), array.dtype) == (shape, np.float32)
                assert not name.endswith("mask") or array.sum() > 0  # frames that have tracks


@pytest.mark.parametrize("toolchain", TOOLCHAINS)
def test_expected_outputs_come_out_of_the_float_file(toolchain: str, hand_over: Make) -> None:
    folder = hand_over(toolchain)
    frames = [np.load(file) for file in sorted((folder / "expected").iterdir())]
    assert len(frames) == FRAMES
    told: dict[str, list[str]] = {}
    for graph, outputs in OUTPUTS.items():
        session = onnxruntime_session(str(folder / f"{graph}.float.onnx"), 1)
        for frame in frames:
            found = session.run(list(outputs), {name: frame[f"{graph}.{name}"] for name in INPUTS[graph]})
            for name, values in zip(outputs, found, strict=True):
                noise = sqnr(values, frame[f"{graph}.{name}"])
                assert noise > 15, name
                told.setdefault(f"`{graph}.{name}`: ", []).append(f"{noise:.1f}")
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert [line for line in text.splitlines() if line.startswith("- `") and " dB" in line] == [
        f"- {name}{', '.join(noises)} dB" for name, noises in told.items()
    ]


@pytest.mark.parametrize("toolchain", TOOLCHAINS)
def test_encodings_are_of_every_tensor_and_keep_to_the_schema(toolchain: str, hand_over: Make) -> None:
    folder = hand_over(toolchain)
    for graph in OUTPUTS:
        read = json.loads((folder / f"{graph}.encodings").read_text(encoding="utf-8"))
        assert read.keys() == {"version", "producer", "encodings"}
        assert read["version"] == "2.0.0"
        model = onnx.load(folder / f"{graph}.float.onnx")
        assert sorted(row["name"] for row in read["encodings"]) == sorted(float_tensors(model))
        sizes = {i.name: list(i.dims) for i in model.graph.initializer}
        for row in read["encodings"]:
            assert row.keys() - {"axis"} == {"name", "output_dtype", "y_scale"}
            assert row["output_dtype"] in ("int8", "uint8", "int16", "int32")
            if "axis" in row:
                assert len(row["y_scale"]) == sizes[row["name"]][row["axis"]]
            assert np.all(np.array(row["y_scale"]) > 0)


def test_horizons_yaml(hand_over: Make) -> None:
    """The structure of the public description: sections, their keys, and lists that go with the inputs."""
    folder = hand_over("horizon", "nash-e")
    known = {
        "model_parameters": {"onnx_model", "march", "output_model_file_prefix", "working_dir"},
        "input_parameters": {
            "input_name", "input_shape", "input_type_rt", "input_type_train", "input_layout_train", "norm_type",
        },
        "calibration_parameters": {"cal_data_dir", "cal_data_type", "quant_config"},
        "compiler_parameters": {"compile_mode", "core_num", "optimize_level"},
    }  # fmt: skip
    for graph, inputs in INPUTS.items():
        read = yaml.safe_load((folder / f"{graph}.yaml").read_text(encoding="utf-8"))
        assert {section: set(values) for section, values in read.items()} == known
        assert read["model_parameters"]["march"] == "nash-e"
        model = onnx.load(folder / read["model_parameters"]["onnx_model"])
        assert model.opset_import[0].version == 19
        lists = {key: value.split(";") for key, value in read["input_parameters"].items()}
        assert tuple(lists["input_name"]) == inputs
        assert {len(found) for found in lists.values()} == {len(inputs)}
        shapes = ["x".join(str(d.dim_value) for d in i.type.tensor_type.shape.dim) for i in model.graph.input]
        assert lists["input_shape"] == shapes
        folders = read["calibration_parameters"]["cal_data_dir"].split(";")
        assert [Path(f).name for f in folders] == list(inputs)
        assert all((folder / f).is_dir() for f in folders)
        nodes = json.loads((folder / read["calibration_parameters"]["quant_config"]).read_text())["node_config"]
        assert nodes
        assert nodes.keys() <= {node.name for node in model.graph.node}


def test_horizons_calibration_folders_pass_the_checks_of_the_tool(hand_over: Make) -> None:
    """Those that Horizon publishes (OE-Skills, `horizon-tc-ui`, errors of YAML and calibration), in our words."""
    folder = hand_over("horizon", "nash-m")
    for graph in INPUTS:
        read = yaml.safe_load((folder / f"{graph}.yaml").read_text(encoding="utf-8"))
        given = {k: v.split(";") for k, v in read["input_parameters"].items()}
        calibration = read["calibration_parameters"]
        places, types = (calibration[key].split(";") for key in ("cal_data_dir", "cal_data_type"))
        inputs = {i.name for i in onnx.load(folder / f"{graph}.float.onnx").graph.input}
        assert sorted(given["input_name"]) == sorted(inputs)
        assert {len(values) for values in (*given.values(), places, types)} == {len(inputs)}
        assert set(types) == {"float32"}  # of uint8 and float32
        assert not [p for p in places if p.endswith("_uint8")]  # a name that says another type is refused
        assert set(given["input_type_rt"] + given["input_type_train"]) == {"featuremap"}  # of any rank
        assert set(given["input_layout_train"]) <= {"NCHW", "NHWC"}
        assert not {"mean_value", "scale_value", "std_value"} & given.keys()  # not for feature maps
        names = []
        for place, shape in zip(places, given["input_shape"], strict=True):  # relative to the YAML
            files = sorted((folder / place).iterdir())
            arrays = [np.load(file) for file in files]
            assert {(a.dtype, "x".join(map(str, a.shape))) for a in arrays} == {(np.dtype(np.float32), shape)}
            names.append([file.name for file in files])
        assert names == [names[0]] * len(places)  # the same sample under the same name
        limits = {"core_num": [1], "optimize_level": ["O0", "O1", "O2"], "compile_mode": ["latency", "bandwidth"]}
        assert all(read["compiler_parameters"][key] in allowed for key, allowed in limits.items())


def test_qnns_lists_name_files_that_are_there(hand_over: Make) -> None:
    folder = hand_over("qnn")
    for graph, inputs in INPUTS.items():
        lines = (folder / f"{graph}.txt").read_text().splitlines()
        assert len(lines) == SAMPLES
        for line in lines:
            pairs = dict(pair.split(":=") for pair in line.split())
            assert tuple(pairs) == inputs
            assert all((folder / path).is_file() for path in pairs.values())
        kinds = {node.op_type for node in onnx.load(folder / f"{graph}.qdq.onnx").graph.node}
        assert {"QuantizeLinear", "DequantizeLinear"} <= kinds


def test_who_compiles_for_a_target() -> None:
    found = {name: toolchain_of(load_target(name)) for name in target_names() if not name.endswith("-cpu")}
    assert {name for name, toolchain in found.items() if toolchain == "horizon"} == {f"horizon-j6{x}" for x in "emp"}
    assert [name for name, toolchain in found.items() if toolchain == "qnn"] == ["qnn-htp"]
    assert set(found.values()) == {"horizon", "qnn", "onnx"}
    with pytest.raises(UserError, match="openvino-cpu is a host: `python -m motrlab compile --target openvino-cpu`"):
        toolchain_of(load_target("openvino-cpu"))
    with pytest.raises(UserError, match="unknown toolchain 'tensorrt'; use one of aimet, horizon, qnn, onnx"):
        writer_of("tensorrt")
