"""Files for tools and for citing: they parse, agree with each other, and their hooks do what they say."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import nbformat
import yaml

from tests.pages import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def parsed(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def hooks() -> dict[str, dict[str, Any]]:
    return {hook["id"]: hook for repo in parsed(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]}


def test_hooks_are_the_checks_of_make_lint_and_notebooks() -> None:
    assert list(hooks()) == ["ruff", "ruff-format", "mypy", "notebooks"]
    lint = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint:")[2].partition("\n\n")[0]
    in_make = {" ".join(words.split()[:2]) for words in re.findall(r"\$\(BIN\)/(.*)", lint)}
    assert in_make == {" ".join(hook["entry"].split()[:2]) for name, hook in hooks().items() if name != "notebooks"}


def test_notebooks_hook_takes_times_away_and_keeps_the_rest(tmp_path: Path) -> None:
    hook = hooks()["notebooks"]
    assert re.search(hook["files"], "notebooks/04_qat.ipynb")
    assert not re.search(hook["files"], "runs/demo/notebooks/04_qat.ipynb")
    times = {"execution": {"iopub.status.busy": "2026-11-28T12:00:00Z"}, "tags": ["parameters"]}
    cells = [nbformat.v4.new_code_cell("print(1)", metadata=times), nbformat.v4.new_markdown_cell("text")]
    book = nbformat.v4.new_notebook(cells=cells)
    files = [tmp_path / name for name in ("a.ipynb", "b.ipynb")]
    for file in files:
        nbformat.write(book, file)
    program, *words = shlex.split(hook["entry"])
    assert program == "python"
    subprocess.run([sys.executable, *words, *map(str, files)], check=True)
    del book.cells[0].metadata["execution"]
    assert [nbformat.read(file, as_version=4) for file in files] == [book, book]


def test_stored_notebooks_are_written_without_times() -> None:
    """By an option of the target that writes them; tags of cells stay."""
    target = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nnotebooks-outputs:")[2].partition("\n\n")[0]
    assert "ClearMetadataPreprocessor.enabled=True" in target
    assert "ClearMetadataPreprocessor.preserve_cell_metadata_mask=tags" in target


def test_citation_agrees_with_the_package() -> None:
    cited = parsed("CITATION.cff")
    assert (cited["cff-version"], cited["type"]) == ("1.2.0", "software")
    assert (cited["title"], cited["version"], cited["license"]) == tuple(
        PROJECT[key] for key in ("name", "version", "license")
    )
    released = re.findall(r"^## \[?(\d[\w.]*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert ("date-released" in cited) == (PROJECT["version"] in released)


def test_papers_are_cited_whole() -> None:
    papers = parsed("CITATION.cff")["references"]
    ids = [paper["url"].removeprefix("https://arxiv.org/abs/") for paper in papers]
    assert ids == ["2105.03247", "2010.04159", "2203.01305", "2110.06864", "2210.17323", "2009.07736"]
    for paper in papers:
        assert all(author.keys() == {"family-names", "given-names"} for author in paper["authors"]), paper["title"]
        assert len(paper["authors"]) >= 4
        assert 2020 <= paper["year"] <= 2023
