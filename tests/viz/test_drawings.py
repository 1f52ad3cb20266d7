"""Drawings: shapes are the config's, boxes do not lie on each other, every arrow has two ends."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from motrlab.config import Config, mot17, street
from motrlab.model.motr import build_motr
from motrlab.viz import drawings
from motrlab.viz.drawings import DRAWINGS, Box, draw, write_drawings

DOCS = Path(__file__).parents[2] / "docs"


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.axes[0].texts)


@pytest.mark.parametrize("name", DRAWINGS)
def test_no_box_lies_on_another(name: str) -> None:
    patches = [p for p in DRAWINGS[name](street()).axes[0].patches if isinstance(p, FancyBboxPatch)]
    assert len(patches) >= 5
    for one, other in itertools.combinations(patches, 2):
        apart_x = abs(one.get_x() - other.get_x()) >= one.get_width()
        assert apart_x or abs(one.get_y() - other.get_y()) >= one.get_height()


def test_every_box_has_an_arrow(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Mapping[str, Box], str]] = []

    def note(boxes: Mapping[str, Box], arrows: str, title: str) -> Figure:
        seen.append((boxes, arrows))
        return draw(boxes, arrows, title)

    monkeypatch.setattr(drawings, "draw", note)
    for drawing in DRAWINGS.values():
        drawing(street())
    for boxes, arrows in seen:
        named = {end for arrow in arrows.split(", ") for end in arrow.partition(": ")[0].split(" > ")}
        assert named == set(boxes)


def test_shapes_are_those_of_the_config() -> None:
    assert "1×3×800×1422" in texts(DRAWINGS["frame_loop"](mot17()))
    assert "1×256×2×128" in texts(DRAWINGS["frame_loop"](mot17()))  # as in the reference's table of the base graph
    assert "1×96×3×8" in texts(DRAWINGS["frame_loop"](street()))
    assert "40×96" in (life := texts(DRAWINGS["query_life"](street())))
    assert "1×96×8×8" in life  # all slots
    assert "1×96×1×24" in life  # the QIM's row
    assert "512×1, boxes ×4" in texts(DRAWINGS["training_clip"](mot17()))
    assert "1×3×800×1422" in (grids := texts(DRAWINGS["quantisers"](mot17())))
    assert "1×40×400×711" in grids  # behind the stem
    assert "8×512×512" in grids
    assert "512 slots of 256" in texts(DRAWINGS["integer_forms"](mot17()))
    seven = replace(street(), scheme=replace(street().scheme, weight_bits=7))
    assert "int8 × int7" in texts(DRAWINGS["quantisers"](seven))


def test_shapes_are_those_that_the_network_has() -> None:
    """Those of the base graph, by hooks on the network of `street`."""
    config, seen = street(), {}
    model = build_motr(config.model).eval()
    model.base.backbone.stem.register_forward_hook(lambda *found: seen.update(stem=found[2].shape))
    m = config.model
    rows = m.num_track // m.slot_columns
    with torch.no_grad():
        _, boxes, embedding = model.base(
            torch.zeros(1, 3, m.height, m.width), torch.zeros(1, m.d_model, rows, m.slot_columns),
            torch.zeros(1, 1, 1, m.num_track), torch.full((1, 4, rows, m.slot_columns), 0.5),
        )  # fmt: skip
    found = texts(DRAWINGS["quantisers"](config))
    for shape in (seen["stem"], embedding.shape, boxes[-1].shape):
        assert "×".join(map(str, shape)) in found.split("\n")


@pytest.mark.parametrize("name", DRAWINGS)
@pytest.mark.parametrize("preset", [street, mot17])
def test_words_stay_inside_their_box(name: str, preset: Callable[[], Config]) -> None:
    figure = DRAWINGS[name](preset())
    figure.set_canvas(FigureCanvasAgg(figure))
    figure.canvas.draw()
    axes = figure.axes[0]
    patches = [p for p in axes.patches if isinstance(p, FancyBboxPatch)]
    for patch in patches:
        centre = (patch.get_x() + patch.get_width() / 2, patch.get_y() + patch.get_height() / 2)
        (text,) = [t for t in axes.texts if np.allclose(t.get_position(), centre)]
        inside, outside = text.get_window_extent(), patch.get_window_extent()
        assert inside.width < outside.width, text.get_text()
        assert inside.height < outside.height, text.get_text()


def test_an_arrow_to_nowhere_is_an_error() -> None:
    with pytest.raises(KeyError):
        draw({"a": Box((0, 0), "data", "a")}, "a > b", "")


def test_rules_of_the_tracker_are_those_of_the_config() -> None:
    assert "256×4" not in (found := texts(DRAWINGS["tracker_rules"](mot17())))
    assert "boxes 512×4" in found
    assert "score ≥ 0.6" in found
    assert "duplicates removed\noff" in found
    assert "5 misses" in found


def words(svg: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]+)</text>", svg.read_text(encoding="utf-8"))


def test_those_in_the_docs_are_what_the_package_draws(tmp_path: Path) -> None:
    """`python -m motrlab.viz.drawings docs/drawings` makes them again."""
    fresh = write_drawings(tmp_path, street())
    assert {path.name for path in fresh} == {path.name for path in (DOCS / "drawings").iterdir()}
    pages = (DOCS / "algorithm.md").read_text(encoding="utf-8") + (DOCS / "architecture.md").read_text(encoding="utf-8")
    for path in fresh:
        assert len(words(path)) >= 5
        assert words(path) == words(DOCS / "drawings" / path.name), path.name
        assert f"](drawings/{path.name})" in pages, path.name


def test_drawings_have_the_same_bytes_twice(tmp_path: Path) -> None:
    one, other = write_drawings(tmp_path / "a", street()), write_drawings(tmp_path / "b", street())
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]
