"""Tiny graphs with the same arithmetic in NumPy and in torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest


@dataclass(frozen=True)
class Sizes:
    height: int = 4
    width: int = 6
    d_model: int = 3
    num_detect: int = 8
    num_track: int = 4
    slot_columns: int = 2
    num_classes: int = 1


class TinyGraphs:
    """Every output depends on every input; scores, boxes and embeddings come from fixed random matrices."""

    def __init__(self, sizes: Sizes, like: Any = np.asarray) -> None:
        random = np.random.default_rng(3)
        c, columns = sizes.d_model, sizes.slot_columns
        self.calls: list[str] = []
        self._like = like
        rows = sizes.num_detect // columns
        self.detect_query = like(random.normal(size=(1, c, rows, columns)).astype(np.float32))
        self._detect_box = like(random.uniform(0.2, 0.8, (1, 4, rows, columns)).astype(np.float32))
        self._score = like(random.normal(size=(c, 1)).astype(np.float32))
        # A slot likes light frames or dark ones, so that tracks are born and end.
        self._sensitivity = like(random.normal(0, 2, (1, 1, rows + sizes.num_track // columns, columns)).astype("f4"))
        self._mix = like((random.normal(size=(c, c)) * 0.7).astype(np.float32))

    def base(self, frame: Any, query: Any, mask: Any, reference: Any) -> Any:
        self.calls.append("base")
        batch = query.shape[0]
        brightness = frame.mean((1, 2, 3))[:, None, None, None]
        slots = self._slots(self.detect_query, query * mask.reshape(batch, 1, *query.shape[2:]), batch)
        embedding = self._channels(slots, self._mix) + brightness
        logits = self._channels(embedding, self._score) + brightness * self._sensitivity
        boxes = self._slots(self._detect_box, reference, batch) + 0.01 * logits
        return (logits * 0, logits), (boxes * 0, boxes), embedding

    def qim(self, embedding: Any, query: Any, mask: Any) -> Any:
        self.calls.append("qim")
        mixed = self._channels(embedding + query, self._mix)
        return mixed / (1 + abs(mixed)) + 1  # bounded, and not zero where the slot is empty

    def decode(self, boxes: Any) -> Any:
        return boxes * 1.0

    def _slots(self, detect: Any, track: Any, batch: int) -> Any:
        if isinstance(track, np.ndarray):
            return np.concatenate((np.repeat(detect, batch, 0), track), 2)
        import torch

        return torch.cat((detect.expand(batch, -1, -1, -1), track), 2)

    def _channels(self, x: Any, matrix: Any) -> Any:
        """`[B, C, R, W]` through a matrix `[C, K]`."""
        flat = x.reshape(x.shape[0], x.shape[1], -1).swapaxes(1, 2) @ matrix
        return flat.swapaxes(1, 2).reshape(x.shape[0], matrix.shape[1], *x.shape[2:])


@pytest.fixture
def sizes() -> Sizes:
    return Sizes()


@pytest.fixture
def numpy_graphs(sizes: Sizes) -> TinyGraphs:
    return TinyGraphs(sizes)


@pytest.fixture
def torch_graphs(sizes: Sizes) -> TinyGraphs:
    import torch

    return TinyGraphs(sizes, torch.as_tensor)
