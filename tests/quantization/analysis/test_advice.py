"""Advice: each kind appears where its cause was put in, and only there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from motrlab.quantization.analysis.advice import advice
from motrlab.quantization.analysis.layers import LayerRow, TapPoint, layer_row, measure

POINT = TapPoint("base", "conv2d_7", "encoder.0.attention.value", 0.1, -128, 127)


def row(x: np.ndarray, *, point: TapPoint = POINT, shift: float = 0.0, noise: float = 0.0) -> LayerRow:
    """`x` on the grid of `point`; fixed-point `shift` steps away, with `noise` steps more at random."""
    on_grid = np.clip(np.rint(x / point.scale), point.quant_min, point.quant_max) * point.scale
    moved = on_grid + point.scale * np.rint(shift + noise * np.random.default_rng(0).normal(size=x.shape))
    return layer_row(point, measure(point, x, on_grid, moved))


def normal(spread: float) -> np.ndarray:
    """Normal values that go to ±4 `spread` and no further."""
    return np.append(np.clip(np.random.default_rng(1).normal(size=4000), -4, 4), (4, -4)) * spread


GOOD = row(normal(3.1))
OUTLIERS = np.concatenate((normal(0.3), [12.7, -12.7]))
CASES = {
    "saturates": row(normal(6.0)),
    "range used badly": row(normal(0.8)),
    "int16 would help": row(OUTLIERS),
    "offset": row(np.clip(normal(3.1), -11, 11), shift=1.0),
    "fixed-point differs": row(np.clip(normal(3.0), -9, 9), noise=8.0),
}


def test_nothing_to_say_of_a_good_tensor() -> None:
    assert advice([GOOD]) == []
    assert advice([]) == []


@pytest.mark.parametrize(("words", "bad"), CASES.items(), ids=CASES)
def test_each_kind_names_its_tensor_and_a_number(words: str, bad: LayerRow) -> None:
    found = advice([GOOD, replace(bad, tensor="bad")])
    told = [text for text in found if words in text]
    assert len(told) == 1
    assert told[0].startswith("base bad (encoder.0.attention.value): ")
    assert any(character.isdigit() for character in told[0].removeprefix("base bad (encoder.0.attention.value)"))
    assert not any(text.startswith("base conv2d_7") for text in found)


def test_numbers_and_reasons() -> None:
    (text,) = advice([CASES["range used badly"]])
    assert "0.25 of what the grid reaches, so 2.0 bits lie idle; a scale near 0.025 instead of 0.1" in text
    (text,) = advice([CASES["int16 would help"]])
    assert "although 1.00 of its range is used: a few large values set the step" in text
    (text,) = [t for t in advice([row(np.clip(normal(3.1), -11, 11), shift=-1.0)]) if "offset" in t]
    assert "1.00 steps too low on average" in text


def test_int16_grids_are_not_told_to_become_int16() -> None:
    wide = TapPoint("base", "grid", "", 0.1 / 256, -32768, 32767)
    assert advice([row(OUTLIERS, point=wide)]) == []
    assert advice([replace(CASES["int16 would help"], quant_min=-32768, quant_max=32767)]) == []


def test_exact_tensors_need_nothing_however_little_range_they_use() -> None:
    assert advice([row(np.array([0.1, -0.2, 0.3] * 10))]) == []


def test_a_short_list_with_the_gravest_of_each_kind_first() -> None:
    many = [replace(bad, tensor=f"{kind}{i}") for i in range(5) for kind, bad in enumerate(CASES.values())]
    worst = replace(CASES["range used badly"], tensor="worst", range_used=0.01)
    found = advice([*many, worst])
    assert len(found) == 8
    assert len(advice([*many, worst], limit=3)) == 3
    unused = [text for text in found if "range used badly" in text]
    assert unused[0].startswith("base worst")
    assert sum("fixed-point differs" in text for text in found) == 1, "what follows the first inherits it"
