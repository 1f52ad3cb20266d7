"""Float, fake-quant and a third one on videos: on common inputs tensor by tensor, and each on its own state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from motrlab.config import Config, TrackerConfig
from motrlab.quantization.analysis.comparison import compare_outputs, compare_taps, in_mode
from motrlab.quantization.analysis.layers import Arrays, Float
from motrlab.quantization.analysis.taps import recorded, slot_tensors
from motrlab.quantization.calibration import closed_loop
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.tracking.step import FrameStep
from motrlab.tracking.tracker import EMPTY
from tests.quantization.conftest import noise

Key = tuple[str, str]
MOVED = ("base", "backbone.smooth")


class Deployed:
    """Stands in for a runtime: the model's own taps but the learned queries, `MOVED` by a step; keeps what it saw."""

    def __init__(self, quantised: QuantizedMotr) -> None:
        self.seen: dict[str, list[tuple[Tensor, ...]]] = {"base": [], "qim": []}
        self._quantised = quantised

    def run(self, graph: str, inputs: Sequence[Float]) -> Arrays:
        tensors = tuple(torch.from_numpy(np.asarray(x)).clone() for x in inputs)
        self.seen[graph].append(tensors)
        assert self._quantised.current_mode == "evaluate"
        values = recorded(self._quantised, graph, tensors)
        values.pop("detect.query", None)
        if graph == MOVED[0]:
            scale = self._quantised.net.scale(self._quantised.specs[MOVED])
            values[MOVED[1]] = values[MOVED[1]] + np.float32(scale)
        return dict(reversed(values.items()))  # any order will do


def by_hand(quantised: QuantizedMotr, deployed: Deployed, key: Key, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Float and fake-quant of a tensor on all that was seen, all frames side by side, without empty track slots."""
    sides = []
    for mode in ("float", "evaluate"):
        found = []
        for inputs in deployed.seen[key[0]]:
            with torch.no_grad():
                rows = recorded(quantised, key[0], inputs, mode)[key[1]].reshape(-1, quantised.config.d_model)
            live = [True] * config.model.num_detect + [bool(x) for x in inputs[2].flatten()]
            found += [row for row, counts in zip(rows, live[-len(rows) :], strict=True) if counts]
        sides.append(np.concatenate(found).astype(float))
    return sides[0], sides[1]


def test_rows_of_all_frames_on_the_float_runs_inputs(quantised: QuantizedMotr, config: Config) -> None:
    deployed = Deployed(quantised)
    rows = compare_taps(quantised, deployed, [noise(config, 3, 1), noise(config, 2, 2)], config)
    assert quantised.current_mode == "evaluate"
    assert {len(found) for found in deployed.seen.values()} == {5}
    expected = [k for k, s in quantised.specs.items() if s.operator != "head" and k != ("base", "detect.query")]
    assert [(r.graph, r.tensor) for r in rows if "@" not in r.tensor] == expected, "in graph order"
    for row in rows:
        is_moved = (row.graph, row.tensor) == MOVED
        assert (row.largest_step, row.mismatch_share) == ((1, 1.0) if is_moved else (0, 0.0))
        if not is_moved:
            assert row.fake_sqnr_db == row.fixed_sqnr_db
    for key in (("base", "decoder.0.norm1"), ("base", "decoder.1.norm4"), ("qim", "norm2")):
        x, fake = by_hand(quantised, deployed, key, config)
        row = next(r for r in rows if (r.graph, r.tensor) == key)
        assert row.num_values == x.size
        assert row.fake_sqnr_db == pytest.approx(10 * math.log10((x**2).sum() / ((fake - x) ** 2).sum()))


def test_the_inputs_are_those_of_the_float_run(quantised: QuantizedMotr, config: Config) -> None:
    """With tracks from the second frame on."""
    deployed = Deployed(quantised)
    compare_taps(quantised, deployed, [noise(config, 3, 1)], config)
    expected = in_mode(quantised, "float", config)(list(noise(config, 3, 1)))
    masks = [inputs[2].reshape(-1) for inputs in deployed.seen["base"]]
    assert masks[0].sum() == 0
    for step, mask in zip(expected, masks[1:], strict=False):
        np.testing.assert_array_equal(mask, step.decision.source[0] != EMPTY)
        assert mask.sum() > 0


def test_empty_slots_do_not_count(quantised: QuantizedMotr, config: Config) -> None:
    """Observers do not look at them: more frames would not help with what lies outside a grid there."""
    rows = compare_taps(quantised, Deployed(quantised), [noise(config, 1, 1)], config)
    model = config.model
    found = {(r.graph, r.tensor): r.num_values for r in rows}
    assert ("base", "track_query") not in found, "nobody is tracked in the first frame"
    assert ("base", "decoder.0.track_attention.mixed") not in found
    assert found["base", "decoder.0.norm2/detect"] == model.d_model * model.num_detect
    assert found["base", "position.2"] == model.d_model * model.num_slots
    assert found["base", "encoder.0.norm1"] % model.d_model == 0
    assert {key for key in found if key[0] == "qim"} == {key for key in slot_tensors(quantised) if key[0] == "qim"} - {
        key for key, spec in quantised.specs.items() if spec.operator == "head"
    }, "somebody is born"


class Disturbed:
    """Graphs whose QIM is off by a little."""

    def __init__(self, graphs: Any, error: float) -> None:
        self._graphs, self._error = graphs, error
        self.base, self.decode, self.detect_query = graphs.base, graphs.decode, graphs.detect_query

    def qim(self, embedding: Tensor, query: Tensor, mask: Tensor) -> Tensor:
        updated: Tensor = self._graphs.qim(embedding, query, mask)
        return updated + self._error


def tracking(graphs: Any, config: Any) -> Callable[[Sequence[Tensor]], Iterable[FrameStep]]:
    return lambda images: closed_loop(graphs, images, config)


def test_in_closed_loop_float_is_exact_and_a_disturbed_qim_shows_from_the_second_frame(
    quantised: QuantizedMotr, config: Config
) -> None:
    floating = in_mode(quantised, "float", config)

    def disturbed(images: Sequence[Tensor]) -> list[FrameStep]:
        quantised.mode("float")
        return list(closed_loop(Disturbed(quantised.graphs, 0.01), images, config))

    others = {"same": floating, "disturbed": disturbed, "fake": in_mode(quantised, "evaluate", config)}
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
    model = SimpleNamespace(num_detect=4, num_track=4, d_model=2, slot_columns=4, num_classes=1)
    config: Any = SimpleNamespace(model=model, tracker=TrackerConfig())
    images = [torch.full((1, 3, 2, 2), float(number)) for number in (1, 2, 3)]
    others = {"other": tracking(Scripted((2, 0, 3, 1), error), config)}
    first, *rest = compare_outputs(tracking(Scripted((0, 1, 2, 3)), config), others, {"a": images}, config)
    assert math.isfinite(first.class_logits_db)  # the confidences do differ
    for row in rest:
        assert row.shared_tracks_share == 1
        assert row.boxes_db == math.inf
        assert math.isfinite(row.embedding_db) == bool(error)


def test_a_track_that_lives_on_one_side_only_is_counted_and_left_out() -> None:
    model = SimpleNamespace(num_detect=4, num_track=4, d_model=2, slot_columns=4, num_classes=1)
    config: Any = SimpleNamespace(model=model, tracker=TrackerConfig())
    images = [torch.full((1, 3, 2, 2), float(number)) for number in (1, 2)]
    shy = Scripted((0, 1, 2, 3))
    shy._confidence = torch.tensor([4.0, 4.0, -9.0, -9.0])
    others = {"shy": tracking(shy, config)}
    _, second = compare_outputs(tracking(Scripted((0, 1, 2, 3)), config), others, {"a": images}, config)
    assert second.shared_tracks_share == 0.5
    assert second.embedding_db == math.inf


@pytest.fixture(autouse=True)
def in_evaluate_mode(quantised: QuantizedMotr) -> Iterator[None]:
    yield
    quantised.mode("evaluate")
