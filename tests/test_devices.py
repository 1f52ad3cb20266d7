"""Training, calibration, QAT and evaluation on another device than main memory, by `tests/guard.py`.

What is made on the processor and not moved raises there. Results are those of the processor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from motrlab.config import Config
from motrlab.data.clips import ClipDataset, collate
from motrlab.data.prepare import prepare
from motrlab.data.store import FrameStore
from motrlab.data.street import generate_street, is_unseen
from motrlab.model.motr import Motr, MotrGraphs, build_motr, folded_copy
from motrlab.quantization.calibration import calibrate, closed_loop, round_again
from motrlab.quantization.qat import qat_config, qat_trainee
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.stages.accuracy import torch_engine
from motrlab.tracking.sequence import track_frames
from motrlab.training.ema import Ema
from motrlab.training.late_entrants import late_entrants
from motrlab.training.optimizer import make_optimizer, parameter_groups
from motrlab.training.replay import clip_generators
from motrlab.training.trainee import Trainee, float_trainee
from tests.guard import OnDevice, move, second_device
from tests.tiny import tiny

KEYS = [(0, 0, 2), (0, 1, 2)]  # two clips of two frames


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    folder = tmp_path_factory.mktemp("street")
    street = replace(tiny().street, num_unseen=0, num_frames=12, width=160, height=90)
    generate_street(street, folder / "street", num_workers=1)
    prepare(folder / "street", folder / "data", num_workers=1, unseen=is_unseen)
    return FrameStore(folder / "data" / "train_lmdb")


@pytest.fixture
def device() -> Iterator[torch.device]:
    with second_device() as device:
        yield device


def noise(config: Config, number: int) -> list[Tensor]:
    """Network inputs `[1, 3, H, W]`."""
    size = (number, 1, 3, config.model.height, config.model.width)
    return list(torch.randint(-128, 128, size, generator=torch.Generator().manual_seed(0)) / 128)


def loss_and_gradients(trainee: Trainee, store: FrameStore, config: Config, device: Any) -> tuple[float, list[Tensor]]:
    """Of one step, in main memory."""
    dataset = ClipDataset(store, config.train, config.model, config.seed)
    batch = collate([dataset[key] for key in KEYS]).to(device)
    trainee.prepare(0)
    loss = trainee.clips(batch, clip_generators(config.seed, KEYS))
    loss.mean.backward()
    assert loss.total.device.type == torch.device(device).type
    assert np.isfinite(list(loss.named().values())).all()
    gradients = [p.grad.cpu() for p in trainee.clips.parameters() if p.grad is not None]
    return float(loss.mean.detach()), gradients


def small(**fields: Any) -> Config:
    """Without adaptive rounding: it takes weights one by one, in many operations that are slow there."""
    config = tiny()
    model = replace(config.model, height=48, width=80, d_model=16, ffn_channels=24)
    calibration = replace(config.calibration, adaptive_rounding=False)
    train = replace(config.train, bf16=False, **fields)
    return replace(config, model=model, train=train, calibration=calibration)


@pytest.mark.parametrize(
    "fields",
    [{}, {"freeze_bn": True, "checkpoint_frames": True}, {"coopetition": True, "below_visibility": "ignore"}],
    ids=["street", "checkpointed", "coopetition"],
)
def test_a_float_step(fields: dict[str, Any], store: FrameStore) -> None:
    config = small(**fields)
    trainees = [float_trainee(build_motr(config.model), config) for _ in range(2)]
    here, there = (
        loss_and_gradients(trainees[0], store, config, "cpu"),
        on_device(lambda d: loss_and_gradients(trainees[1], store, config, d), trainees[1].clips),
    )
    assert there[0] == pytest.approx(here[0], rel=1e-5)
    assert len(there[1]) == len(here[1]) > 100
    for mine, other in zip(here[1], there[1], strict=True):
        torch.testing.assert_close(other, mine, rtol=1e-3, atol=1e-5)


def on_device(run: Any, *modules: nn.Module) -> Any:
    for module in modules:
        move(module)
    with second_device() as device:
        return run(device)


@pytest.mark.parametrize("learn_scales", [False, True])
def test_calibration_and_a_step_of_qat(learn_scales: bool, store: FrameStore) -> None:
    """Ranges to float rounding; with the same ranges and weights, the same integers; then a step.

    The weights of both are those that were rounded adaptively in main memory.
    """
    base = small()
    config = replace(base, qat=replace(base.qat, learn_scales=learn_scales))
    images = noise(config, 3)
    calibrated: dict[str, Tensor] = {}

    def stages(device: Any, quantised: QuantizedMotr) -> tuple[list[Tensor], float, list[Tensor]]:
        rounding = replace(config.calibration, adaptive_rounding=not calibrated)
        calibrate(quantised, [images], replace(config, calibration=rounding))
        state = {name: value.cpu().clone() for name, value in quantised.state_dict().items()}
        ranges = {name: value for name, value in state.items() if name.startswith("ranges.")}
        same = {name: calibrated.get(name, value) for name, value in ranges.items()}
        assert ranges
        torch.testing.assert_close(ranges, same, rtol=1e-4, atol=1e-4)
        calibrated.update(calibrated or state)
        quantised.load_state_dict({name: value.to(device) for name, value in calibrated.items()})
        outputs = [step.output for step in closed_loop(quantised.graphs, [x.to(device) for x in images], config)]
        exact = [x.cpu() for output in outputs for x in (*output.logits, *output.boxes, output.embedding)]
        return exact, *loss_and_gradients(qat_trainee(quantised, config), store, qat_config(config), device)

    models = [QuantizedMotr(folded_copy(build_motr(config.model))) for _ in range(2)]
    here = stages("cpu", models[0])
    there = on_device(lambda device: stages(device, models[1]), models[1])
    assert len(here[0]) == 15
    assert all(map(torch.equal, there[0], here[0]))
    assert there[1] == pytest.approx(here[1], rel=1e-4)
    assert len(there[2]) == len(here[2]) > 60


def test_adaptive_rounding() -> None:
    """In calibration and again: the same weights to float rounding. A network of few channels."""
    base = small()
    stages = tuple(replace(s, channels=8) for s in base.model.stages)
    model = replace(base.model, stages=stages, num_heads=2, ffn_channels=16, decoder_layers=1)
    config = replace(base, model=model, calibration=replace(base.calibration, adaptive_rounding=True))
    images = noise(config, 1)

    def rounded(device: Any, quantised: QuantizedMotr) -> list[dict[str, Tensor]]:
        found = []
        for stage in (calibrate, round_again):
            stage(quantised, [images], config)
            found.append({name: value.cpu().clone() for name, value in quantised.state_dict().items()})
        return found

    models = [QuantizedMotr(folded_copy(build_motr(config.model))) for _ in range(2)]
    nearest = {name: value.clone() for name, value in models[0].state_dict().items()}
    here = rounded("cpu", models[0])
    there = on_device(lambda device: rounded(device, models[1]), models[1])
    for mine, other in zip(here, there, strict=True):
        torch.testing.assert_close(other, mine, rtol=1e-4, atol=1e-4)
        assert any(not torch.equal(mine[n], nearest[n]) for n in mine if n.endswith("weight"))


def test_tracking_and_the_late_entrant_check(store: FrameStore) -> None:
    config, name = small(), store.sequences[0].name
    rows = []
    for there in (False, True):
        model = build_motr(config.model).eval()

        @torch.no_grad()
        def evaluated(device: Any, model: Motr = model) -> list[Any]:
            engine = torch_engine(MotrGraphs(model), config.model, device)
            frames = (store.image(name, frame) for frame in range(1, 4))
            loose = replace(config.tracker, birth_score=0.0, output_score=0.0, miss_score=0.0)
            tracks = track_frames(engine.graphs, frames, engine.preprocess, config.model, loose)
            late = late_entrants(engine.graphs, store, engine.preprocess, config.model, num_clips=4)
            return [*(t.rows(1) for t in tracks), late]

        rows.append(on_device(evaluated, model) if there else evaluated("cpu"))
    for here, other in zip(*rows, strict=True):
        if isinstance(here, dict):
            assert other == here
        else:
            assert len(here)
            np.testing.assert_allclose(other, here, rtol=1e-4, atol=1e-3)


def test_muon_and_the_average(device: torch.device) -> None:
    torch.manual_seed(0)
    pair = [nn.Sequential(nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)) for _ in range(2)]
    pair[1].load_state_dict(pair[0].state_dict())
    move(pair[1])
    config = replace(tiny().train, optimizer="muon")
    for module in pair:
        averaged = Ema(module, 0.9) if module is pair[0] else None
        groups = [g for g in parameter_groups(module, config) if g.get("muon")]
        optimizer = make_optimizer(groups, 0.9)
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        if averaged is not None:
            averaged.update_parameters(module)
    for mine, other in zip(pair[0].parameters(), pair[1].parameters(), strict=True):
        assert isinstance(other.data, OnDevice)
        torch.testing.assert_close(other.detach().cpu(), mine.detach())
