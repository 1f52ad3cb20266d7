from __future__ import annotations

import io
import sys

import pytest

from motrlab.errors import tell


def test_words_on_the_way_are_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    tell("building")
    assert capsys.readouterr() == ("", "building\n")


def test_in_a_notebook_they_are_no_alarm(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    monkeypatch.setattr(sys, "stdout", stream)
    tell("building")
    assert stream.getvalue() == "building\n"
    assert capsys.readouterr().err == ""
