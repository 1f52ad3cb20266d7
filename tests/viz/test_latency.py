from dataclasses import replace

import numpy as np
import pytest

from motrlab.viz.curves import figure_png
from motrlab.viz.latency import busy_ms, layer_speeds, memory_curve, module_shares, modules_beside, roofline, timeline
from tests.report.performances import layers, measured, predicted


def test_a_bar_for_every_span() -> None:
    performance = predicted()
    (ax,) = timeline(performance).axes
    spans = performance.sections["timeline"]["spans"]
    assert sum(len(bars.get_paths()) for bars in ax.collections) == len(spans)
    assert [t.get_text() for t in ax.get_yticklabels()] == [
        "matrix",
        "depthwise",
        "vector",
        "table",
        "move",
        "load",
        "host",
    ]


def test_busy_time_of_each_lane() -> None:
    performance = predicted()
    spans = performance.sections["timeline"]["spans"]
    found = busy_ms(performance)
    assert sum(found.values()) == pytest.approx(sum(end - start for _, start, end, _ in spans))
    assert set(found) == {lane for lane, *_ in spans}
    assert list(found.values()) == sorted(found.values(), reverse=True)


def test_roofline_has_every_product_under_its_roof() -> None:
    performance = predicted()
    speeds = layer_speeds(performance)
    assert len(speeds) == sum(layer.macs > 0 for layer in layers())
    bandwidth = performance.sections["roofline"]["bandwidth_gbs"]["on_chip"]
    assert all(speed <= bandwidth * intensity * 1.001 for _, intensity, speed in speeds)
    figure = roofline(performance)
    np.testing.assert_allclose(figure.axes[0].collections[0].get_offsets(), [[x, y] for _, x, y in speeds])
    assert figure_png(figure).startswith(b"\x89PNG")


def test_memory_peak_is_named() -> None:
    performance = predicted()
    figure = memory_curve(performance)
    for ax, memory in zip(figure.axes, performance.sections["memory"].values(), strict=True):
        heights = np.asarray(ax.lines[0].get_ydata(), float)
        assert heights.max() == memory["peak_bytes"] / 1e6
        assert memory["peak_layer"] in ax.texts[0].get_text()


def test_modules_side_by_side() -> None:
    both = [measured(), predicted()]
    shares = [module_shares(p) for p in both]
    assert sum(shares[0].values()) == pytest.approx(1)
    (ax,) = modules_beside(both, most=3).axes
    widths = [bar.get_width() for bar in ax.patches]
    names = list(shares[0])[:3]
    np.testing.assert_allclose(widths, [100 * s[n] for s in shares for n in names])
    other = replace(both[1], layers=both[1].layers[:1])  # a module that only one target has
    assert figure_png(modules_beside([both[0], other])).startswith(b"\x89PNG")
