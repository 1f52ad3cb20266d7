from __future__ import annotations

from typing import Any

import torch
from torch import nn

from motrlab.config import ModelConfig
from motrlab.model.motr import Motr, MotrGraphs, build_motr, folded_copy
from tests.tiny import tiny


def test_a_seed_gives_the_same_weights_and_leaves_the_caller_alone() -> None:
    config = tiny().model
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first, again, other = (build_motr(config, seed).state_dict() for seed in (5, 5, 6))
    torch.testing.assert_close(torch.rand(3), expected)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_folded_copy_keeps_outputs_and_the_original(model: Motr, frame: Any) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = folded_copy(model)
    with torch.no_grad():
        ours, theirs = folded.base(*frame.as_tuple()), model.base(*frame.as_tuple())
    for one, other in zip((*ours[0], *ours[1], ours[2]), (*theirs[0], *theirs[1], theirs[2]), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_graphs_of_value_maps_equal_graphs_of_images(model: Motr, frame: Any) -> None:
    whole, encoded = MotrGraphs(model), MotrGraphs(model, encoded=True)
    with torch.no_grad():
        values = model.base.value_maps(model.base.encode(frame.image))
        from_image = whole.base(*frame.as_tuple())
        from_values = encoded.base(values, frame.query, frame.mask, frame.reference)
    torch.testing.assert_close(from_values[2], from_image[2], rtol=0, atol=0)


def test_decoded_boxes_are_fractions(model: Motr, config: ModelConfig, frame: Any) -> None:
    graphs = MotrGraphs(model)
    with torch.no_grad():
        boxes = graphs.decode(graphs.base(*frame.as_tuple())[1][-1])
    assert (boxes[:, 2:] > 0).all()
    if not config.relative_boxes:
        assert boxes.min() > 0
        assert boxes.max() < 1
