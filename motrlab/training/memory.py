"""Memory of a training step: activation checkpointing over frames, and an estimate before the training starts.

What grows with the clip are the tensors that the backward pass needs. `SavedBytes` counts them as autograd saves them;
one short clip tells what a long batch will take, because every frame saves the same.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from motrlab.errors import UserError

T = TypeVar("T")
_MB = 1e6
_recorder: "SavedBytes | None" = None


class SavedBytes:
    """Context: bytes that autograd keeps for the backward pass; parameters and buffers of `model` are not counted.

    A storage counts once, however many views of it are saved. `kept` are bytes that live until the backward pass,
    `recomputed` those of the largest checkpointed part: they exist once more, one part at a time.
    """

    def __init__(self, model: nn.Module) -> None:
        self._own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
        self._kept: dict[int, int] = {}
        self._hooks = self._hooks_into(self._kept)
        self.recomputed = 0

    @property
    def kept(self) -> int:
        return sum(self._kept.values())

    @property
    def total(self) -> int:
        return self.kept + self.recomputed

    def part(self, function: Callable[..., T], *arguments: Any) -> T:
        """What a checkpointed part keeps: its arguments. What it saves inside is kept apart."""
        for tensor in tensors_in(arguments):
            self._count(self._kept, tensor)
        inside: dict[int, int] = {}
        with self._hooks_into(inside):
            result = function(*arguments)
        self.recomputed = max(self.recomputed, sum(inside.values()))
        return result

    def _hooks_into(self, sizes: dict[int, int]) -> Any:
        """Hooks that note what is saved, by storage, in `sizes`."""
        return torch.autograd.graph.saved_tensors_hooks(functools.partial(self._count, sizes), lambda tensor: tensor)

    def _count(self, sizes: dict[int, int], tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own and (sizes is self._kept or storage.data_ptr() not in self._kept):
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    def __enter__(self) -> "SavedBytes":
        global _recorder
        assert _recorder is None, "measurements do not nest"
        _recorder = self
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        global _recorder
        self._hooks.__exit__(*error)
        _recorder = None


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of a value: it, or those in its items (list, tuple) or fields (dataclass), however deep."""
    if isinstance(value, Tensor):
        return [value]
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    return [tensor for inner in value for tensor in tensors_in(inner)] if isinstance(value, list | tuple) else []


def checkpointed(function: Callable[..., T], *arguments: Any) -> T:
    """`function(*arguments)`, whose inside is computed again in the backward pass instead of being kept.

    The function must be one of tensors alone: no decision, no random number, no statistics. Arguments are positional.
    """
    if not torch.is_grad_enabled():
        return function(*arguments)
    if _recorder is not None:
        return _recorder.part(function, *arguments)
    return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes at the peak of a training step. `optimizer` counts the moments, `average` the EMA of the weights."""

    parameters: int
    gradients: int
    optimizer: int
    average: int
    activations: int

    @property
    def total(self) -> int:
        return sum(dataclasses.astuple(self))

    def metrics(self) -> dict[str, float]:
        """For a record: `memory.activations_mb` and so on, in units of 10⁶ bytes."""
        parts = {**dataclasses.asdict(self), "total": self.total}
        return {f"memory.{name}_mb": round(size / _MB, 3) for name, size in parts.items()}

    def text(self) -> str:
        """One line."""
        parts = ", ".join(f"{name} {size / _MB:.1f}" for name, size in dataclasses.asdict(self).items() if size)
        return f"memory of a training step, estimated: {self.total / _MB:.1f} MB ({parts})"

    def check(self, device: torch.device) -> None:
        """Raises UserError if a GPU has less memory than that; the processor's own memory is not checked."""
        if device.type != "cuda":
            return
        available = torch.cuda.get_device_properties(device).total_memory
        if self.total > available:
            raise UserError(
                f"a training step needs about {self.total / 1e9:.1f} GB, the GPU has {available / 1e9:.1f} GB: "
                "set train.checkpoint_frames, raise train.accumulate, or take fewer images a step"
            )


def estimate_memory(
    model: nn.Module, run_clip: Callable[[], Any], clip_frames: int, batches: Iterable[tuple[int, int]], average: bool
) -> MemoryEstimate:
    """Estimate the peak of a training from `run_clip`: the forward pass of one clip of `clip_frames` frames.

    `batches`: every size (frames of a clip, clips) that occurs, micro-batches of one process. `average`: whether an EMA
    of the weights is kept. The buffers of `model` come back as they were.
    """
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    with SavedBytes(model) as saved:
        result = run_clip()  # kept until the block ends: a freed storage could come back under another tensor
    del result
    model.load_state_dict(state)
    per_frame = saved.kept / clip_frames
    # Of checkpointed parts one at a time is there once more, for all clips of the batch.
    activations = max(per_frame * frames * clips + saved.recomputed * clips for frames, clips in batches)
    trained = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    return MemoryEstimate(
        parameters=sum(p.nbytes for p in model.parameters()),
        gradients=trained,
        optimizer=2 * trained,  # AdamW's two moments; Muon keeps one of its matrices
        average=sum(value.nbytes for value in state.values()) if average else 0,
        activations=round(activations),
    )
