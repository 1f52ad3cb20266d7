"""Distillation in QAT: the distance of the fake-quantised graphs' outputs from the float model's on the same inputs.

The float model sees the quantised one's own track queries and boxes, frame by frame, so nothing has to be matched, and
errors do not add up over the clip.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from motrlab.config import TrainConfig
from motrlab.model.base import BaseOutput
from motrlab.model.motr import Motr, MotrGraphs
from motrlab.tracking.step import Graphs


class DistillingGraphs:
    """Graphs of a student that also run the teacher and add up their distance (`tracking.step.Graphs`).

    Per frame, over the detect slots and the live track slots: cross-entropy of the last class logits against the
    teacher's scores (above the entropy that no student goes below), L1 of the boxes weighted by those scores, and mean
    squared distance of the embeddings and of the QIM's queries, in units of the teacher's mean square. Class and boxes
    have the weights of the criterion.
    """

    def __init__(self, student: Graphs, teacher: Motr, config: TrainConfig) -> None:
        self._student, self._config = student, config
        self._teacher = MotrGraphs(teacher)
        self.decode = student.decode
        self.total: Tensor | float = 0.0

    @property
    def detect_query(self) -> Tensor:
        query: Tensor = self._student.detect_query
        return query

    def base(self, frame: Tensor, query: Tensor, mask: Tensor, reference: Tensor) -> Any:
        output: BaseOutput = self._student.base(frame, query, mask, reference)
        with torch.no_grad():
            expected = self._teacher.base(frame, query.detach(), mask, reference.detach())
        detect = expected[2].flatten(2).shape[2] - mask.shape[-1]
        live = torch.cat((mask.new_ones(len(mask), detect), mask.flatten(1)), 1)  # [B, N]
        logits, goal = output[0][-1].flatten(1), expected[0][-1].flatten(1)
        score = goal.sigmoid()
        surprise = F.binary_cross_entropy_with_logits(logits, score, reduction="none")
        surprise = surprise - F.binary_cross_entropy_with_logits(goal, score, reduction="none")
        boxes = (self.decode(output[1][-1]) - self.decode(expected[1][-1])).abs().flatten(2).sum(1)
        self.total = self.total + self._config.class_weight * (surprise * live).sum()
        self.total = self.total + self._config.l1_weight * (boxes * score * live).sum()
        self._add_features(output[2].flatten(2), expected[2].flatten(2), live)
        return output

    def qim(self, embedding: Tensor, query: Tensor, mask: Tensor) -> Tensor:
        updated: Tensor = self._student.qim(embedding, query, mask)
        with torch.no_grad():
            expected = self._teacher.qim(embedding.detach(), query.detach(), mask)
        self._add_features(updated.flatten(2), expected.flatten(2), mask.flatten(1))
        return updated

    def _add_features(self, found: Tensor, expected: Tensor, live: Tensor) -> None:
        """`found`, `expected` `[B, C, N]`; `live` `[B, N]`."""
        distance = (found - expected).square().mean(1)
        self.total = self.total + (distance * live).sum() / expected.square().mean().clamp(min=1e-6)
