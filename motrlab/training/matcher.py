"""Hungarian matching of objects to detect slots (DETR, arXiv 2005.12872, section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from motrlab.boxes import box_cxcywh_to_xyxy, pairwise_giou
from motrlab.config import TrainConfig

Float = NDArray[np.floating]
Int = NDArray[np.int64]


@dataclass(frozen=True)
class HungarianMatcher:
    """Costs are those of the criterion: focal classification, L1 and GIoU of the boxes."""

    config: TrainConfig

    def __call__(self, scores: Float, boxes: Float, gt_boxes: Float) -> tuple[Int, Int]:
        """`scores` `[n]` (0 to 1), `boxes` `[n, 4]`, `gt_boxes` `[m, 4]` (cxcywh) → slots and objects, min(n, m) each.

        Slots come back in ascending order.
        """
        if len(scores) == 0 or len(gt_boxes) == 0:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        # A network that has blown up is reported by its loss; the solver would only refuse what is not finite.
        slots, objects = linear_sum_assignment(
            np.nan_to_num(self.cost(scores, boxes, gt_boxes), posinf=1e9, neginf=-1e9)
        )
        return slots.astype(np.int64), objects.astype(np.int64)

    def cost(self, scores: Float, boxes: Float, gt_boxes: Float) -> Float:
        """`[n, m]`."""
        p = np.clip(scores.astype(np.float64), 1e-8, 1 - 1e-8)
        alpha, gamma = self.config.focal_alpha, self.config.focal_gamma
        focal = alpha * (1 - p) ** gamma * -np.log(p) - (1 - alpha) * p**gamma * -np.log(1 - p)
        l1 = np.abs(boxes[:, None] - gt_boxes[None]).sum(-1)
        giou = pairwise_giou(box_cxcywh_to_xyxy(boxes), box_cxcywh_to_xyxy(gt_boxes))
        costs = self.config.class_weight * focal[:, None] + self.config.l1_weight * l1 - self.config.giou_weight * giou
        return np.asarray(costs)
