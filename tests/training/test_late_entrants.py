"""The late-entrant check with scorers whose answer is known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from motrlab.config import Config, ModelConfig
from motrlab.data.preprocess import preprocess
from motrlab.data.store import FrameStore
from motrlab.data.transforms import FrameObjects
from motrlab.model.motr import MotrGraphs, build_motr
from motrlab.training.late_entrants import NUM_FRAMES, check_clips, detect_scores, late_entrants, roc_auc

CENTRES = np.array([[0.1 + 0.2 * i, 0.2 + 0.3 * j] for i in range(4) for j in range(2)])  # eight people, apart
PEOPLE = np.concatenate((CENTRES, np.full((8, 2), 0.1)), 1).astype(np.float32)


@dataclass
class Scorer:
    """Graphs on NumPy arrays whose detect slot i has the box of person i, and whose tracks stay where they are.

    `kind` is its way of scoring detect slots: `perfect` fires on people without a track on them, `inverse` on those
    with one, `random` anyhow, `silent` never.
    """

    model: ModelConfig
    kind: str
    rng: np.random.Generator

    @property
    def detect_query(self) -> NDArray[np.float32]:
        model = self.model
        shape = (1, model.d_model, model.num_detect // model.slot_columns, model.slot_columns)
        return np.zeros(shape, np.float32)

    def base(self, frame: Any, query: Any, mask: Any, reference: Any) -> tuple[Any, Any, Any]:
        model, batch = self.model, len(frame)
        boxes = np.concatenate((np.tile(PEOPLE.T[None], (batch, 1, 1)), reference.reshape(batch, 4, -1)), 2)
        live = mask.reshape(batch, -1) > 0
        near = np.abs(boxes[:, :2, :8, None] - boxes[:, :2, None, 8:]).max(1) < 0.05  # [B, detect, track]
        covered = (near & live[:, None]).any(2)
        firing = {
            "perfect": ~covered,
            "inverse": covered,
            "random": self.rng.random(covered.shape),
            "silent": np.zeros(covered.shape),
        }[self.kind]
        scores = np.concatenate((0.1 + 0.8 * firing, 0.9 * live), 1).clip(1e-3, 1 - 1e-3)
        rows = (8 + model.num_track) // model.slot_columns
        logits = np.log(scores / (1 - scores)).reshape(batch, 1, rows, -1).astype(np.float32)
        embedding = np.zeros((batch, model.d_model, rows, model.slot_columns), np.float32)
        return (logits,), (boxes.reshape(batch, 4, rows, -1),), embedding

    def qim(self, embedding: Any, query: Any, mask: Any) -> Any:
        return query

    def decode(self, boxes: Any) -> Any:
        return boxes


@pytest.fixture
def eight(slots: ModelConfig) -> ModelConfig:
    return replace(slots, num_detect=8, num_track=8)


def check(model: ModelConfig, kind: str, visibility: float = 1.0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Scores and labels of everybody, over 200 clips."""
    rng = np.random.default_rng(5)
    everybody = FrameObjects(PEOPLE, np.arange(8) + 100, np.full(8, visibility))
    people = [[everybody] * 200] * NUM_FRAMES
    images = [np.zeros((200, 3, 4, 4), np.float32)] * NUM_FRAMES
    return check_clips(Scorer(model, kind, rng), images, people, model, rng)


@pytest.mark.parametrize(("kind", "expected", "tolerance"), [
    ("perfect", 1.0, 0.0), ("inverse", 0.0, 0.0), ("random", 0.5, 0.04), ("silent", 0.5, 0.0),
])  # fmt: skip
def test_scorers(eight: ModelConfig, kind: str, expected: float, tolerance: float) -> None:
    scores, late = check(eight, kind)
    assert len(scores) == 200 * 8  # everybody was tracked, and is asked for
    assert late.mean() == pytest.approx(0.4, abs=0.04)
    assert roc_auc(scores, late) == pytest.approx(expected, abs=tolerance)


def test_hidden_people_are_not_asked_for(eight: ModelConfig) -> None:
    assert len(check(eight, "perfect", visibility=0.2)[0]) == 0


def test_a_slot_is_about_the_person_it_overlaps_most() -> None:
    people = np.array([[0.5, 0.5, 0.2, 0.2], [0.53, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]])
    boxes = np.array([[0.54, 0.5, 0.2, 0.2], [0.51, 0.5, 0.2, 0.2], [0.9, 0.9, 0.2, 0.2], [0.18, 0.1, 0.1, 0.1]])
    scores = np.array([0.9, 0.3, 0.8, 0.7])
    np.testing.assert_array_equal(detect_scores(scores, boxes, people), [0.3, 0.9, 0])  # the last overlaps too little
    assert len(detect_scores(scores, boxes, np.zeros((0, 4)))) == 0


def test_roc_auc_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, 50).astype(float), rng.random(50) < 0.3
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels] for b in scores[~labels]]
    assert roc_auc(scores, labels) == pytest.approx(np.mean(pairs))
    assert roc_auc(scores, np.ones(50, bool)) is None
    assert roc_auc(np.zeros(0), np.zeros(0, bool)) is None


def test_on_a_store(store: FrameStore, config: Config) -> None:
    """A real model on real frames: repeatable, bounded, and quiet about what it cannot know."""
    model = config.model

    def to_tensor(image: Any) -> torch.Tensor:
        return torch.from_numpy(preprocess(image, model.height, model.width))[None]

    graphs = MotrGraphs(build_motr(model).eval())
    with torch.no_grad():
        found = [late_entrants(graphs, store, to_tensor, model, num_clips=12) for _ in range(2)]
        nothing = late_entrants(graphs, store, to_tensor, model, num_clips=0)
    assert found[0] == found[1]
    auc = found[0]["late_entrant_auc"]
    assert auc is None or 0 <= auc <= 1
    assert nothing == {"late_entrant_auc": None, "late_entrants": 0, "late_entrant_tracked": 0}
