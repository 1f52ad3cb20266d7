from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from motrlab.config import PRESETS, BackboneStage, Config, TrackerConfig, TrainConfig, load_preset, smoke, street
from motrlab.config.checks import counted_fields, later
from motrlab.errors import UserError


@pytest.mark.parametrize("name", PRESETS)
def test_round_trip_through_json(name: str) -> None:
    config = load_preset(name)
    assert config.preset == name
    again = Config.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.hash == config.hash


def test_round_trip_keeps_options_that_are_set() -> None:
    config = replace(street(), data_root="/data", sequences=("A", "B"), seed=4)
    again = Config.from_dict(config.to_dict())
    assert again == config
    assert isinstance(again.model.anchor_grid, tuple)
    assert isinstance(again.model.stages[0], BackboneStage)


def test_a_missing_field_with_a_default_gets_it() -> None:
    values = smoke().to_dict()
    del values["num_workers"], values["tracker"]["suppress_iou"]
    config = Config.from_dict(values)
    assert config.num_workers == 1
    assert config.tracker.suppress_iou is None


def test_hash_tells_configs_apart() -> None:
    config = smoke()
    others = [
        replace(config, seed=1),
        replace(config, tracker=replace(config.tracker, birth_score=0.41)),
        replace(config, model=replace(config.model, overlap_bias=False)),
        *(load_preset(name) for name in PRESETS if name != "smoke"),
    ]
    assert len({c.hash for c in (config, *others)}) == len(others) + 1
    assert len(config.hash) == 12
    assert int(config.hash, 16) >= 0


def test_a_field_that_came_later_does_not_count_at_its_default() -> None:
    """Hashes of runs, and of the shipped weights (tests/stages/test_shipping.py), stay what they were without it."""

    @dataclass(frozen=True)
    class Inner:
        x: int = 1
        y: int = later(2)

    @dataclass(frozen=True)
    class Outer:
        inner: Inner
        z: str | None = later(None)

    assert counted_fields(Outer(Inner())) == {"inner": {"x": 1}}
    assert counted_fields(Outer(Inner(1, 3), "a")) == {"inner": {"x": 1, "y": 3}, "z": "a"}
    config = smoke()
    still = replace(config, train=replace(config.train, still_share=0.5))
    assert "still_share" in config.to_dict()["train"], "in the file it stands"
    assert "still_share" not in counted_fields(config)["train"]
    assert len({c.hash for c in (config, still, replace(config, stills_root="/stills"))}) == 3


def test_channels_are_sines_and_cosines_of_both_axes() -> None:
    with pytest.raises(UserError, match=r"d_model \(18\) must be a multiple of twice num_heads, and of 4"):
        replace(street().model, d_model=18, num_heads=3)


def test_configs_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        smoke().tracker.birth_score = 0.1  # type: ignore[misc]


def broken(path: str, value: Any) -> dict[str, Any]:
    """The street preset as JSON with one field changed; `path` is dotted."""
    values = street().to_dict()
    *parents, last = path.split(".")
    inner: Any = values
    for parent in parents:
        inner = inner[int(parent)] if isinstance(inner, list) else inner[parent]
    inner[last] = value
    return values


BAD = {
    "unknown field": (broken("colour", 1), "config: unknown field 'colour'"),
    "unknown nested field": (broken("model.depth", 3), "config.model: unknown field 'depth'"),
    "even kernel": (broken("model.stages.0.kernel", 4), "kernel must be odd, not 4"),
    "stride of three": (broken("model.stages.0.stride", 3), "stride must be 1 or 2"),
    "no blocks": (broken("model.stages.0.blocks", 0), "blocks must be at least 1"),
    "heads do not divide": (broken("model.num_heads", 5), "multiple of twice num_heads"),
    "slots do not fill rows": (broken("model.num_track", 17), "num_track .17. must be a multiple of 8"),
    "no slots": (broken("model.num_detect", 0), "num_detect must be at least 1"),
    "clips without frames": (broken("train.clip_frames", [2, 0]), "clip_frames must be whole numbers from 1 on"),
    "half a frame": (broken("train.clip_frames", [2.5, 3]), "clip_frames"),
    "heads that are too wide": (broken("model.d_model", 2**16), "d_model / num_heads must be at"),
    "too many samples": (broken("model.decoder_points", 33), "encoder_points and decoder_points must be at most 32"),
    "grid of other size": (broken("model.anchor_grid", [3, 6]), "anchor_grid 3×6 must have num_detect cells"),
    "no decoder": (broken("model.decoder_layers", 0), "decoder_layers must be at least 1"),
    "prior of one": (broken("model.class_prior", 1), "class_prior must be between 0 and 1"),
    "score above one": (broken("tracker.birth_score", 1.2), "birth_score must be a fraction"),
    "miss above reset": (broken("tracker.miss_score", 0.9), "miss_score must not exceed reset_score"),
    "no misses": (broken("tracker.max_misses", 0), "max_misses must be at least 1"),
    "no steps": (broken("train.steps", 0), "steps must be at least 1"),
    "epochs do not fit": (broken("train.clip_epochs", [3, 4, 5]), "one of clip_epochs between clip lengths"),
    "epochs fall": (broken("train.clip_epochs", [3, -3]), "clip_epochs must be positive and increase"),
    "too much colour": (broken("train.colour_jitter", 5.0), "colour_jitter must be from 0 to 4"),
    "unknown word": (
        broken("train.below_visibility", "drop"),
        "below_visibility must be one of leave_out, ignore, not 'drop'",
    ),
    "milestones do not fit": (broken("train.clip_milestones", [0.1]), "one milestone between clip lengths"),
    "unknown schedule": (broken("train.schedule", "linear"), "schedule must be one of step, cosine, .*, not 'linear'"),
    "average of one": (broken("train.ema_decay", 1.0), "ema_decay must be at least 0 and below 1"),
    "no micro-batch": (broken("train.accumulate", 0), "accumulate must be at least 1"),
    "copies before the start": (broken("train.keep_every", -1), "keep_every must be at least 0"),
    "no checkpoints": (broken("train.checkpoint_every", 0), "checkpoint_every must be at least 1"),
    "no validation frames": (broken("train.validate_frames", 0), "validate_frames must be at least 1"),
    "statistics counted twice": (broken("train.checkpoint_frames", True), "checkpoint_frames needs freeze_bn"),
    "field of an earlier version": (broken("train.swap_probability", 0.0), "config.train: unknown field 'swap_prob"),
    "negative groups": (broken("train.denoising_groups", -1), "denoising_groups must be at least 0"),
    "negative rate": (broken("train.lr", -1.0), "lr must be positive"),
    "more stills than clips": (broken("train.still_share", 1.5), "still_share must be a fraction"),
    "probability above one": (broken("train.drop_probability", 1.1), "drop_probability must be a fraction"),
    "qat without steps": (broken("qat.steps", 0), "qat: steps must be at least 1"),
    "calibration without frames": (broken("calibration.num_frames", 0), "calibration: num_frames must be at least 1"),
    "negative seed": (broken("seed", -1), "config: seed must be at least 0, not -1"),
    "negative workers": (broken("num_workers", -1), "config: num_workers must be at least 0"),
    "negative seed of street": (broken("street.seed", -1), "street: seed must be at least 0"),
    "street without height": (broken("street.height", 0), "street: height must be at least 1"),
    "street of two frames": (broken("street.num_frames", 2), "at least four frames"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_in_one_line(name: str) -> None:
    values, message = BAD[name]
    with pytest.raises(UserError, match=message) as caught:
        Config.from_dict(values)
    assert "\n" not in str(caught.value)


def test_a_missing_field_is_named() -> None:
    values = smoke().to_dict()
    del values["train"]["steps"]
    with pytest.raises(UserError, match=r"config\.train.*'steps'"):
        Config.from_dict(values)


@pytest.mark.parametrize(
    "make", [lambda: TrackerConfig(birth_score=-0.1), lambda: TrainConfig(steps=1, clip_frames=(2,))]
)
def test_checks_hold_in_python_too(make: Any) -> None:
    with pytest.raises(UserError):
        make()


PRESET_FILE = """
from dataclasses import replace
from motrlab.config import smoke

def tiny():
    return replace(smoke(), seed=42)

def wrong():
    return {"seed": 42}

def failing():
    raise KeyError("lr")
"""


@pytest.fixture
def preset_file(tmp_path: Path) -> Path:
    file = tmp_path / "mine.py"
    file.write_text(PRESET_FILE)
    return file


def test_a_users_own_preset(preset_file: Path) -> None:
    config = load_preset(f"{preset_file}:tiny")
    assert config.seed == 42
    assert config.preset == f"{preset_file}:tiny"
    assert Config.from_dict(config.to_dict()) == config


BAD_PRESETS = {
    "unknown name": ("large", "unknown preset 'large': give one of smoke, street, mot17"),
    "no function": ("{file}", "unknown preset"),
    "empty function": ("{file}:", "unknown preset"),
    "no file": ("/nowhere/mine.py:tiny", "no file /nowhere/mine.py"),
    "no such function": ("{file}:large", "AttributeError"),
    "returns no Config": ("{file}:wrong", "wrong.. must return a motrlab.config.Config, not dict"),
    "raises": ("{file}:failing", "KeyError: 'lr'"),
}


@pytest.mark.parametrize("name", BAD_PRESETS)
def test_bad_presets(name: str, preset_file: Path) -> None:
    preset, message = BAD_PRESETS[name]
    with pytest.raises(UserError, match=message) as caught:
        load_preset(preset.format(file=preset_file))
    assert "\n" not in str(caught.value)


def test_departures_are_off_in_the_reference() -> None:
    """What a tiny image needs is a config field that is off in `mot17`."""
    model = load_preset("mot17").model
    assert (model.upsample, model.overlap_bias, model.relative_boxes, model.anchor_grid) == (False, False, False, None)
    assert (model.encoder_points, model.decoder_points) == (1, 1)
    assert not any(stage.fused for stage in model.stages)
    tracker = load_preset("mot17").tracker
    expected = TrackerConfig(
        birth_score=0.7, miss_score=0.6, reset_score=0.7, max_misses=5, output_score=0.7, min_area_px=100.0
    )
    assert tracker == expected
