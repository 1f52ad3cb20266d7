"""Every stage of `smoke` on a device against the processor: losses, gradients, ranges, integers, tracks.

Each check gives values and whether they lie within the tolerance that is stated here. Float32 without TF32, so that
what differs is rounding. Integers must be equal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from motrlab.config import Config
from motrlab.data.clips import ClipDataset, ClipKey, collate
from motrlab.evaluation.metrics import OVERALL, agreement
from motrlab.model.motr import Motr, MotrGraphs, folded_copy
from motrlab.quantization.calibration import calibrate, closed_loop, round_again
from motrlab.quantization.qat import qat_config, qat_trainee
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.run import Run
from motrlab.stages.accuracy import torch_engine, track_part
from motrlab.stages.data import open_store
from motrlab.stages.quantization import calibration_videos
from motrlab.training.initial_weights import initial_model
from motrlab.training.optimizer import make_optimizer, parameter_groups
from motrlab.training.replay import clip_generators
from motrlab.training.trainee import Trainee, float_trainee

# Largest relative differences of the first loss, of a gradient's norm, and of the loss after updates. In QAT a value
# near the middle of two grid points may fall to the other one.
FLOAT, QAT = (1e-4, 1e-2, 2e-2), (2e-3, 1e-1, 2e-2)
RANGE, BF16_LOSS = 1e-3, 3e-2
SAME_TRACKS = 0.95  # IDF1 of a device's tracks with the processor's as truth: a score near a threshold may fall over it
_FRAMES = 24  # of every test half that is tracked
Values = dict[str, Any]


def move(module: nn.Module, device: torch.device) -> None:
    """To the device, in place."""
    module.to(device)


def _place(module: nn.Module, device: torch.device) -> None:
    if device.type != "cpu":
        move(module, device)


@contextmanager
def no_tf32() -> Iterator[None]:
    """Convolutions on a GPU in whole float32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


Steps = tuple[list[float], dict[str, float]]


def steps_of(
    trainee: Trainee, run: Run, config: Config, device: torch.device, count: int, *, bf16: bool = False
) -> Steps:
    """Losses of `count` updates on the first steps' clips, and the norm of each gradient of the first."""
    dataset = ClipDataset(open_store(run, "train"), config.train, config.model, config.seed)
    optimizer = make_optimizer(parameter_groups(trainee.clips, config.train), config.train.beta2)
    losses: list[float] = []
    norms: dict[str, float] = {}
    for step in range(count):
        length = min(config.train.clip_frames)
        keys: list[ClipKey] = [(step, i, length) for i in range(max(1, config.train.frames_per_step // length))]
        batch = collate([dataset[key] for key in keys]).to(device)
        trainee.prepare(step)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = trainee.clips(batch, clip_generators(config.seed, keys))
        loss.mean.backward()
        losses.append(float(loss.mean.detach()))
        gradients = {n: p.grad for n, p in trainee.clips.named_parameters() if p.grad is not None}
        norms = norms or {n: float(g.norm()) for n, g in gradients.items()}
        if step + 1 < count:
            nn.utils.clip_grad_norm_(trainee.clips.parameters(), config.train.clip_norm)
            optimizer.step()
    return losses, norms


def apart(here: float, there: float) -> float:
    """Relative difference."""
    return abs(here - there) / max(abs(here), 1e-12)


def _compared(here: Steps, there: Steps, most: tuple[float, float, float]) -> Values:
    """Of two results of `steps_of`, against the largest differences."""
    largest = max(here[1].values())
    gradient = max(abs(here[1][n] - there[1][n]) / (here[1][n] + 1e-3 * largest) for n in here[1])
    found = {
        "loss_apart": apart(here[0][0], there[0][0]),
        "gradient_apart": gradient,
        "last_loss_apart": apart(here[0][-1], there[0][-1]),
    }
    within = all(value <= limit for value, limit in zip(found.values(), most, strict=True))
    return {"loss_processor": here[0], "loss_device": there[0], **found, "within": within}


def float_training(run: Run, device: torch.device) -> Values:
    """Three updates from the same weights."""
    found: list[Steps] = []
    for place in (torch.device("cpu"), device):
        trainee = float_trainee(initial_model(run.config)[0], run.config)
        _place(trainee.clips, place)
        found.append(steps_of(trainee, run, run.config, place, 3))
    return _compared(found[0], found[1], FLOAT)


def bf16_training(run: Run, device: torch.device) -> Values:
    """One loss in bfloat16 against the device's float32."""
    losses = []
    for bf16 in (False, True):
        trainee = float_trainee(initial_model(run.config)[0], run.config)
        _place(trainee.clips, device)
        losses.append(steps_of(trainee, run, run.config, device, 1, bf16=bf16)[0][0])
    difference = apart(*losses)
    return {"loss": losses[0], "loss_bf16": losses[1], "apart": difference, "within": difference <= BF16_LOSS}


def float_evaluation(run: Run, device: torch.device) -> Values:
    """Tracks of the beginning of every test half."""
    tracks = []
    for place in (torch.device("cpu"), device):
        model = initial_model(run.config)[0].eval()
        _place(model, place)
        engine = torch_engine(MotrGraphs(model), run.config.model, place)
        tracks.append(track_part(run, engine, "test", num_frames=_FRAMES))
    same = agreement(*tracks)[OVERALL]["idf1"]
    boxes = [sum(map(len, found.values())) for found in tracks]
    within = bool(same >= SAME_TRACKS) if boxes[0] else boxes[1] == 0
    return {"boxes_processor": boxes[0], "boxes_device": boxes[1], "idf1_of_each_other": float(same), "within": within}


def calibration(run: Run, device: torch.device) -> Values:
    """The ranges that are found, and with the same ranges the integers of the closed loop."""
    videos = _first_frames(run)
    models = [_quantised(run) for _ in range(2)]
    calibrate(models[0], videos, run.config)
    _place(models[1], device)
    calibrate(models[1], videos, run.config)
    ranges = [model.ranges.largest.cpu() for model in models]
    difference = float(((ranges[0] - ranges[1]).abs() / ranges[0].clamp(min=1e-9)).max())
    models[1].load_state_dict({name: value.to(device) for name, value in models[0].state_dict().items()})
    outputs = [_outputs(model, videos[0][:8], run.config) for model in models]
    unequal = sum(int((a != b).sum()) for a, b in zip(*outputs, strict=True))
    numbers = sum(x.numel() for x in outputs[0])
    found = {"ranges_apart": difference, "numbers": numbers, "unequal_numbers": unequal}
    return {**found, "within": difference <= RANGE and unequal == 0}


def qat(run: Run, device: torch.device) -> Values:
    """Two steps of QAT from the same calibrated state, and the rounding behind them."""
    videos = _first_frames(run)
    first = _quantised(run)
    calibrate(first, videos, run.config)
    state = {name: value.clone() for name, value in first.state_dict().items()}
    found: list[Steps] = []
    for place in (torch.device("cpu"), device):
        model = _quantised(run)
        model.load_state_dict(state)
        _place(model, place)
        found.append(steps_of(qat_trainee(model, run.config), run, qat_config(run.config), place, 2))
        round_again(model, videos, run.config)
    return _compared(found[0], found[1], QAT)


CHECKS: dict[str, Callable[[Run, torch.device], Values]] = {
    "float": float_training, "evaluation": float_evaluation, "calibration": calibration, "qat": qat,
    "bf16": bf16_training,
}  # fmt: skip


def _first_frames(run: Run) -> list[list[Tensor]]:
    return [list(video)[:_FRAMES] for video in calibration_videos(run, run.config.calibration)]


def _quantised(run: Run) -> QuantizedMotr:
    model: Motr = initial_model(run.config)[0]
    return QuantizedMotr(folded_copy(model), run.config.scheme)


def _outputs(model: QuantizedMotr, images: list[Tensor], config: Config) -> list[Tensor]:
    place = model.ranges.scale.device
    steps = closed_loop(model.graphs, [image.to(place) for image in images], config)
    return [x.cpu() for s in steps for x in (*s.output.logits, *s.output.boxes, s.output.embedding, s.state.query)]
