from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import motrlab.deploy.conversion as module
from motrlab.deploy.artifact import ARTIFACT_FILES, file_hash, verify_artifact
from motrlab.deploy.runtime import load_artifact
from motrlab.errors import UserError

Make = Callable[[Path], Path]


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_holds_what_the_design_lists(artifact: Path, fixed_point: Any) -> None:
    assert set(contents(artifact)) == {*ARTIFACT_FILES, "manifest.json"}
    manifest = verify_artifact(artifact)
    assert set(manifest["files"]) == set(ARTIFACT_FILES)
    config = fixed_point.config
    expected = {"run": "test", "git_commit": "abc", "config_hash": config.hash, "preset": "tiny", "seed": config.seed}
    assert manifest["provenance"] == expected
    assert manifest["versions"]["onnxruntime"]


def test_carries_thresholds_shapes_and_queries(artifact: Path, fixed_point: Any) -> None:
    runtime = load_artifact(artifact)
    model = fixed_point.config.model
    assert runtime.tracker == fixed_point.config.tracker
    for name in ("height", "width", "d_model", "num_detect", "num_track", "slot_columns"):
        assert getattr(runtime.shapes, name) == getattr(model, name)
    with np.load(artifact / "queries.npz") as queries:
        query, reference = fixed_point.quantised.detect_slots()  # on their grids
        np.testing.assert_array_equal(queries["query"], query)
        np.testing.assert_array_equal(queries["reference"], reference)
        assert queries["reference"].shape == (1, 4, model.num_detect // model.slot_columns, model.slot_columns)


def test_describes_the_outputs_of_its_graphs(artifact: Path) -> None:
    shapes = json.loads((artifact / "tracker.json").read_text())["shapes"]
    outputs = onnx.load(artifact / "base.onnx").graph.output
    assert {output.name for output in outputs} == {"class_logits", "boxes", "embedding"}
    for output in outputs:
        assert shapes[output.name] == [axis.dim_value for axis in output.type.tensor_type.shape.dim]


def test_equal_input_gives_equal_bytes(make_artifact: Make, artifact: Path, tmp_path: Path) -> None:
    assert contents(make_artifact(tmp_path / "again")) == contents(artifact)
    with zipfile.ZipFile(artifact / "queries.npz") as archive:
        assert {member.date_time[:3] for member in archive.infolist()} == {(1980, 1, 1)}


def test_replaces_an_older_artifact_whole(make_artifact: Make, tmp_path: Path) -> None:
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "stale.onnx").write_text("old")
    make_artifact(folder)
    verify_artifact(folder)
    assert not (folder / "stale.onnx").exists()
    assert folder.stat().st_mode & 0o777 == 0o755  # others may read it
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]


def test_a_failure_leaves_the_older_artifact(
    make_artifact: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_artifact(tmp_path / "artifact")
    before = contents(folder)

    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(module.np, "savez", fail)
    with pytest.raises(UserError, match="disk full"):
        make_artifact(folder)
    assert contents(folder) == before
    assert [p.name for p in tmp_path.iterdir()] == ["artifact"]


@pytest.mark.parametrize("name", [*ARTIFACT_FILES, "manifest.json"])
def test_a_missing_file_is_refused_by_name(make_artifact: Make, tmp_path: Path, name: str) -> None:
    folder = make_artifact(tmp_path / "artifact")
    (folder / name).unlink()
    with pytest.raises(UserError, match=f"{name}: missing"):
        load_artifact(folder)


@pytest.mark.parametrize("name", ARTIFACT_FILES)
def test_a_changed_file_is_refused_by_name(make_artifact: Make, tmp_path: Path, name: str) -> None:
    folder = make_artifact(tmp_path / "artifact")
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name}: its hash differs"):
        load_artifact(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "of schema None"),
        (f'{{"schema": {module.SCHEMA}}}', "lists no files"),
        ('{"schema": 99, "files": {"all.onnx": ""}}', r"manifest\.json: an artefact of schema 99, this motrlab reads"),
    ],
    ids=["cut short", "a list", "no schema", "no files", "newer"],
)
def test_a_bad_manifest_is_refused(make_artifact: Make, tmp_path: Path, text: str, message: str) -> None:
    folder = make_artifact(tmp_path / "artifact")
    (folder / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=message):
        load_artifact(folder)


def test_another_schema_is_refused(make_artifact: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the one before, whose functions were in float or double."""
    monkeypatch.setattr(module, "SCHEMA", 99)
    folder = make_artifact(tmp_path / "artifact")
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"schema 99.* convert the run again"):
        load_artifact(folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "tracker.json",
            b'{"schema": 2}',
            r"tracker\.json: not of one of motrlab's trackers: 'weight_bits' is",
        ),
        ("queries.npz", b"no archive", r"queries\.npz: holds no queries"),
        ("base.ort.onnx", b"no graph", r"base\.ort\.onnx: ONNX Runtime cannot load it"),
    ],
)
def test_another_kind_of_artefact_is_refused(
    make_artifact: Make, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    """Whole by its manifest, and no tracker of ours."""
    folder = make_artifact(tmp_path / "artifact")
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = file_hash(folder / name)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=message) as error:
        load_artifact(folder)
    assert "\n" not in str(error.value)


def test_no_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing: no such artefact folder"):
        verify_artifact(tmp_path / "nothing")
    with pytest.raises(UserError, match=r"manifest\.json: missing .*; give an artefact's folder, such as runs/N"):
        verify_artifact(tmp_path)


def test_json_files_hold_no_absolute_path(artifact: Path) -> None:
    text = (artifact / "tracker.json").read_text() + (artifact / "manifest.json").read_text()
    json.loads((artifact / "tracker.json").read_text())
    assert "/work" not in text
    assert "/tmp" not in text


def test_a_missing_graph_leaves_nothing_behind(
    make_artifact: Make, fixed_point: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "portable_graphs", lambda _: {"base": fixed_point.graphs["base.onnx"]})
    with pytest.raises(KeyError, match=r"qim\.onnx"):
        make_artifact(tmp_path / "artifact")
    assert list(tmp_path.iterdir()) == []
