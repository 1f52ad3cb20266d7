from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from motrlab.errors import UserError
from motrlab.notebook import begin, check_parameters
from motrlab.run import Run

Namespace = dict[str, Any]


def namespace(injected: str = "", **values: Any) -> Namespace:
    """What a kernel holds after the parameters cell, and after papermill's cell where there is one."""
    annotations = {"run": str, "preset": str, "lr": float, "steps": int, "stages": list[str], "resume": bool | None}
    own = {"run": "demo", "preset": "", "lr": 1e-3, "steps": 6, "stages": ["float"], "resume": None}
    cells = ["", 'run: str = "demo"'] + [f"# Parameters\n{injected}"] * bool(injected) + ["lab = begin(globals())"]
    return {"__annotations__": annotations, "In": cells, "Out": {}, "np": pytest, **own, **values}


def test_begin_opens_the_run(home: Path) -> None:
    assert begin(namespace()) == Run.open("demo", "smoke")


def test_begin_takes_a_preset(home: Path) -> None:
    assert begin(namespace(preset="street")).config.preset == "street"
    with pytest.raises(UserError, match="made with preset 'street', not 'smoke'"):
        begin(namespace(preset="smoke"))


def test_whole_numbers_become_floats(home: Path) -> None:
    values = namespace('lr = 1\nrun = "demo"', lr=1)
    begin(values)
    assert values["lr"] == 1.0
    assert isinstance(values["lr"], float)


def test_words_of_yaml_are_taken(home: Path) -> None:
    """`papermill -p resume true` hands over a text."""
    values = namespace('resume = "true"\npreset = "null"', resume="true", preset="smoke")
    begin(values)
    assert values["resume"] is True


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": "fast"}, "parameter 'lr' must be float, not 'fast'"),
        ({"lr": True}, "parameter 'lr' must be float, not True"),
        ({"steps": 1.5}, "parameter 'steps' must be int, not 1.5"),
        ({"steps": True}, "parameter 'steps' must be int, not True"),
        ({"stages": "float"}, "parameter 'stages' must be list, not 'float'"),
        ({"lr": "true"}, "parameter 'lr' must be float, not True"),
        ({"resume": 1}, "parameter 'resume' must be bool or NoneType, not 1"),
        ({"run": 12}, r"parameter 'run' must be str, not 12 \(int\); with papermill, `-r run 12`"),
        ({"run": "../up"}, "run name '../up'"),
        ({"injected": "lrr = 1"}, "unknown parameter 'lrr': this notebook has run, preset, lr, steps, stages, resume"),
    ],
)
def test_wrong_parameters(home: Path, values: Namespace, message: str) -> None:
    with pytest.raises(UserError, match=message):
        begin(namespace(**values))


def test_own_variables_are_no_parameters(home: Path) -> None:
    """The cell may be run again after later cells have made variables and `run` has become a Run."""
    values = namespace("lr = 0.5", lr=0.5, losses=[1, 2], note="x")
    values["run"] = begin(values)
    assert begin(values) == values["run"]


def test_parameters_cell_must_come_first(home: Path) -> None:
    with pytest.raises(UserError, match="must declare `run: str`"):
        begin({})


def test_check_parameters() -> None:
    check_parameters(["a", "b"], ["b"])
    with pytest.raises(UserError, match="unknown parameter 'c': this notebook has a, b"):
        check_parameters(["a", "b"], ["a", "c"])
