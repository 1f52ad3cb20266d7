"""Numerics of the layer comparison against slow, obvious re-implementations."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from motrlab.errors import UserError
from motrlab.quantization.analysis.layers import (
    LayerRow,
    TapPoint,
    layer_row,
    measure,
    read_rows,
    sqnr_db,
    summary,
    worst,
    write_csv,
)

POINT = TapPoint("base", "norm1@1", "norm1", "norm", "moving_average", 2, False, 0.1, -128, 127)
INT16 = replace(POINT, tensor="wide", scale=0.001, quant_min=-32768, quant_max=32767)
UNSIGNED = replace(POINT, tensor="relu", equalisable=True, quant_min=0, quant_max=255)


def on_grid(x: np.ndarray, point: TapPoint) -> np.ndarray:
    return (np.clip(np.rint(x / point.scale), point.quant_min, point.quant_max) * point.scale).astype(np.float32)


def example(point: TapPoint, seed: int, size: int = 300) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Float values of which some lie outside the grid, fake-quant, and a fixed-point that is off here and there."""
    rng = np.random.default_rng(seed)
    reach = point.quant_max * point.scale
    x = (rng.normal(size=size) * reach / 2.2).astype(np.float32)
    x = x if point.quant_min else abs(x)
    fake = on_grid(x + rng.normal(size=size).astype(np.float32) * point.scale, point)
    fixed = on_grid(fake + rng.choice([-2, 0, 0, 0, 1], size) * point.scale, point)
    return x, fake, fixed


def slow_row(point: TapPoint, x: np.ndarray, fake: np.ndarray, fixed: np.ndarray) -> dict[str, float]:
    """Value by value in Python numbers."""
    values = [(float(a), float(b), float(c)) for a, b, c in zip(x, fake, fixed, strict=True)]
    own = [max(point.quant_min, min(point.quant_max, round(a / point.scale))) * point.scale for a, _, _ in values]
    low, high = point.quant_min * point.scale, point.quant_max * point.scale
    outside = [a < low - point.scale / 2 or a > high + point.scale / 2 for a, _, _ in values]
    steps = [round(abs(b - c) / point.scale) for _, b, c in values]
    signal = sum(a * a for a, _, _ in values)
    own_errors = [(o - a) ** 2 for o, (a, _, _) in zip(own, values, strict=True)]
    norms = [math.sqrt(sum(v[i] ** 2 for v in values)) for i in range(3)]
    return {
        "fake_sqnr_db": 10 * math.log10(signal / sum((b - a) ** 2 for a, b, _ in values)),
        "fixed_sqnr_db": 10 * math.log10(signal / sum((c - a) ** 2 for a, _, c in values)),
        "own_sqnr_db": 10 * math.log10(signal / sum(own_errors)),
        "fake_cosine": sum(a * b for a, b, _ in values) / norms[0] / norms[1],
        "fixed_cosine": sum(a * c for a, _, c in values) / norms[0] / norms[2],
        "largest_step": max(steps),
        "mismatch_share": sum(s > 0 for s in steps) / len(steps),
        "saturated_share": sum(outside) / len(outside),
        "clipped_error_share": sum(e for e, o in zip(own_errors, outside, strict=True) if o) / sum(own_errors),
        "range_used": max(max(a / high if a > 0 else a / low if low else 0 for a, _, _ in values), 0),
        "offset_steps": sum(c - a for a, _, c in values) / len(values) / point.scale,
    }


@pytest.mark.parametrize("point", [POINT, INT16, UNSIGNED], ids=["int8", "int16", "uint8"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_row_is_what_the_definitions_say(point: TapPoint, seed: int) -> None:
    arrays = example(point, seed)
    row = layer_row(point, measure(point, *arrays))
    expected = slow_row(point, *arrays)
    assert expected["saturated_share"] > 0
    assert expected["mismatch_share"] > 0
    assert {name: getattr(row, name) for name in expected} == pytest.approx(expected, rel=1e-9)
    assert (row.graph, row.tensor, row.num_values, row.scale) == (point.graph, point.tensor, 300, point.scale)


def test_frames_add_up_to_what_all_values_together_give() -> None:
    frames = [example(POINT, seed, size) for seed, size in ((1, 100), (2, 300), (3, 1))]
    found = None
    for arrays in frames:
        found = measure(POINT, *arrays, before=found)
    together = measure(POINT, *(np.concatenate(parts) for parts in zip(*frames, strict=True)))
    assert found == pytest.approx(together, rel=1e-12)


def test_shapes_may_differ_by_dimensions_of_one() -> None:
    x, fake, fixed = example(POINT, 4)
    assert measure(POINT, x[None, :, None], fake, fixed[None]) == measure(POINT, x, fake, fixed)


def test_values_at_the_ends_of_the_grid_are_not_outside() -> None:
    x = np.array([-12.8, 12.7, 12.74, 12.76, -12.86], np.float32)
    row = layer_row(POINT, measure(POINT, x, on_grid(x, POINT), on_grid(x, POINT)))
    assert row.saturated_share == pytest.approx(2 / 5)
    assert row.range_used == pytest.approx(max(12.86 / 12.8, 12.76 / 12.7), rel=1e-6)
    assert row.largest_step == 0


def test_a_tensor_without_error_and_one_without_signal() -> None:
    x = np.array([0.5, -0.25], np.float32)
    image = replace(POINT, tensor="image", scale=0.25)
    exact = layer_row(image, measure(image, x, x, x))
    assert exact.fake_sqnr_db == exact.fixed_sqnr_db == exact.own_sqnr_db == math.inf
    assert (exact.mismatch_share, exact.clipped_error_share, exact.offset_steps) == (0, 0, 0)
    assert exact.fixed_cosine == pytest.approx(1)
    zeros = np.zeros(2, np.float32)
    silent = layer_row(POINT, measure(POINT, zeros, zeros, x))
    assert math.isnan(silent.fake_sqnr_db)
    assert math.isnan(silent.fixed_sqnr_db)
    assert math.isnan(silent.fixed_cosine)
    assert silent.range_used == 0
    assert silent.mismatch_share == 1


@pytest.mark.parametrize(("signal", "error", "expected"), [(100, 1, 20), (1, 10, -10), (1, 0, math.inf)])
def test_sqnr(signal: float, error: float, expected: float) -> None:
    assert sqnr_db(signal, error) == pytest.approx(expected)


def rows() -> list[LayerRow]:
    found = []
    for i, graph in enumerate(("base", "base", "qim")):
        point = replace(POINT, graph=graph, tensor=f"t{i}")
        x, fake, fixed = example(point, i)
        found.append(layer_row(point, measure(point, x, fake, fixed)))
    zeros = np.zeros(3, np.float32)
    silent = replace(POINT, graph="qim", tensor="silent", operator="sum", equalisable=True)
    return [*found, layer_row(silent, measure(silent, zeros, zeros, zeros))]


def test_rows_come_back_from_their_file(tmp_path: Path) -> None:
    table = [*rows(), replace(rows()[0], fake_sqnr_db=math.inf)]
    write_csv(tmp_path / "layers.csv", table)
    assert {row.equalisable for row in table} == {True, False}
    assert [str(row) for row in read_rows(tmp_path / "layers.csv")] == [str(row) for row in table]


def test_a_file_of_other_columns_is_named(tmp_path: Path) -> None:
    (tmp_path / "layers.csv").write_text("graph,tensor\nbase,relu\n")
    with pytest.raises(UserError, match=r"layers\.csv: not a table of this motrlab"):
        read_rows(tmp_path / "layers.csv")


def test_worst_first_without_silent_tensors() -> None:
    found = worst(rows(), 2)
    assert len(found) == 2
    assert found[0].fixed_sqnr_db <= found[1].fixed_sqnr_db
    assert "silent" not in [row.tensor for row in worst(rows(), 10)]


def test_summary_is_finite_and_by_graph() -> None:
    table = rows()
    metrics = summary(table)
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["num_tensors"] == 4
    assert metrics["base.worst_fixed_sqnr_db"] == min(row.fixed_sqnr_db for row in table[:2])
    assert metrics["base.median_fake_sqnr_db"] == pytest.approx(np.mean([row.fake_sqnr_db for row in table[:2]]))
    assert metrics["qim.worst_fixed_sqnr_db"] == table[2].fixed_sqnr_db
    assert metrics["qim.largest_step"] == 2
    assert metrics["qim.least_range_used"] == table[2].range_used, "the silent tensor has no range to use"


def test_names_tell_graph_tensor_and_operator() -> None:
    assert [row.name for row in rows()][::3] == ["base t0 (norm)", "qim silent (sum)"]
