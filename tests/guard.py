"""A second device without one: tensors that say they are on device `meta` and compute on the processor.

As on a GPU, a tensor in main memory may not stand beside one on the device, unless it is a number or an index, and
`.numpy()` wants `.cpu()` first. Values are those of the processor, so that results can be compared with its own.
Autograd works. Not as on a GPU: speed, streams, rounding, which kernels there are.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

from motrlab.model.operations import sine_frequencies

DEVICE = torch.device("meta")
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}


class OnDevice(Tensor):
    """A tensor on `DEVICE`; `inner` has its values."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnDevice:
        how = {"dtype": inner.dtype, "device": DEVICE, "strides": inner.stride()}
        made: OnDevice = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, storage_offset=inner.storage_offset(), **how
        )
        made.inner = inner
        return made

    def __repr__(self) -> str:  # type: ignore[override]
        return f"OnDevice({self.inner!r})"

    def tolist(self) -> Any:  # type: ignore[override]
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Sends what is made on `DEVICE` from nothing there too."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    ours = any(isinstance(x, OnDevice) for x in tensors)
    to = kwargs.get("device")
    if not ours and to != DEVICE:
        return function(*args, **kwargs)
    name = function._schema.name
    beside = [x for x in tensors if not isinstance(x, OnDevice) and x.ndim]
    if ours and beside and name not in _INDEXING and name not in ("aten::copy_", "aten::_to_copy"):
        shapes = ", ".join(str(tuple(x.shape)) for x in beside)
        raise RuntimeError(f"{name}: in main memory beside tensors on the device: {shapes}")
    given = {k: v for k, v in kwargs.items() if k not in ("device", "pin_memory")}
    inner = tree_map(lambda x: x.inner if isinstance(x, OnDevice) else x, (args, given))
    result = function(*inner[0], **inner[1])
    leaves = ours and name == "aten::_to_copy" and to is not None and torch.device(to) != DEVICE
    if name == "aten::copy_":
        leaves = not isinstance(args[0], OnDevice)
    result = result if leaves else tree_map(lambda x: OnDevice(x) if isinstance(x, Tensor) else x, result)
    return return_and_correct_aliasing(function, args, kwargs, result)


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Inside, `x.to(device)` and `torch.zeros(..., device=device)` give tensors there; autocast does nothing there."""
    autocast, makers = torch.autocast, {"tensor": torch.tensor, "as_tensor": torch.as_tensor}

    def made(name: str, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:  # or torch makes them by itself
        if device != DEVICE:
            return makers[name](*args, device=device, **kwargs)
        return makers[name](*args, **kwargs).to(device)

    def known(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if device_type == DEVICE.type else autocast(device_type, *args, **kwargs)

    sine_frequencies.cache_clear()  # what is kept there for `meta` is none of ours, and the other way round
    try:
        patches = {"autocast": known, **{name: functools.partial(made, name) for name in makers}}
        with _Factories(), mock.patch.multiple(torch, **patches):
            yield DEVICE
    finally:
        sine_frequencies.cache_clear()


def move(module: nn.Module) -> None:
    """Parameters and buffers to the device, in place."""
    for owner in module.modules():
        for name, parameter in owner._parameters.items():
            if parameter is not None:
                owner._parameters[name] = nn.Parameter(OnDevice(parameter.data), parameter.requires_grad)
        for name, buffer in owner._buffers.items():
            if buffer is not None:
                owner._buffers[name] = OnDevice(buffer)
