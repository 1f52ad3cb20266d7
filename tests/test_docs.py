"""Pages: every link inside the repository leads somewhere, words are plain, numbers are those of the reports."""

from __future__ import annotations

import io
import json
import re
import tokenize
from collections import Counter
from pathlib import Path

import nbformat
import pytest

from motrlab.config import load_preset
from motrlab.pipeline import NOTEBOOKS
from motrlab.report.html import PAGES as REPORT_PAGES
from motrlab.report.numbers import SAMPLE, readme_block, stored_block
from tests.pages import ROOT, TEXTS, without_blocks

CODE = sorted([*(ROOT / "motrlab").rglob("*.py"), *(ROOT / "benchmarks").glob("*.py")])
TEMPLATES = sorted((ROOT / "motrlab" / "report" / "templates").iterdir())
# Words that learners of English have to look up, or old forms; each has a plain one: fix, again, missing, so, while.
UNUSUAL = re.compile(
    r"\b(mend(s|ed|ing)?|anew|gone|whilst|amongst|(is|are|was|were|be|been) had|hence(forth)?|hitherto|heretofore"
    r"|whence|thence|(here|there|where)(of|in|upon|with|unto|after)|wherefore|aforementioned|aforesaid|albeit|notwithstanding"
    r"|forthwith|erstwhile|naught|nought|betwixt)\b",
    re.I,
)


def anchors(text: str) -> set[str]:
    """`#anchors` of a page's headings, as GitHub makes them."""
    found: Counter[str] = Counter()
    slugs = set()
    for heading in re.findall(r"^#{1,6} +(.*?)[ #]*$", without_blocks(text), re.M):
        plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        slugs.add(slug if not found[slug] else f"{slug}-{found[slug]}")
        found[slug] += 1
    return slugs


def test_anchors_are_those_of_github() -> None:
    text = "# Speed, of `perf`\n```\n# no heading\n```\n## A [link](x.md)\n## Fixed-point: yes\n## A link\n"
    assert anchors(text) == {"speed-of-perf", "a-link", "fixed-point-yes", "a-link-1"}


def broken_links(page: Path, text: str) -> list[str]:
    """Targets inside the repository that are not there; of Markdown pages their headings, too."""
    broken = []
    for target in re.findall(r"\]\(<?([^)\s>]+)", re.sub(r"`[^`\n]+`", "", without_blocks(text))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        inside = file.resolve().is_relative_to(ROOT) and file.exists()
        if not inside or (anchor and anchor not in anchors(text if file == page else file.read_text(encoding="utf-8"))):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", TEXTS)
def test_links_inside_the_repository_resolve(page: str) -> None:
    assert broken_links(ROOT / page, TEXTS[page]) == []


def test_broken_links_are_found() -> None:
    text = "# Here\n[a](#here) [b](#there) [c](README.md#no-such) [d](docs/none.md) [e](https://x.org/#y) [f](LICENSE)"
    assert broken_links(ROOT / "README.md", text) == ["#there", "README.md#no-such", "docs/none.md"]


def told(code: str) -> str:
    """Comments and strings of Python code: what it says to readers and users."""
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    return "\n".join(token.string for token in tokens if token.type in kinds)


def unusual(text: str) -> list[str]:
    return [" ".join(text[max(0, m.start() - 40) : m.end() + 20].split()) for m in UNUSUAL.finditer(text)]


@pytest.mark.parametrize("page", TEXTS)
def test_words_of_pages_are_the_usual_ones(page: str) -> None:
    assert unusual(TEXTS[page]) == []


def test_words_of_the_code_are_the_usual_ones() -> None:
    """Of the package and the benchmarks; a variable may have any name."""
    texts = {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in [*CODE, *TEMPLATES]}
    suspects = {name: told(text) if name.endswith(".py") else text for name, text in texts.items() if unusual(text)}
    assert {name: found for name, text in suspects.items() if (found := unusual(text))} == {}


def test_unusual_words_are_found() -> None:
    assert len(unusual("It is to be had, mended anew; hence gone. Wherein? Therefore the recommended amendment.")) == 6
    assert unusual(told('gone = "x"  # whilst')) == ['"x" # whilst']


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


def test_messages_that_are_explained_are_said() -> None:
    """What stands between quotation marks in the first column; `…` is for what a message puts in."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| [^|]*\"([^|\"]+)\"", page, re.M)
    assert len(quoted) > 3
    code = "".join(file.read_text(encoding="utf-8") for file in CODE)
    for message in quoted:
        assert all(part in code for part in message.split("…")), message


def test_every_notebook_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"notebooks/{name}.ipynb" in text for name in NOTEBOOKS)


def test_every_benchmark_that_is_named_is_there() -> None:
    for page, text in TEXTS.items():
        for name in re.findall(r"`?(?:benchmarks/)(\w+\.py)", text):
            if page != "docs/LOG.md":  # the log names what was there then
                assert (ROOT / "benchmarks" / name).is_file(), f"{page}: {name}"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_stored_outputs_are_of_the_present_smoke_preset(name: str) -> None:
    """`make notebooks-outputs` stores them again."""
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    printed = "".join(o.get("text", "") for c in cells if c.cell_type == "code" for o in c.outputs)
    assert re.findall(r"preset smoke, config (\w+)", printed) == [load_preset("smoke").hash]


def test_sample_report_is_of_the_present_street_preset() -> None:
    """`make demo` makes it again."""
    assert json.loads((ROOT / SAMPLE).read_text(encoding="utf-8"))["config_hash"] == load_preset("street").hash
