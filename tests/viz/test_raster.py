from __future__ import annotations

import numpy as np

from motrlab.viz.curves import panels
from motrlab.viz.raster import Raster, beside, bgr, jpeg, stacked


def raster() -> Raster:
    figure, (ax,) = panels(4.0, 2.0, grid="")
    ax.plot([0, 10], [0, 1], color="#ff0000", marker="s", markersize=6, linewidth=0)
    ax.set(xlim=(-1, 11), ylim=(-0.5, 1.5))
    return Raster.of(figure)


def test_places_are_where_the_figure_drew() -> None:
    drawn = raster()
    assert drawn.image.shape == (200, 400, 3)
    for x, y in ((0, 0), (10, 1)):
        column, row = drawn.place(x, y)
        assert drawn.image[row, column].tolist() == [0, 0, 255]


def test_a_line_is_painted_on_a_copy() -> None:
    drawn = raster()
    painted = drawn.with_line(5, (0, 255, 0))
    _, _, top, bottom = drawn.span()
    assert painted[(top + bottom) // 2, drawn.place(5, 0)[0]].tolist() == [0, 255, 0]
    changed = np.argwhere((painted != drawn.image).any(2))
    assert changed[:, 0].min() >= top - 1
    assert changed[:, 0].max() <= bottom + 1
    assert np.array_equal(drawn.with_line(50, (0, 255, 0)), drawn.image)  # beyond the axes


def test_pictures_together() -> None:
    assert bgr("#0102ff") == (255, 2, 1)
    one = np.zeros((4, 3, 3), np.uint8)
    assert beside([one, one]).shape == (4, 12, 3)
    assert stacked([one, beside([one, one])]).shape == (8, 12, 3)
    assert jpeg(one)[:3] == b"\xff\xd8\xff"
