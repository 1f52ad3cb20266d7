"""The frame step: base graph → decision → QIM → next state; and the loop over a sequence's frames. Both exist once.

Float training, calibration, evaluation of every stage, QAT, its analysis and the deployed runtime go through
`frame_loop`; the arrays are torch tensors or NumPy arrays, whatever the graphs give. What differs is the decision: the
tracker's rules at run time, ground truth while training.

Shape legend: B streams, C channels, D detect and T track slots, N = D + T, W slot columns. State and graph inputs
are `[B, C, T / W, W]`; the QIM's tensors are `[B, C, 1, T]`.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from motrlab.config import ModelConfig
from motrlab.tracking.tracker import EMPTY, Decision

Array = Any  # numpy.ndarray or torch.Tensor
Seconds = MutableMapping[str, list[float]]  # part of the frame step → seconds per frame


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """What tracking needs of a `ModelConfig`; a deployed artefact has no more. Network input is `height` × `width`."""

    height: int
    width: int
    d_model: int
    num_detect: int
    num_track: int
    slot_columns: int
    num_classes: int = 1


class Graphs(Protocol):
    """The two graphs of one stage, and what belongs to them."""

    def base(self, frame: Array, query: Array, mask: Array, reference: Array) -> tuple[Any, Any, Array]:
        """Class logits and box outputs (tuples over decoder layers, last one decisive), embeddings."""

    def qim(self, embedding: Array, query: Array, mask: Array) -> Array:
        """The next track queries."""

    def decode(self, boxes: Array) -> Array:
        """Box outputs → cxcywh."""

    @property
    def detect_query(self) -> Array:
        """`[1, C, D / W, W]`: what a newborn brings to the QIM as its query."""


@dataclass(frozen=True)
class TrackState:
    """Carried over frames: `query` `[B, C, T / W, W]`, `mask` `[B, 1, 1, T]`, `reference` `[B, 4, T / W, W]`."""

    query: Array
    mask: Array
    reference: Array


@dataclass(frozen=True)
class FrameOutput:
    """Outputs of the base graph; `logits` and `boxes` (decoded, cxcywh) are tuples over decoder layers.

    `frame`: what the graph was given.
    """

    logits: tuple[Array, ...]
    boxes: tuple[Array, ...]
    embedding: Array
    frame: Array = None

    def scores_and_boxes(self) -> tuple[Any, Any]:
        """The last layer's scores `[B, N]` (0 to 1) and boxes `[B, N, 4]` as float32 NumPy arrays.

        A slot's score is that of its best class, `kinds`.
        """
        return _scores(self._last_logits().max(1)), _slot_boxes(self.boxes[-1])

    def kinds(self) -> Any:
        """The best class of every slot in the last layer, `int64 [B, N]`, counted from 0; of equal ones the first."""
        return self._last_logits().argmax(1)

    def _last_logits(self) -> Any:
        """`[B, K, N]`."""
        flat = to_numpy(self.logits[-1])
        return flat.reshape(*flat.shape[:2], -1)

    def layers(self) -> tuple[list[Any], list[Any]]:
        """Of every decoder layer the scores for each class `[B, N, K]`, and the boxes `[B, N, 4]`.

        In one copy: a GPU is waited for once.
        """
        shape = self.logits[0].shape[0], -1, math.prod(self.logits[0].shape[2:])  # [B, K or 4, N] a part
        parts = [x.reshape(shape) for pair in zip(self.logits, self.boxes, strict=True) for x in pair]
        found = to_numpy(concatenate(parts, 1)).reshape(shape[0], len(self.logits), -1, shape[2])
        layers = [found[:, layer] for layer in range(len(self.logits))]
        return [_scores(x[:, :-4].swapaxes(1, 2)) for x in layers], [_slot_boxes(x[:, -4:]) for x in layers]


def _scores(logits: Any) -> Any:
    return 1 / (1 + np.exp(np.minimum(-logits, 50)))  # 50: no overflow


def _slot_boxes(boxes: Array) -> Any:
    return to_numpy(boxes).reshape(boxes.shape[0], 4, -1).swapaxes(1, 2)


def to_numpy(x: Array) -> Any:
    """Any array → float32 NumPy array; torch tensors are detached."""
    if isinstance(x, np.ndarray):
        return x.astype(np.float32, copy=False)
    return x.detach().float().cpu().numpy()


def empty_state(batch: int, channels: int, num_track: int, columns: int) -> TrackState:
    """No tracks yet (NumPy; `state_like` turns it into tensors)."""
    shape = (num_track // columns, columns)
    return TrackState(
        query=np.zeros((batch, channels, *shape), np.float32),
        mask=np.zeros((batch, 1, 1, num_track), np.float32),
        reference=np.full((batch, 4, *shape), 0.5, np.float32),
    )


class Clock:
    """Notes in `seconds` how long each part of a frame took, if there is a place to note it."""

    def __init__(self, seconds: Seconds | None = None) -> None:
        self._seconds = seconds
        self._started = self._last = time.perf_counter()

    def start(self) -> None:
        """A frame begins."""
        self._started = self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """What was done since the last lap is called `name`; `total`: since the start."""
        if self._seconds is not None:
            now = time.perf_counter()
            self._seconds.setdefault(name, []).append(now - (self._started if name == "total" else self._last))
            self._last = now


@dataclass(frozen=True)
class FrameStep:
    """One frame: what the graphs were given, what they gave, what was decided, and the next state."""

    frame: Array
    before: TrackState
    output: FrameOutput
    decision: Decision
    qim_inputs: tuple[Array, Array, Array]
    state: TrackState

    @property
    def base_inputs(self) -> tuple[Array, Array, Array, Array]:
        return self.frame, self.before.query, self.before.mask, self.before.reference


Decide = Callable[[FrameOutput], Decision]


def frame_step(
    graphs: Graphs, frame: Array, state: TrackState, decide: Decide, clock: Clock | None = None
) -> FrameStep:
    """One frame: what `graphs.base` takes, an image `[B, 3, H, W]` or, in training, its value maps.

    `state`: from the frame before, `empty_state` at the start of a sequence. `decide` sees the outputs and answers
    where each track slot continues from. `clock` notes the parts `base`, `tracker`, `gather`, `qim` and `state`.
    """
    clock = clock or Clock()
    logits, boxes, embedding = graphs.base(frame, state.query, state.mask, state.reference)
    clock.lap("base")
    output = FrameOutput(tuple(logits), tuple(graphs.decode(b) for b in boxes), embedding, frame)
    decision = decide(output)
    clock.lap("tracker")
    origin = _Origin.of(decision, output, state.mask)
    inputs = _qim_inputs(graphs, output, state, origin)
    clock.lap("gather")
    updated = graphs.qim(*inputs)
    clock.lap("qim")
    following = _next_state(output, state, decision, origin, updated, inputs[1])
    clock.lap("state")
    return FrameStep(frame, state, output, decision, inputs, following)


def frame_loop(
    graphs: Graphs,
    frames: Iterable[Array],
    decide: Decide,
    shapes: Shapes | ModelConfig,
    *,
    clock: Clock | None = None,
    batch: int = 0,
) -> Iterator[FrameStep]:
    """The frames of one sequence (or of a batch of sequences in lock-step) from an empty state.

    `batch`: sequences in the batch; 0: the length of the first frame.
    """
    state: TrackState | None = None
    for frame in frames:
        if state is None:
            sizes = shapes.d_model, shapes.num_track, shapes.slot_columns
            state = state_like(empty_state(batch or len(frame), *sizes), frame)
        step = frame_step(graphs, frame, state, decide, clock)
        state = step.state
        yield step


@dataclass(frozen=True)
class _Origin:
    """Which slots the track slots continue from: most from their own, and are copied as a block; few are picked.

    `mask` `[B, 1, 1, T]`: whether there is a track. `stream`, `slot`, `source`, each `[n]`: the track slots that
    continue from another slot, and which that is, from 0 to N - 1.
    """

    mask: Array
    stream: Array
    slot: Array
    source: Array

    @staticmethod
    def of(decision: Decision, output: FrameOutput, like: Array) -> "_Origin":
        source, num_slots = decision.source, math.prod(output.embedding.shape[2:])
        own = np.arange(num_slots - source.shape[1], num_slots)
        stream, slot = np.nonzero((source != own) & (source != EMPTY))
        mask = _like(like, (source != EMPTY)[:, None, None])
        return _Origin(mask, *_beside(like, np.stack((stream, slot, source[stream, slot]))))

    def gather(self, track: Array, slots: Callable[[], Array]) -> Array:
        """`[B, C, 1, T]`, contiguous, 0 where empty; `track` `[B, C, T]`; `slots()`: all slots `[B, C, R, W]`."""
        gathered = _contiguous(track * self.mask[:, 0])
        if len(self.slot):
            # Their mask is 1. The product has the type of the block's, whatever types the networks gave.
            one = self.mask[self.stream, 0, 0, self.slot][:, None]
            gathered[self.stream, :, self.slot] = _flat(slots())[self.stream, :, self.source] * one
        return gathered[:, :, None]


def _qim_inputs(graphs: Graphs, output: FrameOutput, state: TrackState, origin: _Origin) -> tuple[Array, Array, Array]:
    """Embedding, query and mask of every track slot, from where it continues."""

    def queries() -> Array:  # a newborn's query is its learned detect query, a track's the one it came with
        return concatenate((_spread(graphs.detect_query, len(state.query)), state.query), 2)

    embedding = origin.gather(_track_slots(output.embedding, origin.mask), lambda: output.embedding)
    return embedding, origin.gather(_flat(state.query), queries), origin.mask


def _next_state(
    output: FrameOutput, state: TrackState, decision: Decision, origin: _Origin, updated: Array, query: Array
) -> TrackState:
    mask, boxes = origin.mask, output.boxes[-1]
    following = updated * mask
    if decision.hold is not None:
        stream, slot = (_beside(mask, x) for x in np.nonzero(decision.hold))
        following[stream, :, 0, slot] = query[stream, :, 0, slot]
    reference = origin.gather(_track_slots(boxes, mask), lambda: boxes)
    if decision.shift is not None:
        reference = (reference + _like(reference, decision.shift[:, :, None])) * mask
    reference = reference + (1 - mask) * 0.5  # an empty slot has a fixed box, whatever was there before
    shapes = state.query.shape, state.mask.shape, state.reference.shape
    return TrackState(following.reshape(shapes[0]), mask.reshape(shapes[1]), reference.reshape(shapes[2]))


def _flat(x: Array) -> Array:
    """`[B, C, R, W]` → `[B, C, R · W]`."""
    return x.reshape(x.shape[0], x.shape[1], -1)


def _contiguous(x: Array) -> Array:
    return np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x.contiguous()


def _track_slots(x: Array, mask: Array) -> Array:
    """`[B, C, N / W, W]` → the track slots `[B, C, T]`; `mask` `[B, 1, 1, T]`."""
    return _flat(x)[:, :, -mask.shape[-1] :]


def _spread(x: Array, batch: int) -> Array:
    """`[1, …]` → `[batch, …]` without copying."""
    shape = (batch, *x.shape[1:])
    return np.broadcast_to(x, shape) if isinstance(x, np.ndarray) else x.expand(shape)


def concatenate(parts: Sequence[Array], axis: int = 0) -> Array:
    """Arrays of one kind, one behind the other."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts, axis)
    import torch

    return torch.cat(tuple(parts), axis)


def _beside(x: Array, values: Any) -> Array:
    """`values` (NumPy) as an array of the kind and on the device of `x`."""
    if isinstance(x, np.ndarray):
        return values
    import torch

    return torch.from_numpy(values).to(x.device)


def _like(x: Array, values: Any) -> Array:
    """`values` (NumPy) with the kind, type and device of `x`."""
    if isinstance(x, np.ndarray):
        return values.astype(x.dtype)
    return _beside(x, values.astype(np.float32)).to(x.dtype)


def state_like(state: TrackState, x: Array) -> TrackState:
    """`state` (NumPy) as float32 tensors on the device of `x`, or unchanged if `x` is NumPy."""
    return TrackState(*(_beside(x, part) for part in (state.query, state.mask, state.reference)))
