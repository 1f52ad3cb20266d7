"""Float, fake-quant and a third one on videos: on common inputs tensor by tensor, and each on its own state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from motrlab.config import Config, TrackerConfig
from motrlab.quantization.analysis.comparison import InMode, compare_outputs, compare_taps, track
from motrlab.quantization.analysis.layers import Arrays, Float, TapPoint
from motrlab.quantization.analysis.taps import GRAPHS, run_with_taps, tap_points
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.tracking.tracker import EMPTY


def noise(config: Config, num_frames: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (1, 3, config.model.height, config.model.width)
    return [torch.randint(-128, 128, shape, generator=generator) / 128 for _ in range(num_frames)]


class Deployed:
    """Stands in for a runtime: the fake-quantised model's own taps, one of them moved by a step; keeps what it saw."""

    def __init__(self, quantised: QuantizedMotr, moved: TapPoint) -> None:
        self.points = tap_points(quantised)[::-1]  # any order will do
        self.moved = moved
        self.seen: dict[str, list[Sequence[Float]]] = {graph: [] for graph in GRAPHS}
        self._quantised = quantised

    def run(self, graph: str, inputs: Sequence[Float]) -> Arrays:
        self.seen[graph].append([x.copy() for x in inputs])
        assert self._quantised.current_mode == "evaluate"
        names = [point.tensor for point in self.points[::-1] if point.graph == graph]
        tensors = [torch.from_numpy(np.asarray(x)) for x in inputs]
        _, taps = run_with_taps(getattr(self._quantised, graph), tensors, names)
        values = {name: value.numpy() for name, value in taps.items()}
        if graph == self.moved.graph:
            values[self.moved.tensor] = values[self.moved.tensor] + np.float32(self.moved.scale)
        return values


def test_rows_of_all_frames_on_the_float_runs_inputs(quantised: QuantizedMotr, config: Config) -> None:
    moved = next(point for point in tap_points(quantised) if point.tensor == "relu_1")
    deployed = Deployed(quantised, moved)
    videos = [noise(config, 3, 1), noise(config, 2, 2)]
    rows = compare_taps(quantised, deployed, videos, config)
    assert quantised.current_mode == "evaluate"
    assert sorted((r.graph, r.tensor) for r in rows) == sorted((p.graph, p.tensor) for p in deployed.points)
    assert {len(found) for found in deployed.seen.values()} == {5}
    for row in rows:
        is_moved = (row.graph, row.tensor) == (moved.graph, moved.tensor)
        assert (row.largest_step, row.mismatch_share) == ((1, 1.0) if is_moved else (0, 0.0))
        if not is_moved:
            assert row.fake_sqnr_db == row.fixed_sqnr_db
    # The same by hand: every frame's inputs once more through both modes, all frames side by side.
    for graph, tensor in (("base", "relu_1"), ("qim", "embedding")):
        values: dict[str, list[np.ndarray]] = {}
        for mode in ("float", "evaluate"):
            quantised.mode(mode)
            for inputs in deployed.seen[graph]:
                with torch.no_grad():
                    tensors = [torch.from_numpy(np.asarray(x)) for x in inputs]
                    names = [point.tensor for point in tap_points(quantised) if point.graph == graph]
                    _, taps = run_with_taps(getattr(quantised, graph), tensors, names)
                values.setdefault(mode, []).append(taps[tensor].double().numpy().ravel())
        x, fake = (np.concatenate(values[mode]) for mode in ("float", "evaluate"))
        row = next(r for r in rows if (r.graph, r.tensor) == (graph, tensor))
        assert row.num_values == x.size
        assert row.fake_sqnr_db == pytest.approx(10 * math.log10((x**2).sum() / ((fake - x) ** 2).sum()))


def test_the_inputs_are_those_of_the_float_run(quantised: QuantizedMotr, config: Config) -> None:
    """With tracks from the second frame on."""
    deployed = Deployed(quantised, tap_points(quantised)[1])
    compare_taps(quantised, deployed, [noise(config, 3, 1)], config)
    quantised.mode("float")
    with torch.no_grad():
        expected = [decision for _, decision in track(quantised.graphs, noise(config, 3, 1), config)]
    quantised.mode("evaluate")
    masks = [inputs[2].reshape(-1) for inputs in deployed.seen["base"]]
    assert masks[0].sum() == 0
    for decision, mask in zip(expected, masks[1:], strict=False):
        np.testing.assert_array_equal(mask, decision.source[0] != EMPTY)
        assert mask.sum() > 0


class Disturbed:
    """Graphs whose QIM is off by a little."""

    def __init__(self, graphs: Any, error: float) -> None:
        self._graphs, self._error = graphs, error
        self.base, self.decode, self.detect_query = graphs.base, graphs.decode, graphs.detect_query

    def qim(self, embedding: Tensor, query: Tensor, mask: Tensor) -> Tensor:
        updated: Tensor = self._graphs.qim(embedding, query, mask)
        return updated + self._error


def test_in_closed_loop_float_is_exact_and_a_disturbed_qim_shows_from_the_second_frame(
    quantised: QuantizedMotr, config: Config
) -> None:
    floating = InMode(quantised, "float")
    others: dict[str, Any] = {
        "same": (InMode(quantised, "float"), lambda x: x),
        "disturbed": (Disturbed(InMode(quantised, "float"), 0.01), lambda x: x),
        "fake": (InMode(quantised, "evaluate"), lambda x: x),
    }
    videos = {"a": noise(config, 4, 1), "b": noise(config, 3, 2)}
    rows = compare_outputs(floating, others, videos, config)
    assert [(r.video, r.frame) for r in rows if r.stage == "fake"] == [
        *(("a", frame) for frame in (1, 2, 3, 4)),
        *(("b", frame) for frame in (1, 2, 3)),
    ]
    by_stage = {stage: [r for r in rows if r.stage == stage] for stage in others}
    for row in by_stage["same"]:
        assert row.class_logits_db == row.boxes_db == row.embedding_db == math.inf
        assert row.shared_tracks_share == 1
    for row in by_stage["disturbed"]:
        assert math.isinf(row.embedding_db) == (row.frame == 1)
    assert all(0 < row.embedding_db < 60 for row in by_stage["fake"])
    assert by_stage["fake"][0].shared_tracks_share == 1, "nobody is there yet"


class Scripted:
    """Four detect slots that are sure of themselves in the first frame only, the surest in `order`; C = 2, W = 4.

    A track slot gives back the query it has, which is the embedding that it was born with, plus `error`.
    """

    detect_query = torch.zeros(1, 2, 1, 4)

    def __init__(self, order: Sequence[int], error: float = 0.0) -> None:
        self._confidence = torch.tensor([4.0 - order.index(slot) / 2 for slot in range(4)])
        self._error = error

    def base(self, frame: Tensor, query: Tensor, mask: Tensor, reference: Tensor) -> Any:
        detect = torch.arange(1.0, 5.0)
        confidence = self._confidence if float(frame.max()) == 1 else torch.full((4,), -9.0)
        logits = torch.cat((confidence, torch.full((4,), 9.0))).reshape(1, 1, 2, 4)
        boxes = torch.stack((detect / 5, detect / 5, torch.full((4,), 0.05), torch.full((4,), 0.05)))
        embedding = torch.cat((detect.expand(1, 2, 1, 4), query + self._error), 2)
        return (logits,), (torch.cat((boxes[None, :, None], reference), 2),), embedding

    def qim(self, embedding: Tensor, query: Tensor, mask: Tensor) -> Tensor:
        return embedding

    def decode(self, boxes: Tensor) -> Tensor:
        return boxes


@pytest.mark.parametrize("error", [0.0, 0.1])
def test_tracks_are_compared_by_person_not_by_slot(error: float) -> None:
    """Births in another order give the same people other slots: that alone is no error."""
    model = SimpleNamespace(num_detect=4, num_track=4, d_model=2, slot_columns=4)
    config: Any = SimpleNamespace(model=model, tracker=TrackerConfig())
    images = [torch.full((1, 3, 2, 2), float(number)) for number in (1, 2, 3)]
    others: dict[str, Any] = {"other": (Scripted((2, 0, 3, 1), error), lambda x: x)}
    first, *rest = compare_outputs(Scripted((0, 1, 2, 3)), others, {"a": images}, config)
    assert math.isfinite(first.class_logits_db)  # the confidences do differ
    for row in rest:
        assert row.shared_tracks_share == 1
        assert row.boxes_db == math.inf
        assert math.isfinite(row.embedding_db) == bool(error)


def test_a_track_that_lives_on_one_side_only_is_counted_and_left_out() -> None:
    model = SimpleNamespace(num_detect=4, num_track=4, d_model=2, slot_columns=4)
    config: Any = SimpleNamespace(model=model, tracker=TrackerConfig())
    images = [torch.full((1, 3, 2, 2), float(number)) for number in (1, 2)]
    shy = Scripted((0, 1, 2, 3))
    shy._confidence = torch.tensor([4.0, 4.0, -9.0, -9.0])
    _, second = compare_outputs(Scripted((0, 1, 2, 3)), {"shy": (shy, lambda x: x)}, {"a": images}, config)
    assert second.shared_tracks_share == 0.5
    assert second.embedding_db == math.inf


@pytest.fixture(autouse=True)
def in_evaluate_mode(quantised: QuantizedMotr) -> Iterator[None]:
    yield
    quantised.mode("evaluate")
