"""What all pages of a report have in common: one template, filled from a run's records that count."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from motrlab.report import data, provenance
from motrlab.report.blocks import Section, Source

_TEMPLATES = Path(__file__).parent / "templates"
Card = dict[str, str]  # label, value, note, tone: a number that stands large at the top


@dataclass(frozen=True)
class Page:
    """A page: a section by each name, `headline` a sentence that says what came out, `cards` its numbers.

    `script`: a file of `templates/` that is written into the page; without it, as on paper, everything can be read.
    """

    file: str
    title: str
    sections: Mapping[str, Callable[[Source], Section]]
    headline: Callable[[Source], str]
    cards: Callable[[Source], Sequence[Card]]
    script: str = ""


def page_html(page: Page, source: Source, pages: Mapping[str, str] | None = None) -> str:
    """The page as text; `pages` are others beside it, title → file. What has not been measured is named as missing."""
    sections = {name: section(source) for name, section in page.sections.items()}
    return render_page(
        source.run.name,
        f"{page.title.lower()} · preset {source.run.config.preset} · {data.data_source(source)}",
        sections,
        preset=source.run.config.preset,
        pages=pages or {},
        headline=page.headline(source),
        cards=page.cards(source),
        stale=provenance.stale(source.run),
        missing=[text for section in sections.values() for text in section.missing],
        script=(_TEMPLATES / page.script).read_text(encoding="utf-8") if page.script else "",
    )


def render_page(title: str, kicker: str, sections: Mapping[str, Section], **more: Any) -> str:
    """A page of sections as text. `more`: `headline`, `cards`, `stale`, `missing`, `preset`, `pages` stand before them;
    `script` behind.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    values = {"headline": "", "cards": [], "stale": "", "missing": [], "preset": "", "pages": {}, "script": "", **more}
    values["script_hash"] = base64.b64encode(hashlib.sha256(values["script"].encode()).digest()).decode()
    return environment.get_template("page.html.j2").render(title=title, kicker=kicker, sections=sections, **values)
