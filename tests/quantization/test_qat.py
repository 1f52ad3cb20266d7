"""QAT: a step changes weights and lowers the loss; schedules, frozen ranges, learned scales, a kill."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from motrlab.config import Config, StreetConfig
from motrlab.config.scheme import Rule, Scheme
from motrlab.data.clips import ClipBatch
from motrlab.data.prepare import prepare
from motrlab.data.store import FrameStore
from motrlab.data.street import generate_street, is_unseen
from motrlab.model.motr import Motr
from motrlab.quantization.calibration import calibrate, closed_loop
from motrlab.quantization.qat import QatClips, qat_config, train_qat
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.quantization.tensors import StraightThrough
from motrlab.training.criterion import ClipLoss
from tests.quantization.conftest import noise


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> FrameStore:
    """Train half of one street video of 12 frames."""
    folder = tmp_path_factory.mktemp("street")
    street = StreetConfig(num_videos=1, num_unseen=0, num_frames=12, width=160, height=90)
    generate_street(street, folder / "street", num_workers=1)
    prepare(folder / "street", folder / "data", num_workers=1, unseen=is_unseen)
    return FrameStore(folder / "data" / "train_lmdb")


def quiet(config: Config) -> Config:
    """No chance in the assignment, and every matched slot becomes a track."""
    train = replace(
        config.train, drop_probability=0.0, heavy_drop_fraction=0.0, false_positive_ratio=0.0, clone_probability=0.0,
        reference_jitter=0.0, keep_iou=-1.0,
    )  # fmt: skip
    return replace(config, train=train)


def test_steps_change_weights_and_lower_the_loss(
    quantised: QuantizedMotr, config: Config, clip_batch: ClipBatch
) -> None:
    quantised.mode("train")
    config = quiet(qat_config(config))
    before = {name: p.detach().clone() for name, p in quantised.named_parameters()}
    optimizer = torch.optim.AdamW(quantised.parameters(), lr=2e-3)
    losses = []
    for _ in range(6):
        loss = QatClips(quantised, config)(clip_batch, [np.random.default_rng(0)] * 8).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    changed = {name for name, p in quantised.named_parameters() if not torch.equal(p, before[name])}
    for name in ("model.base.backbone.stem.0.weight", "model.base.detect.query", "model.qim.attention.query.weight"):
        assert name in changed


def test_gradients_cross_frames_through_both_graphs(
    quantised: QuantizedMotr, config: Config, clip_batch: ClipBatch
) -> None:
    quantised.mode("evaluate")
    QatClips(quantised, quiet(qat_config(config)))(clip_batch, [np.random.default_rng(0)] * 8).total.backward()
    gradients = {name: p.grad for name, p in quantised.named_parameters()}
    without = [name for name, g in gradients.items() if g is None or not g.abs().sum() > 0]
    # The last layer's embedding feeds the QIM, whose query is used only in the clip's second frame.
    assert not [name for name in without if name.startswith("model.qim.") and name.endswith("weight")]
    for parameter in quantised.parameters():
        parameter.grad = None


def test_config_of_the_training(config: Config) -> None:
    train = qat_config(replace(config, qat=replace(config.qat, steps=10, lr=3e-4, clip_frames=2))).train
    assert (train.steps, train.lr, train.clip_frames, train.bf16) == (10, 3e-4, (2,), False)
    assert (train.schedule, train.step_milestones, train.warmup) == ("step", (0.5,), 0.0)


def short(config: Config, **qat: Any) -> Config:
    config = replace(config, qat=replace(config.qat, clip_frames=2, **qat), num_workers=0)
    return replace(config, train=replace(config.train, frames_per_step=4))


def test_ranges_move_and_are_then_frozen(
    quantised: QuantizedMotr, config: Config, store: FrameStore, tmp_path: Path
) -> None:
    seen = quantised.ranges.seen.clone()
    scale = quantised.ranges.scale.detach().clone()
    result = train_qat(quantised, store, short(config, steps=4, freeze_observers=0.5), tmp_path)
    assert result.steps == 4
    assert len(result.curve.read_text().splitlines()) == 5
    assert float((quantised.ranges.seen - seen).max()) == 2  # two steps, then frozen
    assert not torch.equal(quantised.ranges.scale.detach(), scale)
    assert quantised.current_mode == "evaluate"
    loaded = QuantizedMotr.load(config, tmp_path / "model.safetensors")
    for name, value in quantised.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


@pytest.mark.parametrize("observer", ["kl", "mse", "percentile"])
def test_ranges_chosen_from_a_histogram_stay_chosen(
    observer: str, config: Config, float_model: Motr, store: FrameStore, tmp_path: Path
) -> None:
    """QAT does not go over to a moving average without a word."""
    quantised = QuantizedMotr(copy.deepcopy(float_model), Scheme().with_observer(observer))
    calibrate(quantised, [(torch.rand((1, 3, 96, 160)) - 0.5 for _ in range(3))], config)
    scale = quantised.ranges.scale.detach().clone()
    train_qat(quantised, store, short(config, steps=2, freeze_observers=1.0), tmp_path)
    assert torch.equal(quantised.ranges.scale.detach(), scale)


def test_learned_scales_move_and_stay_positive(
    quantised: QuantizedMotr, config: Config, store: FrameStore, tmp_path: Path
) -> None:
    """LSQ: observers are off, and the optimiser has the scales."""
    scale = quantised.ranges.scale.detach().clone()
    train_qat(quantised, store, short(config, steps=3, lr=1e-4, learn_scales=True), tmp_path)
    learned = quantised.ranges.scale.detach()
    moved = (learned != scale).float().mean()
    assert float(moved) > 0.5
    assert float(learned.min()) > 0
    fixed = [spec.group for spec in quantised.specs.values() if spec.fixed is not None]
    assert torch.equal(learned[fixed], scale[fixed])
    loaded = QuantizedMotr.load(config, tmp_path / "model.safetensors")
    assert torch.equal(loaded.ranges.scale.detach(), learned)


def test_the_gradient_of_a_learned_scale_is_that_of_the_paper() -> None:
    """LSQ, arXiv 1902.08153, equation 3: round(v/s) − v/s inside the grid, its end outside."""
    x = torch.tensor([0.31, -0.47, 3.0, -9.0])
    scale = torch.tensor(0.1, requires_grad=True)
    steps = x / scale
    (StraightThrough.apply(steps, steps.detach(), -8, 7) * scale).sum().backward()
    expected = (3 - 3.1) + (-5 + 4.7) + 7 - 8
    assert scale.grad is not None
    assert float(scale.grad) == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def test_frames_without_tracks_do_not_narrow_the_ranges_of_slots(
    quantised: QuantizedMotr, config: Config, clip_batch: ClipBatch
) -> None:
    """Attention mixes detect and track slots; a clip's first frame has detect slots alone, which say little."""
    index = list(quantised.specs).index(("base", "decoder.0.self_attention.mixed"))
    rows = config.model.num_track // config.model.slot_columns
    query = quantised.graphs.detect_query[:, :, :rows].expand(2, -1, -1, -1) * 3
    reference = torch.full((2, 4, *query.shape[2:]), 0.4)
    quantised.mode("train")
    for tracked in (0.0, 1.0):
        before = float(quantised.ranges.largest[index])
        mask = torch.full((2, 1, 1, config.model.num_track), tracked)
        quantised.graphs.base(clip_batch.images[0], query, mask, reference)
        quantised.advance()
        assert (float(quantised.ranges.largest[index]) != before) == bool(tracked)


def test_training_puts_every_tensor_on_its_grid(
    quantised: QuantizedMotr, config: Config, clip_batch: ClipBatch
) -> None:
    """As evaluation does; only the gradient is the float function's, and only the weights are in float."""
    rows = config.model.num_track // config.model.slot_columns
    query = quantised.graphs.detect_query[:, :, :rows].expand(2, -1, -1, -1).detach()
    reference = torch.rand(2, 4, *query.shape[2:], generator=torch.Generator().manual_seed(1)) * 0.5 + 0.2
    quantised.mode("evaluate")
    net = quantised.net
    net.record = {}
    found = quantised.graphs.base(clip_batch.images[0], query, torch.ones(2, 1, 1, config.model.num_track), reference)
    seen, net.record = dict(net.record), None
    assert found[2].requires_grad
    for name, value in seen.items():
        spec = quantised.specs["base", name.partition("@")[0]]
        steps = value.detach().double() / float(quantised.ranges.scale[spec.group].detach())
        assert float((steps - steps.round()).abs().max()) < 1e-3, name


def test_a_rerun_goes_on_from_the_checkpoint(
    quantised: QuantizedMotr, config: Config, store: FrameStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after its first checkpoint, QAT ends where an uninterrupted one ends."""
    config = replace(config, qat=replace(config.qat, steps=4, clip_frames=2), num_workers=0)
    config = replace(config, train=replace(config.train, frames_per_step=2, checkpoint_every=2))
    start = {name: value.clone() for name, value in quantised.state_dict().items()}
    straight = train_qat(quantised, store, config, tmp_path / "straight")
    expected = {name: value.clone() for name, value in quantised.state_dict().items()}

    quantised.load_state_dict(start)
    calls, forward = iter(range(3)), QatClips.forward

    def killed(*arguments: Any) -> ClipLoss:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return forward(*arguments)

    monkeypatch.setattr("motrlab.quantization.qat.QatClips.forward", killed)
    with pytest.raises(KeyboardInterrupt):
        train_qat(quantised, store, config, tmp_path / "killed")
    monkeypatch.undo()
    quantised.load_state_dict(start)
    resumed = train_qat(quantised, store, config, tmp_path / "killed")
    assert resumed.curve.read_text().splitlines()[-1] == straight.curve.read_text().splitlines()[-1]
    for name, value in quantised.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_float_training_of_the_same_steps_leaves_the_quantisers_alone(
    quantised: QuantizedMotr, config: Config, store: FrameStore, tmp_path: Path
) -> None:
    config = replace(config, qat=replace(config.qat, steps=2, clip_frames=2), num_workers=0)
    config = replace(config, train=replace(config.train, frames_per_step=4))
    start = {name: value.clone() for name, value in quantised.state_dict().items()}
    train_qat(quantised, store, config, tmp_path, quantise=False)
    assert quantised.current_mode == "float"
    changed = {name for name, value in quantised.state_dict().items() if not torch.equal(value, start[name])}
    assert "model.base.backbone.stem.0.weight" in changed
    assert not [name for name in changed if name.startswith("ranges")]


def test_weights_are_rounded_adaptively_at_the_end(
    quantised: QuantizedMotr, config: Config, store: FrameStore, tmp_path: Path
) -> None:
    """Training has moved them off their grid, to where the nearest point is a matter of chance."""
    config = short(config, steps=2, lr=1e-3)
    config = replace(config, calibration=replace(config.calibration, adaptive_rounding=True))
    images = [torch.rand((1, 3, config.model.height, config.model.width)) - 0.5 for _ in range(3)]
    train_qat(quantised, store, config, tmp_path, videos=[images])
    weight = quantised.model.base.decoder[0].ffn.expand.weight.detach().flatten(1)
    steps = weight / (weight.abs().amax(1, keepdim=True) / 127)
    assert torch.allclose(steps, steps.round(), atol=1e-3)


def test_training_computes_what_evaluation_does(
    quantised: QuantizedMotr, config: Config, clip_batch: ClipBatch
) -> None:
    """But for the rounding of weights; in both parts of the slots, whose grids differ by a multiple."""
    rows, net, seen = config.model.num_track // config.model.slot_columns, quantised.net, {}
    query = quantised.graphs.detect_query[:, :, :rows].expand(2, -1, -1, -1).detach() * 30
    inputs = clip_batch.images[0], query, torch.ones(2, 1, 1, config.model.num_track), torch.full((2, 4, rows, 8), 0.4)
    parts = [quantised.specs["base", f"decoder.0.self_attention.out/{name}"] for name in ("detect", "track")]
    for spec, scale in zip(parts, (0.01, 0.1), strict=True):
        group = [s for s in quantised.specs.values() if s.group == spec.group]
        with torch.no_grad():
            for member in group:
                quantised.ranges.largest[list(quantised.specs).index(member.key)] = scale * member.high
    quantised.ranges.follow()
    quantised.mode("evaluate")
    for training in (False, True):
        net.record = {}
        with torch.set_grad_enabled(training):
            quantised.graphs.base(*inputs)
        seen[training], net.record = net.record, None
    for name, expected in seen[False].items():
        assert float((seen[True][name] - expected).norm()) <= 0.3 * float(expected.norm()), name


def test_gradients_are_those_of_the_float_functions(float_model: Motr, config: Config) -> None:
    """On grids of 16 bits, which round little, every parameter has nearly the float model's."""
    quantised = QuantizedMotr(copy.deepcopy(float_model), Scheme().with_rules(Rule(precision="int16")))
    calibrate(quantised, [noise(config, 6, 1)], config)
    step = list(closed_loop(quantised.graphs, noise(config, 6, 2), config))[-1]
    assert step.before.mask.any()
    found: dict[str, dict[str, torch.Tensor]] = {}
    for mode in ("float", "evaluate"):
        quantised.mode(mode)
        quantised.zero_grad()
        logits, boxes, embedding = quantised.graphs.base(*step.base_inputs)
        outputs, generator = (*logits, *boxes, embedding, quantised.graphs.qim(*step.qim_inputs)), torch.Generator()
        torch.stack([(x * torch.randn(x.shape, generator=generator)).sum() for x in outputs]).sum().backward()
        found[mode] = {n: p.grad.flatten().clone() for n, p in quantised.named_parameters() if p.grad is not None}
    assert found["float"].keys() == found["evaluate"].keys()
    for name, expected in found["float"].items():
        gradient = found["evaluate"][name]
        if (size := float(expected.norm())) > 1e-4:
            assert float(gradient @ expected) / size / float(gradient.norm()) > 0.8, name
            assert 0.7 < float(gradient.norm()) / size < 1.4, name
