"""What is kept of a layer's attention is what the layer computes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from motrlab.errors import UserError
from motrlab.model.motr import MotrGraphs
from motrlab.quantization.declare import example_inputs
from motrlab.viz.attention import attention_figure, query_attention
from motrlab.viz.curves import figure_png
from tests.quantization.conftest import lively, noise
from tests.tiny import tiny

CONFIG = tiny()


@pytest.fixture(scope="module")
def inputs() -> tuple[torch.Tensor, ...]:
    _, query, mask, reference = example_inputs(CONFIG.model)["base"]
    mask[..., 4:] = 0
    return next(noise(CONFIG, 1)), torch.randn(query.shape, generator=torch.Generator().manual_seed(1)), mask, reference


@torch.no_grad()
def test_points_and_weights_give_what_the_layer_samples(inputs: tuple[torch.Tensor, ...]) -> None:
    model, slot = lively(CONFIG), CONFIG.model.num_detect + 1
    found = query_attention(model, inputs, slot, layer=1)
    layer = model.base.decoder[1]
    seen: dict[str, torch.Tensor] = {}
    handle = layer.cross_attention.out.register_forward_hook(lambda m, i, o: seen.update(mixed=i[0]))
    _, boxes, _ = MotrGraphs(model).base(*inputs)
    handle.remove()
    values = model.base.value_maps(model.base.encode(inputs[0]))[1][0]  # [C, H, W]
    heads = CONFIG.model.num_heads
    maps = values.reshape(heads, -1, *values.shape[1:])
    grid = torch.from_numpy(found.points)[:, :, None] * 2 - 1
    sampled = F.grid_sample(maps, grid, align_corners=False)[..., 0]  # [M, D, P]
    mixed = (sampled * torch.from_numpy(found.weights)[:, None]).sum(-1).flatten()
    np.testing.assert_allclose(mixed, seen["mixed"][0].flatten(1)[:, slot], atol=1e-5)
    np.testing.assert_allclose(found.box, boxes[1][0].flatten(1)[:, slot], atol=1e-6)


def test_dead_slots_are_not_attended(inputs: tuple[torch.Tensor, ...]) -> None:
    found = query_attention(lively(CONFIG), inputs, 0)
    assert found.layer == CONFIG.model.decoder_layers - 1
    assert found.slots.sum() == pytest.approx(1, abs=1e-5)
    assert found.slots[CONFIG.model.num_detect + 4 :].max() < 1e-6
    assert found.slots[: CONFIG.model.num_detect + 4].min() > 0
    assert (found.name(0), found.name(CONFIG.model.num_detect)) == ("detect 0", "track 0")


def test_picture_and_mistakes(inputs: tuple[torch.Tensor, ...]) -> None:
    model = lively(CONFIG)
    found = query_attention(model, inputs, 3)
    figure = attention_figure(np.zeros((54, 96, 3), np.uint8), found)
    assert len(figure.axes[0].collections) == CONFIG.model.num_heads
    assert figure_png(figure)
    for slot, layer in ((-1, 0), (10_000, 0), (0, 9)):
        with pytest.raises(UserError, match="there are slots 0 to"):
            query_attention(model, inputs, slot, layer)
