"""QAT: a step changes weights and lowers the loss; schedules, frozen ranges, fresh weight scales, a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from motrlab.config import Config, StreetConfig
from motrlab.data.clips import ClipBatch
from motrlab.data.prepare import prepare
from motrlab.data.store import FrameStore
from motrlab.data.street import generate_street, is_unseen
from motrlab.model.motr import Motr
from motrlab.quantization.distillation import DistillingGraphs
from motrlab.quantization.fake_quantize import FakeQuantize, PerChannelFakeQuantize
from motrlab.quantization.qat import qat_config, qat_loss, refresh_weight_scales, train_qat
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.training.clip_loop import clip_loss, clip_objects
from motrlab.training.criterion import ClipLoss


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
        loss = qat_loss(quantised, clip_batch, config, [np.random.default_rng(0)] * 8).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    changed = {name for name, p in quantised.named_parameters() if not torch.equal(p, before[name])}
    for name in ("base.backbone.stem.0.weight", "base.detect.query", "qim.attention.query.weight"):
        assert name in changed


def test_gradients_cross_frames_through_both_graphs(
    quantised: QuantizedMotr, config: Config, clip_batch: ClipBatch
) -> None:
    quantised.mode("train_frozen")
    qat_loss(quantised, clip_batch, quiet(qat_config(config)), [np.random.default_rng(0)] * 8).total.backward()
    gradients = {name: p.grad for name, p in quantised.named_parameters()}
    without = [name for name, g in gradients.items() if g is None or not g.abs().sum() > 0]
    # The last layer's embedding feeds the QIM, whose query is used only in the clip's second frame.
    assert not [name for name in without if name.startswith("qim.") and name.endswith("weight")]
    for parameter in quantised.parameters():
        parameter.grad = None


def test_config_of_the_training(config: Config) -> None:
    train = qat_config(replace(config, qat=replace(config.qat, steps=10, lr=3e-4, clip_frames=2))).train
    assert (train.steps, train.lr, train.clip_frames, train.bf16) == (10, 3e-4, (2,), False)
    assert (train.schedule, train.step_milestones, train.warmup) == ("step", (0.5,), 0.0)


def test_train_freezes_and_refreshes(
    quantised: QuantizedMotr, config: Config, store: FrameStore, tmp_path: Path
) -> None:
    config = replace(config, qat=replace(config.qat, steps=4, clip_frames=2, freeze_observers=0.5), num_workers=0)
    config = replace(config, train=replace(config.train, frames_per_step=4))
    batches_before = float(next(m for m in quantised.fake_quantizers() if _observed(m)).batches)
    result = train_qat(quantised, store, config, tmp_path)
    assert result.steps == 4
    assert len(result.curve.read_text().splitlines()) == 5
    batches = float(next(m for m in quantised.fake_quantizers() if _observed(m)).batches)
    assert batches == batches_before + 2 * 2  # two steps of two frames, then frozen
    for module, weight in _weights(quantised):
        assert torch.equal(module.scale, (weight.abs().flatten(1).amax(1) / 127).clamp(min=1e-6))
    loaded = QuantizedMotr.load(config, tmp_path / "model.safetensors")
    for name, value in quantised.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


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
    calls = iter(range(3))

    def killed(*arguments: Any) -> ClipLoss:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return qat_loss(*arguments)

    monkeypatch.setattr("motrlab.quantization.qat.qat_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        train_qat(quantised, store, config, tmp_path / "killed")
    monkeypatch.undo()
    quantised.load_state_dict(start)
    resumed = train_qat(quantised, store, config, tmp_path / "killed")
    assert resumed.curve.read_text().splitlines()[-1] == straight.curve.read_text().splitlines()[-1]
    for name, value in quantised.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_refresh_brings_weight_scales_up_to_date(quantised: QuantizedMotr) -> None:
    with torch.no_grad():
        quantised.base.get_parameter("backbone.stem.0.weight").mul_(2)
    scales = {n: v.clone() for n, v in quantised.state_dict().items() if n.endswith("scale")}
    refresh_weight_scales(quantised)
    moved = [n for n, v in quantised.state_dict().items() if n.endswith("scale") and not torch.equal(v, scales[n])]
    assert len(moved) == 1
    assert quantised.current_mode == "evaluate"


def _observed(module: torch.nn.Module) -> bool:
    return isinstance(module, FakeQuantize) and module.fixed_scale is None


def _weights(quantised: QuantizedMotr) -> list[tuple[PerChannelFakeQuantize, torch.Tensor]]:
    found = []
    for graph in (quantised.base, quantised.qim):
        for node in graph.graph.nodes:
            if node.op == "call_module" and isinstance(graph.get_submodule(node.target), PerChannelFakeQuantize):
                found.append((graph.get_submodule(node.target), graph.get_parameter(node.args[0].target)))
    return found


def test_float_training_of_the_same_steps_leaves_the_quantisers_alone(
    quantised: QuantizedMotr, config: Config, store: FrameStore, tmp_path: Path
) -> None:
    config = replace(config, qat=replace(config.qat, steps=2, clip_frames=2), num_workers=0)
    config = replace(config, train=replace(config.train, frames_per_step=4))
    start = {name: value.clone() for name, value in quantised.state_dict().items()}
    train_qat(quantised, store, config, tmp_path, quantise=False)
    assert quantised.current_mode == "float"
    changed = {name for name, value in quantised.state_dict().items() if not torch.equal(value, start[name])}
    assert "base.backbone.stem.0.weight" in changed
    assert not [name for name in changed if name.endswith(("scale", "batches"))]


def test_distillation_is_nothing_for_the_teacher_itself(
    quantised: QuantizedMotr, config: Config, float_model: Motr, clip_batch: ClipBatch
) -> None:
    config = quiet(qat_config(replace(config, qat=replace(config.qat, distill=2.0))))
    rngs = [np.random.default_rng(0)] * 8
    distances = {}
    for mode in ("float", "train_frozen"):
        quantised.mode(mode)
        loss = qat_loss(quantised, clip_batch, config, rngs, float_model)
        without = qat_loss(quantised, clip_batch, replace(config, qat=replace(config.qat, distill=0.0)), rngs)
        distances[mode] = float(loss.terms["distill"].sum())
        assert float(loss.total.detach()) == pytest.approx(float(without.total.detach()) + distances[mode], rel=1e-4)
    assert distances["float"] < 1e-3 * distances["train_frozen"]


def test_distillation_reaches_both_graphs_and_not_the_teacher(
    quantised: QuantizedMotr, config: Config, float_model: Motr, clip_batch: ClipBatch
) -> None:
    quantised.mode("train_frozen")
    graphs = DistillingGraphs(quantised.graphs, float_model, config.train)
    train = quiet(qat_config(config)).train
    clip_loss(
        graphs,
        clip_batch.images.unbind(0),
        clip_objects(clip_batch),
        config.model,
        train,
        [np.random.default_rng(0)] * 8,
    )
    assert isinstance(graphs.total, torch.Tensor)
    graphs.total.backward()
    for name in ("base.backbone.stem.0.weight", "qim.attention.query.weight"):
        assert quantised.get_parameter(name).grad.abs().sum() > 0, name
    assert all(p.grad is None for p in float_model.parameters())
    for parameter in quantised.parameters():
        parameter.grad = None
