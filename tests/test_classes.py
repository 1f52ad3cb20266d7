"""Which classes are tracked: as text, and between a file's numbers and a network's outputs."""

from __future__ import annotations

import numpy as np
import pytest

from motrlab.classes import PEOPLE, Classes
from motrlab.errors import UserError

TWO = Classes((1, 8), ("pedestrian", "statue"))


def test_text_reads_back() -> None:
    assert TWO.text == "1 pedestrian, 8 statue"
    assert Classes.parse(TWO.text, "here") == TWO
    assert Classes.parse("", "here") == Classes.parse("1 pedestrian", "here") == PEOPLE
    assert PEOPLE.text == ""
    assert Classes.parse("3 car", "here").text == "3 car"


@pytest.mark.parametrize("text", ["pedestrian", "1", "1 a, 1 b", "1 a, 2 a", "0 a", "1 a,", "-1 a"])
def test_what_names_no_classes_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"here: classes .*write each once"):
        Classes.parse(text, "here")


def test_numbers_of_files_and_outputs_of_the_network() -> None:
    assert TWO.kinds(np.array([8, 1, 3, 8])).tolist() == [1, 0, -1, 1]
    assert TWO.in_file(np.array([1, 0, 1])).tolist() == [8, 1, 8]
    assert PEOPLE.in_file(np.array([0, 0])).tolist() == [-1, -1]


def test_a_model_for_other_classes_is_refused() -> None:
    PEOPLE.check(1, "data")
    with pytest.raises(UserError, match=r"num_classes is 1, but data has 2 \(pedestrian, statue\); --set"):
        TWO.check(1, "data")
