"""The whole line, `smoke` made small: papermill on a fresh project, then all notebooks, then what they left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from motrlab.__main__ import main
from motrlab.data.store import FrameStore
from motrlab.deploy.artifact import verify_artifact
from motrlab.deploy.kernels import load_network
from motrlab.deploy.runtime import OnnxGraphs, load_artifact
from motrlab.evaluation.tracks import Tracks, read_tracks
from motrlab.run import Run

pytestmark = pytest.mark.slow  # `make notebooks-test` runs the notebooks as well
ROOT = Path(__file__).parents[2]
# A model that has learnt next to nothing: with these thresholds it still tracks something.
SMALL = (
    "street.num_frames=24 street.width=240 street.height=135 model.height=96 model.width=160 model.d_model=32"
    " model.num_heads=4 model.ffn_channels=64 model.decoder_layers=2 model.num_detect=24 model.num_track=16"
    " model.anchor_grid=[4,6] train.init= train.steps=2 train.late_entrant_clips=8 calibration.num_frames=6 qat.steps=2"
    " tracker.birth_score=0 tracker.miss_score=0 tracker.reset_score=0 tracker.output_score=0 tracker.min_area_px=0"
)
SCORES = ("mota", "idf1", "hota", "deta", "assa", "motp", "fp", "fn", "idsw", "num_gt")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder in which `papermill 04_qat.ipynb` was the first thing ever done, then all notebooks."""
    folder = tmp_path_factory.mktemp("chain")
    environment = {**os.environ, "MOTRLAB_HOME": str(folder)}
    out = folder / "out.ipynb"
    papermill = [sys.executable, "-m", "papermill", "04_qat.ipynb", str(out)]
    given = ["-p", "lr", "1e-4", "-p", "run", "chain", "-p", "set", SMALL]
    _run([*papermill, *given], ROOT / "notebooks", environment)
    (folder / "from_papermill.jsonl").write_bytes((folder / "runs/chain/records.jsonl").read_bytes())
    command = [sys.executable, "-m", "motrlab", "run", "--run", "chain", "-p", "07_compile_perf.repeats=3"]
    (folder / "stdout.txt").write_text(_run(command, ROOT, environment))
    return folder


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("MOTRLAB_HOME", str(home))
    return Run.open("chain", create=False)


def test_papermill_alone_builds_what_is_missing(home: Path) -> None:
    records = [json.loads(line) for line in (home / "from_papermill.jsonl").read_text().splitlines()]
    assert {r["stage"] for r in records} == {"data", "float", "calibration", "qat", "float_extra"}
    trained = [r for r in records if (r["stage"], r["kind"]) == ("qat", "training")]
    assert [r["config"]["qat"]["lr"] for r in trained] == [1e-4]


def test_last_line_is_the_report(home: Path) -> None:
    last = (home / "stdout.txt").read_text().splitlines()[-1]
    assert last == str(home / "reports" / "chain" / "index.html")
    assert "Three short videos." in Path(last).read_text()


@pytest.mark.parametrize("stage", ["float", "calibration", "qat", "fixed_point"])
def test_accuracy_of_every_stage(run: Run, stage: str) -> None:
    metrics = run.last_record(stage, "accuracy")["metrics"]  # type: ignore[index]
    for protocol in ("motchallenge", "hat"):
        assert all(f"{protocol}.{name}" in metrics for name in SCORES)
        assert all(f"{protocol}.STREET-01.{name}" in metrics for name in SCORES)
    assert metrics["motchallenge.num_gt"] > 50


@pytest.mark.parametrize(
    ("stage", "kind"),
    [
        ("data", "data"),
        ("data", "baseline"),
        ("float", "calops"),
        ("float", "training"),
        ("float", "accuracy_raw"),
        ("float", "accuracy_unseen"),
        ("calibration", "calibration"),
        ("qat", "training"),
        ("float_extra", "training"),
        ("float_extra", "accuracy"),
        ("fixed_point", "integer"),
        ("fixed_point", "agreement"),
        ("fixed_point", "layers"),
        ("fixed_point", "overlay"),
        ("perf", "latency"),
    ],
)
def test_record_is_complete(run: Run, stage: str, kind: str) -> None:
    record = run.last_record(stage, kind)
    assert record is not None
    assert set(record) == {
        "schema", "run", "stage", "kind", "metrics", "assets", "config", "config_hash", "data_hash", "made_from",
        "seed", "git_commit", "git_dirty", "versions", "hardware", "started", "duration_s",
    }  # fmt: skip
    assert record["data_hash"]
    assert all(record["made_from"].values())
    assert all((run.path / asset).is_file() for asset in record["assets"])
    assert all(isinstance(value, int | float | str | bool) for value in record["metrics"].values())


def test_integer_share(run: Run) -> None:
    metrics = run.last_record("fixed_point", "integer")["metrics"]  # type: ignore[index]
    for graph in ("base", "qim"):
        assert metrics[f"{graph}.integer_macs_share"] == metrics[f"{graph}.integer_nodes_share"] == 1
        assert metrics[f"{graph}.inexact_operators"] == ""


def test_all_forms_give_the_same_track_files(run: Run) -> None:
    metrics = run.last_record("fixed_point", "agreement")["metrics"]  # type: ignore[index]
    for form in ("qat", "openvino"):
        assert metrics[f"{form}.equal_files"] == metrics[f"{form}.num_files"] == 4, metrics[f"{form}.first_difference"]


def test_report_needs_nothing_else(run: Run) -> None:
    page = (run.report / "index.html").read_text(encoding="utf-8")
    assert len(page.encode()) < 2_000_000
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    assert "<script" not in page
    assert all("alt=" in tag for tag in re.findall(r"<img[^>]*>", page))


def test_tracks_are_motchallenge_files(run: Run) -> None:
    for info in FrameStore(run.data / "test_lmdb").sequences:
        assert read_tracks(run.tracks("fixed_point") / f"{info.name}.txt").frame.max(initial=1) <= info.num_frames


def test_a_broken_scale_is_refused_and_would_change_the_tracks(run: Run, tmp_path: Path) -> None:
    """Negative control: the weights of one convolution of the artefact times four."""
    folder = tmp_path / "artifact"
    shutil.copytree(run.artifact, folder)
    _break_a_scale(folder / "base.ort.onnx")
    with pytest.raises(Exception, match=r"base\.ort\.onnx"):
        verify_artifact(folder)
    intact = load_artifact(run.artifact)
    network = load_network(folder / "base.ort.onnx", ("class_logits", "boxes", "embedding"), 1)
    graphs = OnnxGraphs(network, intact.graphs.qim_network, intact.graphs.detect_query, boxes=intact.graphs.boxes)
    good, bad = (_tracks(run, replace(intact, graphs=g)) for g in (intact.graphs, graphs))
    assert len(good) > 20, "the control needs tracks to compare"
    assert _agreement(good, good) == 1.0
    assert _agreement(good, bad) < 0.95


def _break_a_scale(path: Path) -> None:
    model: Any = onnx.load(path)
    convolution = next(node for node in model.graph.node if node.op_type == "QLinearConv")
    scale = next(i for i in model.graph.initializer if i.name == convolution.input[4])
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * 4, scale.name))
    onnx.save(model, path)


def _tracks(run: Run, runtime: Any) -> Tracks:
    store = FrameStore(run.data / "test_lmdb")
    info = store.sequences[0]
    rows = []
    for frame, boxes in enumerate(runtime.track(store.image(info.name, f) for f in range(1, info.num_frames + 1)), 1):
        rows.append(boxes.rows(frame))
    return Tracks.from_rows(np.concatenate(rows))


def _agreement(gt: Tracks, pred: Tracks) -> float:
    """IDF1 of tracks against other tracks as ground truth."""
    from motrlab.data.motchallenge import Annotations
    from motrlab.evaluation.metrics import evaluate

    ones = np.ones(len(gt), np.int64)
    annotations = Annotations(gt.frame, gt.track_id, gt.ltwh, ones, ones, ones.astype(float), has_class=True)
    return evaluate({"S": annotations}, {"S": pred})["OVERALL"]["idf1"]


@pytest.mark.parametrize(
    "words",
    [
        "calops --run chain",
        "check --run chain --target horizon-j6m",
        "compile --run chain --target onnxruntime-cpu",
        "perf --run chain --target horizon-j6m",
        "align --run chain",
        "evaluate --run chain --stage fixed_point --protocol hat",
        "handover --run chain --target qnn-htp --samples 2",
        "debug --run chain --layer encoder.0.ffn.expand --frame 8",
        "report --run chain",
        "sensitivity --run chain --max-drop-mota 50 --frames 2 --clip-frames 4",
        "export --src {run}/data --dst back && track --artifact {run}/artifact --input back/STREET-01/img1 --out tracked",
    ],
)
def test_commands_of_the_pages_on_this_run(
    run: Run, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What README and how-tos show, on smoke data: each ends well and says something."""
    monkeypatch.chdir(tmp_path)  # some write here
    for command in words.format(run=run.path).split(" && "):
        assert main(command.split()) == 0
        assert capsys.readouterr().out.strip()


def test_a_copy_compares_with_its_run(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run.copy("copy")
    assert main(["compare", "chain", "copy"]) == 0
    table, page = capsys.readouterr().out.strip().rsplit("\n\n", 1)
    assert "chain" in table
    assert "copy" in table
    assert Path(page).is_file()
