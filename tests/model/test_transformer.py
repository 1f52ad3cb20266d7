from __future__ import annotations

import math

import pytest
import torch

from motrlab.model.operations import TEMPERATURE, sine_code
from motrlab.model.transformer import cell_centres


def test_sine_code_is_its_formula() -> None:
    values = torch.tensor([0.0, 0.25, 0.5, 1.0]).reshape(1, 2, 1, 2)
    code = sine_code(values, 8)
    assert code.shape == (1, 16, 1, 2)
    for k in range(2):
        for slot in range(2):
            value = values[0, k, 0, slot].item()
            angles = [2 * math.pi * value * TEMPERATURE ** (-i / 4) for i in range(4)]
            expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            found = code[0, 8 * k : 8 * k + 8, 0, slot].tolist()
            assert found == pytest.approx(expected, abs=1e-5)


def test_sine_code_tells_positions_apart() -> None:
    """Neighbouring cells of a map 45 wide differ by more than int8 noise, and far ones by more than near ones."""
    x = (torch.arange(45) + 0.5) / 45
    code = sine_code(x.reshape(1, 1, 1, 45), 128)[0, :, 0].T
    distance = torch.cdist(code, code)
    near = distance.diagonal(1)
    assert near.min() > 0.3
    assert distance[0, 20] > 3 * near.max()


def test_cell_centres() -> None:
    cells = cell_centres(2, 4)
    assert cells.shape == (1, 4, 2, 4)
    assert cells[0, :, 0, 0].tolist() == pytest.approx([0.125, 0.25, 0.5, 1.0])
    assert cells[0, :, 1, 3].tolist() == pytest.approx([0.875, 0.75, 0.5, 1.0])
    offset_of_one_cell = cells[0, 2, 0, 0].item() / 2
    assert offset_of_one_cell == pytest.approx((cells[0, 0, 0, 1] - cells[0, 0, 0, 0]).item())
