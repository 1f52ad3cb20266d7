from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from motrlab.config import ModelConfig
from motrlab.model.motr import Motr


@pytest.fixture(scope="module")
def slots(config: ModelConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Embedding, query and mask of two streams."""
    generator = torch.Generator().manual_seed(2)
    shape = (2, config.d_model, 1, config.num_track)
    mask = torch.zeros(2, 1, 1, config.num_track)
    mask[0, ..., :3], mask[1, ..., ::2] = 1, 1
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator), mask


def run(model: Motr, *inputs: Any) -> Tensor:
    with torch.no_grad():
        out: Tensor = model.qim(*inputs)
    return out


def test_shape(model: Motr, slots: Any) -> None:
    assert run(model, *slots).shape == slots[0].shape


def test_empty_slots_change_nothing(model: Motr, slots: Any) -> None:
    embedding, query, mask = slots
    dirty = run(model, embedding + (1 - mask) * 30, query - (1 - mask) * 30, mask)
    torch.testing.assert_close(dirty * mask, run(model, *slots) * mask, rtol=0, atol=1e-6)
    assert dirty.isfinite().all()


def test_live_slots_see_each_other(model: Motr, slots: Any) -> None:
    """The control of the test above."""
    embedding, query, mask = slots
    other = embedding.clone()
    other[0, :, 0, 1] += 5 * torch.randn(embedding.shape[1], generator=torch.Generator().manual_seed(9))
    assert (run(model, other, query, mask) - run(model, *slots))[0, :, 0, 0].abs().max() > 1e-4


def test_all_empty_gives_no_nan(model: Motr, slots: Any) -> None:
    embedding, query, mask = slots
    assert run(model, embedding * 0, query * 0, mask * 0).isfinite().all()


def test_batch_of_two_equals_two_singles(model: Motr, slots: Any) -> None:
    together = run(model, *slots)
    for index in range(2):
        single = run(model, *(x[index : index + 1] for x in slots))
        torch.testing.assert_close(together[index : index + 1], single, atol=1e-5, rtol=1e-5)


def test_permuted_slots_give_permuted_queries(model: Motr, slots: Any) -> None:
    order = torch.randperm(slots[2].shape[-1], generator=torch.Generator().manual_seed(1))
    permuted = run(model, *(x[..., order] for x in slots))
    torch.testing.assert_close(permuted, run(model, *slots)[..., order], atol=1e-5, rtol=1e-5)
