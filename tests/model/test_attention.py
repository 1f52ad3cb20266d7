from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from motrlab.model.attention import Attention, ChannelNorm, DeformableAttention, OverlapBias, TokenLinear
from motrlab.model.operations import FLOAT, MASKED


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.eval()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def matrix(layer: nn.Module) -> tuple[np.ndarray, np.ndarray]:
    """Weight `[out, in]` and bias of a 1×1 convolution or a linear layer."""
    weight = layer.weight.detach().numpy()
    return weight.reshape(weight.shape[0], -1).astype(np.float64), layer.bias.detach().numpy().astype(np.float64)


def bilinear(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """`image` `[C, H, W]` at a point in fractions of the image; nothing outside. The textbook way."""
    _, height, width = image.shape
    column, row = x * width - 0.5, y * height - 0.5
    result = np.zeros(image.shape[0])
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            if 0 <= r < height and 0 <= c < width:
                result += image[:, r, c] * (1 - abs(row - r)) * (1 - abs(column - c))
    return result


def slow_deformable_attention(
    layer: DeformableAttention, query: np.ndarray, reference: np.ndarray, memory: np.ndarray
) -> np.ndarray:
    """One sample: `query` `[C, N]`, `reference` `[4, N]`, `memory` `[C, H, W]` → `[C, N]`, one slot at a time."""
    heads, points, size = layer.num_heads, layer.num_points, layer.head_channels
    weight, bias = matrix(layer.value)
    value = np.einsum("oc,chw->ohw", weight, memory) + bias[:, None, None]
    (offset_weight, offset_bias), (score_weight, score_bias) = matrix(layer.offsets), matrix(layer.weights)
    mixed = np.zeros((heads * size, query.shape[1]))
    for slot in range(query.shape[1]):
        offsets = (offset_weight @ query[:, slot] + offset_bias).reshape(heads, points, 2)
        scores = (score_weight @ query[:, slot] + score_bias).reshape(heads, points)
        cx, cy, w, h = reference[:, slot]
        for head in range(heads):
            rows = slice(head * size, (head + 1) * size)
            for point in range(points):
                x = cx + offsets[head, point, 0] / points * w / 2
                y = cy + offsets[head, point, 1] / points * h / 2
                attention = 1 / (1 + math.exp(-scores[head, point]))
                mixed[rows, slot] += attention * bilinear(value[rows], x, y)
    weight, bias = matrix(layer.out)
    return weight @ mixed + bias[:, None]


@pytest.mark.parametrize("points", [1, 3])
def test_deformable_attention_is_what_the_paper_says(points: int) -> None:
    layer = DeformableAttention(16, 4, points)
    randomise(layer)
    query, memory = random(2, 16, 3, 4, seed=1), random(2, 16, 5, 7, seed=2)
    reference = torch.rand(2, 4, 3, 4, generator=torch.Generator().manual_seed(3)) * 1.4 - 0.2  # some points outside
    with torch.no_grad():
        found = layer(query, reference, FLOAT.values([layer], memory)[0])
    for sample in range(2):
        expected = slow_deformable_attention(
            layer, *(x[sample].flatten(1).double().numpy() for x in (query, reference)), memory[sample].double().numpy()
        )
        np.testing.assert_allclose(found[sample].flatten(1).numpy(), expected, atol=1e-5)


def test_sampling_starts_with_a_direction_per_head() -> None:
    layer = DeformableAttention(16, 4, 2)
    offsets = layer.offsets(random(1, 16, 1, 3)).reshape(3, 4, 2, 2)
    expected = torch.tensor([[1, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float32)
    torch.testing.assert_close(offsets[:, :, 0], expected.expand(3, 4, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(offsets[:, :, 1], 2 * expected.expand(3, 4, 2), atol=1e-6, rtol=0)


def test_attention_agrees_with_torch() -> None:
    ours = Attention(16, 4)
    randomise(ours)
    theirs = nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        parts = (ours.query, ours.key, ours.value)
        theirs.in_proj_weight.copy_(torch.cat([p.weight.flatten(1) for p in parts]))
        theirs.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
        theirs.out_proj.weight.copy_(ours.out.weight.flatten(1))
        theirs.out_proj.bias.copy_(ours.out.bias)
        query_key, value = random(2, 16, 3, 4, seed=1), random(2, 16, 3, 4, seed=2)
        dead = torch.tensor([0.0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1])
        found = ours(query_key, value, (dead * MASKED).reshape(1, 1, 1, 12))
        tokens, values = (x.flatten(2).transpose(1, 2) for x in (query_key, value))
        expected, _ = theirs(tokens, tokens, values, key_padding_mask=dead.bool().expand(2, 12), need_weights=False)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected, atol=1e-5, rtol=1e-5)


def test_attention_with_a_learned_bias_is_the_fused_one() -> None:
    """A bias that asks for gradients goes past torch's fused operator: same output, same gradients."""
    layer = Attention(16, 4)
    randomise(layer)
    outcomes = []
    for learned in (False, True):
        bias = random(2, 4, 12, 12, seed=3).requires_grad_(learned)
        inputs = [random(2, 16, 3, 4, seed=s).requires_grad_() for s in (1, 2)]
        output = layer(*inputs, bias)
        wanted = [*inputs, *layer.parameters()]
        outcomes.append((output, *torch.autograd.grad((output * random(*output.shape, seed=9)).sum(), wanted)))
    for fused, apart in zip(*outcomes, strict=True):
        torch.testing.assert_close(apart, fused, atol=2e-5, rtol=1e-5)


def test_channel_norm_normalises_channels() -> None:
    x = random(2, 8, 3, 4) * 5 + 3
    y = ChannelNorm(8)(x)
    torch.testing.assert_close(y.mean(1), torch.zeros(2, 3, 4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.var(1, correction=0), torch.ones(2, 3, 4), atol=1e-3, rtol=0)


def test_token_linear_keeps_slot_order() -> None:
    layer = TokenLinear(4, 4)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4))
        layer.bias.zero_()
    x = random(2, 4, 3, 5)
    torch.testing.assert_close(layer(x)[:, 7], x[:, :, 1, 2])


OVERLAPS = {  # two boxes cxcywh, and the overlap of the definition
    "same box": ((0.5, 0.5, 0.2, 0.4), (0.5, 0.5, 0.2, 0.4), 1.0),
    "half a width apart": ((0.5, 0.5, 0.2, 0.4), (0.6, 0.5, 0.2, 0.4), 0.5),
    "half apart both ways": ((0.5, 0.5, 0.2, 0.4), (0.6, 0.7, 0.2, 0.4), 0.25),
    "side by side": ((0.5, 0.5, 0.2, 0.4), (0.7, 0.5, 0.2, 0.4), 0.0),
    "far apart": ((0.1, 0.1, 0.1, 0.1), (0.9, 0.9, 0.1, 0.1), 0.0),
    "same column, far below": ((0.5, 0.1, 0.2, 0.1), (0.5, 0.9, 0.2, 0.1), 0.0),
    "small in large, same centre": ((0.5, 0.5, 0.4, 0.4), (0.5, 0.5, 0.1, 0.1), 1.0),
    "small in large, moved": ((0.5, 0.5, 0.4, 0.4), (0.55, 0.5, 0.1, 0.1), 0.8),
}


@pytest.mark.parametrize("name", OVERLAPS)
def test_overlap_bias_geometry(name: str) -> None:
    first, second, overlap = OVERLAPS[name]
    layer = OverlapBias(num_heads=2, num_detect=1, num_track=1)
    with torch.no_grad():
        layer.factor.copy_(torch.arange(1, 9, dtype=torch.float32).reshape(2, 2, 2))
    bias = layer(torch.tensor([first, second]).T.reshape(1, 4, 2, 1)).detach()
    assert bias.shape == (1, 2, 2, 2)
    expected = layer.factor.detach() * torch.tensor([[1, overlap], [overlap, 1]])  # head, query kind, key kind
    torch.testing.assert_close(bias[0], expected, atol=1e-5, rtol=1e-5)


def test_overlap_bias_is_finite_for_boxes_without_size() -> None:
    layer = OverlapBias(num_heads=2, num_detect=2, num_track=2)
    reference = torch.zeros(1, 4, 2, 2, requires_grad=True)
    bias = layer(reference)
    assert bias.isfinite().all()
    bias.sum().backward()
    assert reference.grad is None  # references give no gradient
    assert layer.factor.grad is not None
    assert layer.factor.grad.isfinite().all()
