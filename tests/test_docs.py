"""Pages: every command parses, every link inside the repository leads somewhere, words are plain."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from motrlab.__main__ import _parser
from motrlab.pipeline import NOTEBOOKS, find_notebook, parse_parameters
from motrlab.report.html import PAGES as REPORT_PAGES
from motrlab.report.numbers import SAMPLE, readme_block, stored_block

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
UNUSUAL = ("is had from", "mend", "anew", "be had", "henceforth", "thereof", "herein", "whilst")


def fenced(text: str) -> Iterator[str]:
    """Lines of code blocks without their comments; what ends in a backslash goes on."""
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+#.*$", "", line).strip()
            if command and not command.startswith("#"):
                yield command


COMMANDS = sorted({(page.name, c) for page in PAGES for c in fenced(page.read_text(encoding="utf-8"))})
OURS = [(page, c) for page, c in COMMANDS if "-m motrlab " in c or c.startswith("motrlab ")]


def test_there_are_commands() -> None:
    assert len(OURS) >= 15


@pytest.mark.parametrize(("page", "command"), OURS, ids=lambda value: str(value)[:60])
def test_every_command_of_ours_parses(page: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(re.sub(r"^.*?-m motrlab |^motrlab ", "", command.partition(" | ")[0]))
    words = [word.partition("|")[0] for word in words]  # `VIDEO|DIR`: the first
    try:
        _, rest = _parser().parse_known_args(words)
    except SystemExit as stopped:
        pytest.fail(f"{page}: {command}: {stopped.code} {capsys.readouterr().err}")
    assert not rest, f"{page}: {command}: {rest}"


@pytest.mark.parametrize(("page", "command"), [c for c in COMMANDS if "papermill " in c[1]], ids=str)
def test_every_papermill_command_names_a_notebook_and_its_parameters(page: str, command: str) -> None:
    words = shlex.split(command.rpartition("papermill ")[2])
    name = find_notebook(Path(words[0]).stem)
    cell = next(
        c for c in nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells if c.cell_type == "code"
    )
    known = {line.partition(":")[0]: "" for line in cell.source.splitlines()}
    given = [words[i + 1] for i, word in enumerate(words) if word == "-p"]
    assert set(given) <= set(known), f"{page}: {command}"
    parse_parameters([], {name: known})


def test_every_make_command_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    asked = {
        word for _, c in COMMANDS if c.startswith("make ") for word in c.split()[1:] if re.fullmatch("[a-z-]+", word)
    }
    assert asked <= targets
    assert {"demo", "test"} <= asked


def test_every_benchmark_that_is_named_is_there() -> None:
    for page in PAGES:
        for name in re.findall(r"`?(?:benchmarks/)(\w+\.py)", page.read_text(encoding="utf-8")):
            if page.name != "LOG.md":  # the log names what was there then
                assert (ROOT / "benchmarks" / name).is_file(), f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_repository_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "LOG.md"], ids=lambda page: page.name)
def test_words_are_the_usual_ones(page: Path) -> None:
    text = page.read_text(encoding="utf-8").lower()
    found = [word for word in UNUSUAL if re.search(rf"\b{word}\b", text)]
    assert not found or page.name == "CONTRIBUTING.md", found


def test_headline_of_the_readme_is_that_of_the_sample_report() -> None:
    """`python -m motrlab report --readme` writes it."""
    found = json.loads((ROOT / SAMPLE).read_text(encoding="utf-8"))
    block = stored_block((ROOT / "README.md").read_text(encoding="utf-8"))
    assert block == readme_block(found)
    for title, scores in found["scores"].items():  # told in the sample's own pages, too
        page = (ROOT / SAMPLE).with_name("accuracy.html").read_text(encoding="utf-8")
        assert f"{100 * scores['mota']:.2f}".replace("-", "−") in page, title


def test_sample_report_is_whole() -> None:
    folder = (ROOT / SAMPLE).parent
    assert {page.file for page in REPORT_PAGES} <= {path.name for path in folder.iterdir()}
    for path in folder.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert len(text.encode()) < 2_000_000, path
        assert "default-src 'none'" in text, path
        for link in re.findall(r'<a href="([^"#:]+)"', text):
            assert (path.parent / link).is_file(), f"{path}: {link}"
    commit = json.loads((ROOT / SAMPLE).read_text(encoding="utf-8"))["git_commit"]
    assert commit[:12] in (folder / "index.html").read_text(encoding="utf-8")


def test_every_notebook_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"notebooks/{name}.ipynb" in text for name in NOTEBOOKS)
