"""Advice: each kind appears where its cause was put in, and only there; it never says what cannot be done."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from motrlab.config.scheme import OBSERVERS, OPERATORS
from motrlab.quantization.analysis.advice import advice
from motrlab.quantization.analysis.layers import LayerRow, TapPoint, layer_row, measure

PATH = "encoder.0.attention.value"
POINT = TapPoint("base", PATH, PATH, "linear", "moving_average", 1, False, 0.1, -128, 127)
SOURCES = (*OBSERVERS, "fixed", "ceiling")


def row(x: np.ndarray, *, shift: float = 0.0, noise: float = 0.0) -> LayerRow:
    """`x` on the grid of `POINT`; both others `shift` steps away, fixed-point with `noise` steps more at random."""
    on_grid = np.clip(np.rint(x / POINT.scale), POINT.quant_min, POINT.quant_max) * POINT.scale + POINT.scale * shift
    moved = on_grid + POINT.scale * np.rint(noise * np.random.default_rng(0).normal(size=x.shape))
    return layer_row(POINT, measure(POINT, x, on_grid, moved))


def normal(spread: float) -> np.ndarray:
    """Normal values that go to ±4 `spread` and no further."""
    return np.append(np.clip(np.random.default_rng(1).normal(size=4000), -4, 4), (4, -4)) * spread


GOOD = row(normal(3.1))
OUTLIERS = np.concatenate((normal(0.3), [12.7, -12.7]))
CASES = {
    "saturates": row(normal(6.0)),
    "range used badly": row(normal(0.8)),
    "steps too coarse": row(OUTLIERS),
    "offset": row(np.clip(normal(3.1), -11, 11), shift=1.0),
    "fixed-point differs": row(np.clip(normal(3.0), -9, 9), noise=8.0),
}


def only(found: LayerRow) -> str:
    (text,) = advice([found])
    return text


def test_nothing_to_say_of_a_good_tensor() -> None:
    assert advice([GOOD]) == []
    assert advice([]) == []


@pytest.mark.parametrize(("words", "bad"), CASES.items(), ids=CASES)
def test_each_kind_names_its_tensor_and_a_number(words: str, bad: LayerRow) -> None:
    found = advice([GOOD, replace(bad, tensor="bad")])
    told = [text for text in found if words in text]
    assert len(told) == 1
    assert told[0].startswith("base bad (linear): ")
    assert any(character.isdigit() for character in told[0].removeprefix("base bad"))
    assert not any(text.startswith(f"base {PATH}") for text in found)


def test_numbers_and_reasons() -> None:
    assert "0.25 of what the grid reaches, so 2.0 bits are not used" in only(CASES["range used badly"])
    assert "although 1.00 of its range is used: a few large values set the step" in only(CASES["steps too coarse"])
    assert "1.00 steps too low on average" in only(row(np.clip(normal(3.1), -11, 11), shift=-1.0))


@pytest.mark.parametrize("kind", CASES)
def test_int16_is_never_offered(kind: str) -> None:
    """Conversion refuses it: integer kernels have int8 only (`deploy/kernel_graph.py`)."""
    for source, operator, num_sharing, equalisable in itertools.product(SOURCES, OPERATORS, (1, 3), (True, False)):
        bad = replace(CASES[kind], observer=source, operator=operator, num_sharing=num_sharing, equalisable=equalisable)
        told = " ".join(advice([bad]))
        assert kind in told
        assert "int16" not in told
        assert "float" not in told


@pytest.mark.parametrize("source", SOURCES)
def test_more_frames_only_where_an_observer_follows_the_extremes(source: str) -> None:
    """Percentile, MSE and KL clip on purpose, as do a fixed scale and a ReLU6; a mean of maxima lies below the most."""
    bad = replace(CASES["saturates"], observer=source)
    assert ("more frames" in only(bad)) == (source == "min_max")
    others = [replace(found, observer=source) for kind, found in CASES.items() if kind != "saturates"]
    assert "frames" not in " ".join(advice(others)), "values that lie inside gain nothing from more frames"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("min_max", "Calibrate on more frames."),
        ("moving_average", "Its range is a mean of frames' maxima: calibrate with observer min_max."),
        ("percentile", "Observer percentile chose to clip: where that costs accuracy, take min_max"),
        ("mse", "Observer mse chose to clip"),
        ("kl", "Observer kl chose to clip"),
        ("fixed", "Its scale is fixed: a rule's scale near 0.19 would reach it."),
        ("ceiling", "That is its ReLU6: leave it."),
    ],
)
def test_what_to_do_about_saturation(source: str, words: str) -> None:
    assert words in only(replace(CASES["saturates"], observer=source))


def test_an_observer_is_not_told_to_become_itself() -> None:
    for source in OBSERVERS:
        bad = replace(CASES["saturates"], observer=source)
        assert f"with observer {source}" not in only(bad)
        assert f"take {source}" not in only(bad)
        assert ("percentile or mse" in only(replace(CASES["steps too coarse"], observer=source))) == (
            source in ("min_max", "moving_average")
        )


def test_a_grid_that_others_need_is_not_told_to_shrink() -> None:
    alone, shared = (replace(CASES["range used badly"], num_sharing=number) for number in (1, 6))
    assert "a rule's scale near 0.025 instead of 0.1 would use them" in only(alone).lower()
    assert "6 tensors share the grid, and another needs it" in only(shared)
    assert "scale" not in only(shared)
    wider = replace(CASES["saturates"], num_sharing=6, observer="fixed")
    assert "a rule's scale near 0.19 for all 6 tensors that share the grid would reach it" in only(wider)
    coarse = replace(CASES["steps too coarse"], num_sharing=6)
    assert "observer percentile or mse for all 6 tensors that share the grid" in only(coarse)


def test_equalisation_and_adaptive_rounding_only_where_they_reach() -> None:
    coarse = CASES["steps too coarse"]
    assert "equalise" in only(replace(coarse, equalisable=True))
    assert "equalise" not in only(coarse)
    assert "adaptive_rounding" in only(CASES["offset"])
    assert "adaptive_rounding" not in only(replace(CASES["offset"], operator="norm"))


def test_any_difference_between_the_two_integers_is_told() -> None:
    one = replace(GOOD, mismatch_share=1e-6, largest_step=1)
    assert "fixed-point differs from fake-quant in 0.0001 % of the values, by up to 1 steps, first here" in only(one)


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
