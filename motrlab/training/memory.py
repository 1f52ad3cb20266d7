"""Memory of a training step: activation checkpointing over frames, and an estimate before the training starts.

What grows with the clip are the tensors that the backward pass needs. `SavedBytes` counts them as autograd saves them;
one short clip tells what a long batch will take, because every frame saves the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from motrlab.errors import UserError

T = TypeVar("T")
_MB = 1e6
_recorder: SavedBytes | None = None


class SavedBytes:
    """Context: bytes that autograd keeps for the backward pass; parameters and buffers of `model` are not counted.

    A storage counts once, however many views of it are saved. `kept` are bytes that live until the backward pass,
    `recomputed` those of the largest checkpointed part: they exist once more, one part at a time.
    """

    def __init__(self, model: nn.Module) -> None:
        self._own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
        self._kept: dict[int, int] = {}
        self.recomputed = 0
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, _unchanged)

    @property
    def kept(self) -> int:
        return sum(self._kept.values())

    @property
    def total(self) -> int:
        return self.kept + self.recomputed

    def _pack(self, tensor: Tensor) -> Tensor:
        self.count(tensor)
        return tensor

    def count(self, tensor: Tensor) -> None:
        """Count a tensor that is kept for the backward pass."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own:
            self._kept[storage.data_ptr()] = storage.nbytes()

    def part(self, function: Callable[..., T], *arguments: Any) -> T:
        """What a checkpointed part keeps: its arguments. What it saves inside is kept apart."""
        for tensor in tensors_in(arguments):
            self.count(tensor)
        inside = SavedBytes.__new__(SavedBytes)
        inside._own, inside._kept = self._own | self._kept.keys(), {}
        with torch.autograd.graph.saved_tensors_hooks(inside._pack, _unchanged):
            result = function(*arguments)
        self.recomputed = max(self.recomputed, inside.kept)
        return result

    def __enter__(self) -> SavedBytes:
        global _recorder
        assert _recorder is None, "measurements do not nest"
        _recorder = self
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        global _recorder
        self._hooks.__exit__(*error)
        _recorder = None


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor


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
    result: T = checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
    return result


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
    model: nn.Module,
    run_clip: Callable[[], Any],
    clip_frames: int,
    batches: Iterable[tuple[int, int]],
    *,
    average: bool,
) -> MemoryEstimate:
    """Estimate the peak of a training whose batches have `batches` (frames of a clip, clips).

    Args:
        model: on its device; its buffers come back as they were.
        run_clip: forward pass of one clip, whose result holds the graph.
        clip_frames: frames of that clip.
        batches: every size that occurs, micro-batches of one process.
        average: whether an EMA of the weights is kept.
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
