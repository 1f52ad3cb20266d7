"""Fields by dotted names and texts, and the combinations of several values."""

from __future__ import annotations

import pytest

from motrlab.config import load_preset, street
from motrlab.config.fields import variants, with_fields
from motrlab.errors import UserError


@pytest.mark.parametrize(
    ("assignment", "path", "expected"),
    [
        ("train.lr=1e-3", "train.lr", 1e-3),
        ("train.lr=1", "train.lr", 1.0),
        ("seed=3", "seed", 3),
        ("train.clip_frames=(2,3,5)", "train.clip_frames", (2, 3, 5)),
        ("tracker.coast=false", "tracker.coast", False),
        ("tracker.suppress_iou=null", "tracker.suppress_iou", None),
        ("train.init=efficientnet-lite0", "train.init", "efficientnet-lite0"),
        ("train.init=12", "train.init", "12"),
        ("model.anchor_grid=[5, 8]", "model.anchor_grid", (5, 8)),
    ],
)
def test_values_have_the_type_of_their_field(assignment: str, path: str, expected: object) -> None:
    found: object = with_fields(street(), [assignment])
    for name in path.split("."):
        found = getattr(found, name)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("train.lrr=1", "train.lrr=1: no such field; did you mean train.lr"),
        ("lr=1", "no such field"),
        ("train=1", "no such field"),
        ("preset=smoke", "no such field"),
        ("train.steps.x=1", "no such field"),
        ("train.steps=many", "must be int, not 'many'"),
        ("train.steps=1.5", "must be int, not 1.5"),
        ("tracker.coast=1", "must be bool, not 1"),
        ("train.steps=0", "steps must be at least 1"),
    ],
)
def test_mistakes_are_one_line(assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        with_fields(street(), [assignment])
    assert "\n" not in str(caught.value)


def test_several_values_make_every_combination() -> None:
    assert variants([]) == [()]
    assert variants(["seed=0,1", "train.clip_frames=(2,3),(2,4)"]) == [
        ("seed=0", "train.clip_frames=(2,3)"),
        ("seed=0", "train.clip_frames=(2,4)"),
        ("seed=1", "train.clip_frames=(2,3)"),
        ("seed=1", "train.clip_frames=(2,4)"),
    ]
    with pytest.raises(UserError, match="write --set FIELD=VALUE"):
        variants(["train.lr"])
    nested = 'model.stages=[{"kernel": 3, "fused": true}, {"kernel": 5}]'
    assert variants([nested, "train.lr=(1)),2"]) == [(nested, "train.lr=(1))"), (nested, "train.lr=2")]


def test_every_field_of_every_preset_can_be_set_to_what_it_is() -> None:
    """A texts' way there and back, for all fields."""
    for name in ("street", "mot17"):
        config = load_preset(name)
        for section, value in config.to_dict().items():
            if isinstance(value, dict) and section != "scheme":
                for field, inner in value.items():
                    if field != "stages" and not (section == "calibration" and field == "sequences"):
                        text = "null" if inner is None else str(inner)
                        assert with_fields(config, [f"{section}.{field}={text}"]) == config, (section, field)
