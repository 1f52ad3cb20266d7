"""Collective average loss (MOTR): all frames, all decoder layers, divided once by the objects of the clips.

Shape legend: F frames, L decoder layers, B clips, K classes, N slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from motrlab.boxes import box_cxcywh_to_xyxy, box_giou
from motrlab.config import TrainConfig
from motrlab.tracking.step import FrameOutput
from motrlab.training.assignment import FrameMatch


@dataclass(frozen=True)
class ClipLoss:
    """Sums over the clips, weighted, not yet divided: `total`, and `terms`, kind → `[F, L]`, detached.

    What is minimised is `total` over `num_objects` of all the clips of a step, on whatever processors they are; the
    values that `named` and `mean` give are divided by the objects of these clips alone.
    """

    total: Tensor
    terms: dict[str, Tensor]
    num_objects: int

    @property
    def mean(self) -> Tensor:
        """The loss of these clips alone: `total` per object."""
        return self.total / max(self.num_objects, 1)

    def named(self) -> dict[str, float]:
        """Every term under its name: `frame_0.layer_2.giou`."""
        return {
            f"frame_{f}.layer_{layer}.{kind}": float(value) / max(self.num_objects, 1)
            for kind, table in self.terms.items()
            for f, row in enumerate(table.tolist())
            for layer, value in enumerate(row)
        }

    def plus(self, kind: str, total: Tensor, table: Tensor) -> "ClipLoss":
        """With one more kind of term: its sum, and its share by frame and layer `[F, L]`."""
        return ClipLoss(self.total + total, {**self.terms, kind: table.detach()}, self.num_objects)


class SetCriterion:
    """Focal classification of all live slots, a sigmoid a class; L1 and GIoU of the positive ones; in every layer."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config

    def __call__(self, outputs: Sequence[FrameOutput], matches: Sequence[FrameMatch]) -> "ClipLoss":
        """`outputs` and `matches`, one of each per frame of the clips."""
        config = self.config
        logits = torch.stack(
            [torch.stack([x.flatten(2) for x in o.logits]) for o in outputs]
        ).float()  # [F, L, B, K, N]
        boxes = torch.stack([torch.stack([x.flatten(2) for x in o.boxes]) for o in outputs]).float()
        index, gt_boxes, kind = _positives(matches, logits.device)
        target = torch.zeros_like(logits)
        target[(*index[:3], kind, index[3])] = 1.0
        valid = torch.from_numpy(np.stack([m.valid for m in matches])).to(logits.device)
        focal = focal_loss(logits, target, config.focal_alpha, config.focal_gamma) * valid[:, :, :, None]
        predicted = boxes.transpose(3, 4)[index]  # [k, 4]
        l1 = (predicted - gt_boxes).abs().sum(-1)
        giou = 1 - box_giou(box_cxcywh_to_xyxy(predicted), box_cxcywh_to_xyxy(gt_boxes))
        terms = {
            "class": focal.sum((2, 3, 4)) * config.class_weight,
            "l1": _by_layer(l1, index, logits) * config.l1_weight,
            "giou": _by_layer(giou, index, logits) * config.giou_weight,
        }
        total = torch.stack([t.sum() for t in terms.values()]).sum()
        num_objects = sum(m.num_objects for m in matches)
        return ClipLoss(total, {kind: t.detach() for kind, t in terms.items()}, num_objects)


def focal_loss(logits: Tensor, target: Tensor, alpha: float, gamma: float) -> Tensor:
    """Elementwise sigmoid focal loss (arXiv 1708.02002); any shape."""
    probability = logits.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    miss = torch.where(target > 0.5, 1 - probability, probability)
    weight = torch.where(target > 0.5, alpha, 1 - alpha)
    return weight * miss**gamma * entropy


def _positives(matches: Sequence[FrameMatch], device: torch.device) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """Index (frame, layer, clip, slot) of the positive slots, each `[k]`, their boxes `[k, 4]` and classes `[k]`."""
    index = np.concatenate([np.insert(match.index, 0, f, axis=0) for f, match in enumerate(matches)], 1)
    boxes = np.concatenate([match.box for match in matches]).astype(np.float32)
    kinds = np.concatenate([match.kind for match in matches])
    found = (torch.from_numpy(values).to(device) for values in (index, boxes, kinds))
    return tuple(next(found)), next(found), next(found)


def _by_layer(values: Tensor, index: tuple[Tensor, ...], like: Tensor) -> Tensor:
    """Sums of `values` `[k]` per frame and layer: `[F, L]`."""
    num_frames, num_layers = like.shape[:2]
    flat = values.new_zeros(num_frames * num_layers).index_add(0, index[0] * num_layers + index[1], values)
    return flat.reshape(num_frames, num_layers)
