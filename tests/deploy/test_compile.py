"""Compiled files give the artefact's bits when they are loaded again; what cannot be compiled is one line."""

from __future__ import annotations

import hashlib
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from motrlab.__main__ import main
from motrlab.deploy import compile as compiling
from motrlab.deploy.compile import Compiler, Job, compile_artifact, sqnr
from motrlab.deploy.runtime import OUTPUTS, load_artifact
from motrlab.deploy.samples import random_sample
from motrlab.errors import UserError
from tests.deploy.conftest import Image

FILES = {
    "onnxruntime-cpu": ["base.optimised.onnx", "qim.optimised.onnx"],
    "openvino-cpu": ["base.blob", "qim.blob"],
}


@pytest.mark.parametrize("target", FILES)
def test_hosts(target: str, artifact: Path, images: list[Image], tmp_path: Path) -> None:
    out = tmp_path / "out"
    told = compile_artifact(artifact, target, out, images=images)
    assert json.loads((out / "compile.json").read_text()) == told
    assert list(told["files"]) == FILES[target]
    for name, file in told["files"].items():
        content = (out / name).read_bytes()
        assert file == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        assert told["checked"][name] == "equal on 8 samples"
    assert told["seconds"].keys() == OUTPUTS.keys()
    assert told["made_from"]["manifest.json"] == hashlib.sha256((artifact / "manifest.json").read_bytes()).hexdigest()
    assert {"onnxruntime", "openvino"} <= told["versions"].keys()


def test_the_benchmark_holds_hosts_to_time_and_size(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    benchmark = importlib.import_module("compile_hosts")
    monkeypatch.setattr(sys, "argv", ["compile_hosts.py", "--artifact", str(artifact)])
    with pytest.raises(SystemExit, match="0"):
        benchmark.main()
    monkeypatch.setattr(benchmark, "HOSTS", ["onnxruntime-cpu"])
    monkeypatch.setattr(benchmark, "SECONDS", 0.0)
    with pytest.raises(SystemExit, match="1"):
        benchmark.main()
    printed = capsys.readouterr().out
    assert all(f"  {name}: " in printed for names in FILES.values() for name in names)
    assert printed.count("MB, equal on 6 samples") == 6


def test_native_kernels_say_how_far_they_agree(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compile", "--artifact", str(artifact), "--target", "openvino-cpu", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--native"]) == 0
    checked = json.loads((tmp_path / "out" / "compile.json").read_text())["checked"]
    assert list(checked) == [f"{g}.blob: {name}" for g, names in OUTPUTS.items() for name in names]
    for found in checked.values():
        assert found["sqnr_db"] > 10
        assert 0 <= found["equal"] < 1
    printed = capsys.readouterr().out
    assert f"{checked['qim.blob: updated_query']['sqnr_db']:.1f} dB against the artefact" in printed
    assert printed.splitlines()[-1] == str(tmp_path / "out" / "compile.json")


def test_other_bits_are_not_let_through(artifact: Path, tmp_path: Path) -> None:
    runtime = load_artifact(artifact)
    job = Job(artifact, tmp_path, runtime, [random_sample(runtime, 0)])
    job.require_equal("qim", "good", runtime.graphs.qim_network)
    with pytest.raises(RuntimeError, match="bad: loaded again, its outputs differ"):
        job.require_equal("qim", "bad", lambda x: [runtime.graphs.qim_network(x)[0] + np.float32(1e-6)])


def test_a_failing_compiler_leaves_nothing(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiler(job: Job) -> None:
        (job.folder / "half").touch()
        raise UserError("out of memory")

    monkeypatch.setitem(compiling.COMPILERS, "qnn-htp", Compiler(compiler))
    with pytest.raises(UserError, match="out of memory"):
        compile_artifact(artifact, "qnn-htp", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_is_one_entry(artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiler(job: Job) -> None:
        (job.folder / "base.mine").write_text(job.options["level"])

    monkeypatch.setitem(compiling.COMPILERS, "mine", Compiler(compiler, takes_options=True))
    option = ["--option", "level=3", "--out", str(tmp_path / "out")]
    assert main(["compile", "--artifact", str(artifact), "--target", "mine", *option]) == 0
    assert (tmp_path / "out" / "base.mine").read_text() == "3"
    assert "base.mine" in json.loads((tmp_path / "out" / "compile.json").read_text())["files"]


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("nothing", r"unknown target 'nothing'; use one of .*openvino-cpu"),
        ("horizon-j6m", r"hb_compile nash-m compiles for it.*handover --run NAME --target horizon-j6m"),
        ("ethos-u85", r"vela .* compiles for it.*handover --run NAME --target ethos-u85"),
        ("gone.json", r"gone\.json: no such target file"),
    ],
)
def test_targets_that_nothing_here_compiles_for(
    target: str, told: str, artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compile", "--artifact", str(artifact), "--target", target]) == 2
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    with pytest.raises(UserError, match=told):
        compiling.compiler_of(target)


def test_options_of_another_target(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--native is for openvino-cpu"):
        compile_artifact(artifact, "onnxruntime-cpu", tmp_path, native=True)
    with pytest.raises(UserError, match="takes no options of a vendor's compiler"):
        compile_artifact(artifact, "onnxruntime-cpu", tmp_path, options={"soc_model": "43"})
    with pytest.raises(UserError, match="rk3588: unknown option 'soc_model'; there is target_platform"):
        compile_artifact(artifact, "rk3588", tmp_path / "out", options={"soc_model": "43"})


def test_a_folder_of_somebody_else_is_kept(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not written by motrlab"):
        compile_artifact(artifact, "onnxruntime-cpu", tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("change", ["changed", "cut", "missing"])
def test_a_damaged_artefact(change: str, make_artifact: Callable[[Path], Path], tmp_path: Path) -> None:
    file = make_artifact(tmp_path / "artifact") / "base.ort.onnx"
    content = {"changed": file.read_bytes()[:-1] + b"x", "cut": file.read_bytes()[:100], "missing": b""}[change]
    file.write_bytes(content) if content else file.unlink()
    with pytest.raises(UserError, match=r"base\.ort\.onnx: (its hash differs|missing)"):
        compile_artifact(tmp_path / "artifact", "onnxruntime-cpu", tmp_path / "out")


class Vendor:
    """A Python whose `rknn` is ours."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.package, self.monkeypatch = folder / "rknn", monkeypatch
        monkeypatch.setenv("MOTRLAB_RKNN_PYTHON", sys.executable)
        monkeypatch.setenv("PYTHONPATH", str(folder))

    def install(self, build: str) -> None:
        self.package.mkdir()
        (self.package / "__init__.py").touch()
        (self.package / "api.py").write_text(
            "import pathlib\nclass RKNN:\n    def __init__(self, verbose): pass\n    def release(self): pass\n"
            "    def config(self, target_platform): assert target_platform == 'rk3588'\n"
            "    def load_onnx(self, model): return 0 if pathlib.Path(model).stat().st_size else 1\n"
            f"    def build(self, do_quantization):\n        {build}\n"
            "    def export_rknn(self, path): return 0 if pathlib.Path(path).write_bytes(b'rknn') else 1\n"
        )
        info = self.package.with_name("rknn_toolkit2-9.dist-info")
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rknn-toolkit2\nVersion: 9\n")


@pytest.fixture
def vendor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Vendor:
    return Vendor(tmp_path / "vendor", monkeypatch)


def test_a_vendors_tool_in_a_python_of_its_own(vendor: Vendor, artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "vendor").mkdir()
    vendor.install("return 0")
    told = compile_artifact(artifact, "rk3588", tmp_path / "out")
    assert list(told["files"]) == ["base.float.onnx", "base.rknn", "qim.float.onnx", "qim.rknn"]
    assert (tmp_path / "out" / "base.rknn").read_bytes() == b"rknn"
    assert told["versions"]["rknn-toolkit2"] == "9"


def test_its_last_line_is_passed_on(vendor: Vendor, artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "vendor").mkdir()
    vendor.install("import sys; print('E build: GridSample', file=sys.stderr); sys.exit(3)")
    with pytest.raises(UserError, match=r"^Rockchip's compiler failed \(status 3\): E build: GridSample$"):
        compile_artifact(artifact, "rk3588", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tool_that_is_missing(
    vendor: Vendor, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"has no package rknn; .*pip install rknn-toolkit2"):
        compile_artifact(artifact, "rk3588", tmp_path / "out")
    monkeypatch.setenv("MOTRLAB_QNN_PYTHON", str(tmp_path / "python"))
    with pytest.raises(UserError, match=r"MOTRLAB_QNN_PYTHON=.*: no such program"):
        compile_artifact(artifact, "qnn-htp", tmp_path / "out")


def test_signal_to_noise() -> None:
    assert sqnr(np.array([1.0, 0.0]), np.array([1.0, 0.0])) == float("inf")
    assert sqnr(np.array([1.1]), np.array([1.0])) == pytest.approx(20)
