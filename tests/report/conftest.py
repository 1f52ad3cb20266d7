"""Runs with records as the stages write them, made up and seeded."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from motrlab.evaluation.errors import ErrorRow, Event
from motrlab.files import write_text
from motrlab.names import CHAIN
from motrlab.quantization.analysis.layers import (
    FrameRow,
    QuantisedTensor,
    SplitRow,
    TapPoint,
    layer_row,
    measure,
    write_csv,
)
from motrlab.report.html import render_report
from motrlab.run import Run
from motrlab.viz.curves import figure_png
from motrlab.viz.layers import frame_sqnr, tensor_sqnr

SEQUENCES = ("street-01", "street-02.night")
METRICS = {
    "mota": 0.8123, "motp": 0.81, "idf1": 0.8011, "idp": 0.83, "idr": 0.77, "hota": 0.6203, "deta": 0.64, "assa": 0.60,
    "fp": 812.0, "fn": 1520.0, "idsw": 61.0, "frag": 130.0, "mt": 61.0, "pt": 22.0, "ml": 7.0, "num_gt": 12654.0,
}  # fmt: skip
STAGE_SHIFT = {"float": 0.0, "calibration": -0.0172, "qat": -0.0031, "fixed_point": -0.0042}

MakeStage = Callable[..., None]
STARTED = 1_700_000_000.0


def accuracy_metrics(shift: float = 0.0) -> dict[str, float]:
    """Flat keys of both protocols; `shift` moves MOTA, IDF1 and HOTA."""
    flat = {}
    for protocol, less in (("motchallenge", 0.0), ("hat", 0.0315)):
        moved = {m: v + (shift - less if m in ("mota", "idf1", "hota") else 0) for m, v in METRICS.items()}
        flat |= {f"{protocol}.{m}": v for m, v in moved.items()}
        for i, name in enumerate(SEQUENCES):
            flat |= {f"{protocol}.{name}.{m}": v - 0.02 * i for m, v in moved.items()}
    return flat


@pytest.fixture
def new_run(home: Path) -> Callable[..., Run]:
    """Makes a run in the temporary project: `new_run("demo", "street")`."""
    return Run.open


@pytest.fixture
def made_run(home: Path, make_stage: MakeStage) -> Run:
    """Every stage made, nothing measured."""
    run = Run.open("demo", "smoke")
    for stage in (*CHAIN, "float_extra"):
        make_stage(run, stage)
    return run


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory, make_stage: MakeStage) -> Run:
    """A run of every stage, made once: to be read only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTRLAB_HOME", str(tmp_path_factory.mktemp("filled")))
        run = Run.open("demo", "street")
    for stage in CHAIN:
        make_stage(run, stage)
    fill(run)
    return run


@pytest.fixture(scope="session")
def rendered(filled: Run) -> Path:
    """The first page of its report, made once: to be read only."""
    return render_report(filled)


@pytest.fixture
def full_run(home: Path, filled: Run) -> Run:
    """A run of every stage, for the test to change."""
    shutil.copytree(filled.path, home / "runs" / filled.name)
    return Run.open(filled.name)


def fill(run: Run) -> None:
    started = time.time()
    counts = {"train.frames": 1440, "train.boxes": 11022, "test.frames": 1440, "test.boxes": 12654, "videos": 12}
    run.add_record("data", "data", counts, started=started)
    run.add_record("data", "baseline", accuracy_metrics(-0.093), started=started)
    _add_training(run, "float", 2000, started)
    calops = {"base.params": 1204331, "base.macs": 412_330_112, "qim.params": 120_044, "qim.macs": 3_021_000}
    run.add_record("float", "calops", calops, started=started, made_from=())
    for stage, shift in STAGE_SHIFT.items():
        run.add_record(stage, "accuracy", accuracy_metrics(shift - 0.3), started=started)  # overruled by the next
        run.add_record(stage, "accuracy", accuracy_metrics(shift), started=started - 21)
        run.add_record(stage, "accuracy_raw", accuracy_metrics(shift - 0.021), started=started)
        run.add_record(stage, "accuracy_unseen", accuracy_metrics(shift - 0.054), started=started)
    _add_training(run, "qat", 200, started)
    shares = {
        "base.integer_macs_share": 0.981, "base.integer_nodes_share": 0.952,
        "qim.integer_macs_share": 1.0, "qim.integer_nodes_share": 0.93, "base.float_nodes_share": 0.345,
    }  # fmt: skip
    run.add_record("fixed_point", "integer", shares, started=started)
    run.add_record("fixed_point", "overlay", {"frames": 2}, started=started, assets=_pictures(run))
    latency: dict[str, float] = {"num_threads": 1, "fps": 104.2, "speedup": 1.95}
    parts = ("base.fixed_point", 6.1), ("base.fp32", 11.9), ("qim.fixed_point", 0.42), ("qim.fp32", 0.5)
    steps = ("preprocess", 1.4), ("base", 6.2), ("tracker", 0.31), ("qim", 0.45), ("total", 8.9)
    for name, median in (*parts, *((f"step.{n}", v) for n, v in steps)):
        latency |= {f"{name}.p50_ms": median, f"{name}.p90_ms": median * 1.21}
        latency |= {f"threads_2.{name}.p50_ms": median * 0.6}
    run.add_record("perf", "latency", latency, started=started)
    _add_layers(run, started)
    _add_errors(run, started)


def _add_training(run: Run, stage: str, steps: int, started: float) -> None:
    rng = np.random.default_rng(3)
    lines = ["step,loss,class,l1,giou,lr"]
    for step in range(0, steps, max(1, steps // 400)):
        level = 0.8 + 5 * np.exp(-4 * step / steps)
        loss = level * np.array([1, 0.45, 0.3, 0.25]) * (1 + 0.15 * rng.standard_normal(4))
        lines.append(",".join([str(step), *(f"{v:.5f}" for v in loss), "0.001"]))
    path = run.assets / f"{stage}_loss.csv"
    write_text(path, "\n".join(lines) + "\n")
    final = {"loss": 0.91, "class": 0.37, "l1": 0.24, "giou": 0.2, "denoising": 0.1, "steps": steps}
    run.add_record(stage, "training", final, started=started - 460, assets=[path])


def _add_layers(run: Run, started: float) -> None:
    """Twelve tensors, among them an exact one, a silent one and one that saturates; two stages over two frames."""
    rng = np.random.default_rng(9)
    rows, tensors = [], []
    for i in range(12):
        path = f"encoder.{i}.ffn"
        point = TapPoint("base" if i < 8 else "qim", path, path, "linear", "min_max", 1, False, 0.25, -128, 127)
        x = np.zeros(50) if i == 10 else np.rint(rng.normal(size=50) * 40) * 0.25
        x = x * 4 if i == 3 else x
        fake = np.clip(x + 0.25 * i * rng.integers(-1, 2, 50), -32, 31.75)
        rows.append(layer_row(point, measure(point, x, fake, np.clip(fake, None, 31.5))))
    frames = [FrameRow("a", n, s, 40.0 - n, 50.0 - n, 45.0 - n, 1.0) for n in (1, 2) for s in ("fake", "fixed_point")]
    assets = [run.assets / name for name in ("layers.csv", "layers_frames.csv", "layers.png", "layers_frames.png")]
    write_csv(assets[0], rows)
    write_csv(assets[1], frames)
    assets[2].write_bytes(figure_png(tensor_sqnr(rows)))
    assets[3].write_bytes(figure_png(frame_sqnr(frames)))
    for i, (kind, low, high) in enumerate((("activation", 0, 255), ("weight", -127, 127), ("function", -32767, 32767))):
        tensors.append(
            QuantisedTensor("base", f"tensor.{i}", kind, "conv", 8, low, high, 0.5, "min_max", "", i or None)
        )
    assets += [run.assets / "tensors.csv", run.assets / "layers_split.csv"]
    write_csv(assets[-2], tensors)
    write_csv(assets[-1], [SplitRow("base", "encoder.3.ffn", "linear", 31.0, 24.0, 23.0)])
    run.add_record("fixed_point", "layers", {"num_tensors": len(rows)}, started=started, assets=assets)


def _add_errors(run: Run, started: float) -> None:
    rows = [ErrorRow("Size", "small", 300, 90, 4), ErrorRow("Size", "large", 700, 10, 1)]
    rows += [ErrorRow("Visibility", "under 0.3", 200, 80, 5), ErrorRow("Visibility", "in full view", 800, 20, 0)]
    events = [Event("miss", "street-01", 3, 12, 0, 9, 0.9, 8.1), Event("switch", "street-01", 4, 20, 18, 2, 1.0, 0.9)]
    assets = [run.assets / f"errors_fixed_point{end}" for end in (".csv", "_worst.csv", "_miss.jpg", "_switch.jpg")]
    write_csv(assets[0], rows)
    write_csv(assets[1], events)
    for path in assets[2:]:
        cv2.imwrite(str(path), np.random.default_rng(6).integers(0, 255, (250, 720, 3), np.uint8))
    run.add_record("fixed_point", "errors", {"num_boxes": 1000}, started=started, assets=assets)


def _pictures(run: Run) -> list[Path]:
    rng = np.random.default_rng(5)
    paths = []
    for name in ("fixed_point_street-01", "fixed_point_street-02"):
        path = run.assets / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.integers(0, 255, (540, 960, 3), np.uint8))  # noise: the hardest to compress
        paths.append(path)
    return paths
