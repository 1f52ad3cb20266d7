from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from motrlab.config import Config, mot17, street
from motrlab.deploy.calops import Ops, count_operations, format_operations
from motrlab.model.motr import build_motr
from tests.tiny import tiny


def count(config: Config) -> dict[str, Ops]:
    return count_operations(build_motr(config.model), config.model)


def test_the_reference_has_its_published_size() -> None:
    """20.5 M parameters in base, 8.2 M of them backbone, 1.3 M in the QIM, 21 GMAC in the backbone."""
    operations = count(mot17())
    backbone = next(row for row in operations["base"].modules if row.name == "backbone")
    assert backbone.macs / 1e9 == pytest.approx(21, rel=0.02)
    assert backbone.params / 1e6 == pytest.approx(8.2, rel=0.01)
    assert backbone.output_shape == (1, 384, 25, 45)
    assert operations["base"].params / 1e6 == pytest.approx(20.5, rel=0.01)
    assert operations["qim"].params / 1e6 == pytest.approx(1.3, rel=0.02)


def test_counts_agree_with_pencil_and_paper() -> None:
    config = tiny()
    m = config.model
    rows = {row.name: row for row in count(config)["base"].modules}
    cells, channels = 12 * 20, m.d_model
    assert rows["input_projection"].macs == cells * 32 * channels
    assert rows["input_projection"].params == 32 * channels + channels
    samples = cells * channels * m.encoder_points
    projections = cells * channels * (2 * channels + 3 * m.num_heads * m.encoder_points)  # value, out; offsets, weights
    feed_forward = cells * 2 * channels * m.ffn_channels
    assert rows["encoder.0"].macs == projections + feed_forward
    assert rows["encoder.0"].sample_macs == 4 * samples
    assert rows["decoder.0"].sample_macs == 4 * m.num_slots * channels * m.decoder_points
    assert rows["class_heads.1"].macs == m.num_slots * channels
    assert rows["position"].macs == m.decoder_layers * m.num_slots * channels * (2 * channels + channels)
    assert rows["(itself)"].macs == 0  # the graph calls nothing that is not a part's
    decoder = count(replace(config, model=replace(m, height=m.height // 2)))["base"].modules
    fewer = next(row.macs for row in decoder if row.name == "decoder.0")
    assert rows["decoder.0"].macs - fewer == cells // 2 * channels**2  # the values that it samples, one for each cell


def test_qim_agrees_with_pencil_and_paper() -> None:
    config = street()
    m, slots = config.model, config.model.num_track
    attention = 4 * slots * m.d_model**2 + 2 * slots**2 * m.d_model
    pointwise = 4 * slots * m.d_model * m.ffn_channels  # FFN and branch, two convolutions each
    assert count(config)["qim"].macs == attention + pointwise


@pytest.mark.parametrize("preset", [tiny, street], ids=["tiny", "street"])
def test_rows_add_up(preset: Callable[[], Config]) -> None:
    for ops in count(preset()).values():
        assert sum(row.macs for row in ops.modules) == ops.macs
        assert sum(row.params for row in ops.modules) == ops.params
        assert all(min(row.macs, row.params, row.sample_macs) >= 0 for row in ops.modules)


def test_the_model_is_left_alone() -> None:
    config = tiny()
    model = build_motr(config.model).train()
    count_operations(model, config.model)
    assert model.training
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert not any(m._forward_hooks for m in model.modules())


def test_table_shows_every_module() -> None:
    operations = count(tiny())
    table = format_operations(operations)
    for graph, ops in operations.items():
        assert all(f"{graph}.{row.name}" in table for row in ops.modules)
        (total,) = [line.split() for line in table.splitlines() if line.split()[0] == graph]
        counts = (ops.params / 1e3, ops.macs / 1e6, ops.sample_macs / 1e6)
        assert [float(word) for word in total[1:4]] == pytest.approx(counts, abs=0.05)
    assert math.prod(count(tiny())["base"].modules[0].output_shape) == 32 * 12 * 20
