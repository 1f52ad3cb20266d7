"""What all pages of a report have in common: one template, filled from a run's records that count."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from motrlab.report import data, provenance
from motrlab.report.blocks import Section, Source

_TEMPLATES = Path(__file__).parent / "templates"
Card = dict[str, str]  # label, value, note, tone: a number shown large at the top


@dataclass(frozen=True)
class Page:
    """A page: a section by each name, `headline` a sentence that says what came out, `cards` its numbers.

    `script`: a file of `templates/` that is written into the page; without it, as on paper, everything can be read.
    `compact`: one screen, so no contents, and provenance is folded.
    """

    file: str
    title: str
    sections: Mapping[str, Callable[[Source], Section]]
    headline: Callable[[Source], str]
    cards: Callable[[Source], Sequence[Card]]
    script: str = ""
    compact: bool = False


def page_html(
    page: Page, source: Source, pages: Mapping[str, str] | None = None, notebooks: Mapping[str, str] | None = None
) -> str:
    """The page as text, provenance at its end; `pages` are others beside it, title → file, `notebooks` executed ones.

    What has not been measured is named as missing.
    """
    made = {name: section(source) for name, section in page.sections.items()}
    origin = provenance.section(source)
    if page.compact:
        origin = replace(origin, folded=provenance.command(source.run))
    sections = {**made, "Provenance": origin}
    return render_page(
        source.run.name,
        f"{page.title.lower()} · preset {source.run.config.preset} · {data.data_source(source)}",
        sections,
        preset=source.run.config.preset,
        kind=page.file.partition(".")[0],
        pages=pages or {},
        notebooks=notebooks or {},
        contents=() if page.compact else tuple(sections),
        headline=page.headline(source),
        cards=page.cards(source),
        stale=provenance.stale(source.run),
        missing=[text for section in sections.values() for text in section.missing],
        script=script(page.script),
    )


def script(name: str) -> str:
    """A script of `templates/`; "" for none."""
    return (_TEMPLATES / name).read_text(encoding="utf-8") if name else ""


def environment() -> jinja2.Environment:
    """The templates; what is put into them is escaped, and words between backticks are code."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["code"] = lambda text: Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
    return found


def render_page(title: str, kicker: str, sections: Mapping[str, Section], **more: Any) -> str:
    """A page of sections as text. `more`: `headline`, `cards`, `stale`, `missing`, `preset`, `pages`, `notebooks` and
    `contents` (the sections to list, default all) come before them, `script` after; `kind` is the page's class.
    """
    values = {"headline": "", "cards": [], "stale": "", "missing": [], "preset": "", "kind": "", **more}
    values = {"pages": {}, "notebooks": {}, "script": "", "contents": tuple(sections), **values}
    values["script_hash"] = base64.b64encode(hashlib.sha256(values["script"].encode()).digest()).decode()
    return environment().get_template("page.html.j2").render(title=title, kicker=kicker, sections=sections, **values)
