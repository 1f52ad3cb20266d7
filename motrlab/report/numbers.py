"""The report's main numbers as data: `numbers.json` beside it, and the README's headline, which is made of it.

python -m motrlab report --readme
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from motrlab.errors import UserError
from motrlab.evaluation.protocols import PROTOCOLS
from motrlab.files import write_text
from motrlab.names import EVALUATED, STAGE_TITLES
from motrlab.report import provenance, verdict
from motrlab.report.blocks import Source
from motrlab.report.values import COMPARED, METRIC_NAMES, number, overall, percent, scores

FILE = "numbers.json"
SAMPLE = Path("reports") / "sample" / FILE  # under the project root
_BLOCK = re.compile(r"(<!-- numbers:[^>]*-->\n).*?(<!-- /numbers -->)", re.S)
_UNSEEN = ", videos never trained on"
_BASELINE = "ByteTrack-style baseline on `det.txt`"


def text(source: Source) -> str:
    return json.dumps(numbers(source), indent=1) + "\n"


def numbers(source: Source) -> dict[str, Any]:
    """Scores as fractions, by stage, under the first protocol; milliseconds, megabytes, budgets; what made them."""
    records, run = source.records, source.run
    latency, integer = source.metrics("perf", "latency"), source.metrics("fixed_point", "integer")
    last: Mapping[str, Any] = records[-1] if records else {}
    rows = {STAGE_TITLES[s]: found for s, found in scores(records, EVALUATED, PROTOCOLS[0]).items()}
    unseen = scores(records, ("float", "fixed_point"), PROTOCOLS[0], "accuracy_unseen")
    rows |= {f"{STAGE_TITLES[s]}{_UNSEEN}": found for s, found in unseen.items()}
    for kind, where in (("baseline", ""), ("baseline_unseen", _UNSEEN)):
        if baseline := overall(source.last("data", kind), PROTOCOLS[0]):
            rows[f"{_BASELINE}{where}"] = baseline
    sizes = [number(integer.get(f"{graph}.size_mb")) for graph in ("base", "qim")]
    return {
        "schema": 1,
        "run": run.name,
        "preset": run.config.preset,
        "config_hash": run.config.hash,
        "seed": run.config.seed,
        "command": provenance.command(run),
        "git_commit": last.get("git_commit", ""),
        "git_dirty": any(r["git_dirty"] for r in records),
        "date": str(last.get("started", ""))[:10],
        "processor": last.get("hardware", {}).get("cpu", ""),
        "scores": {title: {m: found[m] for m in COMPARED if m in found} for title, found in rows.items()},
        "frame_ms": number(latency.get("step.total.p50_ms")),
        "base_speedup": number(latency.get("speedup")),
        "num_threads": latency.get("num_threads"),
        "size_mb": sum(s for s in sizes if s) if None not in sizes else None,
        "budgets": [
            {"name": v.name, "unit": v.unit, "budget": v.budget, "value": v.value} for v in verdict.verdicts(source)
        ],
    }


def readme_block(found: Mapping[str, Any]) -> str:
    """The headline as Markdown, of what `numbers.json` holds."""
    commit = found["git_commit"][:12] + " with uncommitted changes" * bool(found["git_dirty"])
    lines = [
        f"[The report](reports/sample/index.html) of `{found['command']}` on {found['date']}, commit {commit}, seed "
        f"{found['seed']} (test halves, percent, protocol `{PROTOCOLS[0]}`):",
        "",
        f"| stage | {' | '.join(METRIC_NAMES[m] for m in COMPARED)} |",
        "|---|" + "---|" * len(COMPARED),
    ]
    for title, scores_of in found["scores"].items():
        name = f"**{title}**" if title == STAGE_TITLES["fixed_point"] else title
        lines.append(f"| {name} | {' | '.join(percent(scores_of[m]) if m in scores_of else '–' for m in COMPARED)} |")
    told = [verdict.headline([verdict.Verdict(**budget, told="") for budget in found["budgets"]]).removesuffix(".")]
    if found["frame_ms"]:
        threads = f"{found['num_threads']} thread{'s' * (found['num_threads'] != 1)}"
        told.append(f"a frame takes {found['frame_ms']:.1f} ms on {threads} of {found['processor']}")
    if found["base_speedup"]:
        told.append(f"the base graph is {found['base_speedup']:.2f} times as fast as in fp32")
    if found["size_mb"]:
        told.append(f"both graphs take {found['size_mb']:.2f} MB")
    sentence = "; ".join(filter(None, told))
    return "\n".join([*lines, "", f"{sentence[:1].upper()}{sentence[1:]}.", ""])


def write_readme(root: Path) -> Path:
    """Put the headline of the sample report into `README.md`, between its two markers; its path. Raises UserError."""
    sample, readme = root / SAMPLE, root / "README.md"
    for file in (sample, readme):
        if not file.is_file():
            raise UserError(f"{file}: missing; `report --readme` works in a checkout with reports/sample")
    before = readme.read_text(encoding="utf-8")
    found = json.loads(sample.read_text(encoding="utf-8"))
    after, count = _BLOCK.subn(lambda m: f"{m[1]}{readme_block(found)}{m[2]}", before)
    if count != 1:
        raise UserError(f"{readme}: needs one block between <!-- numbers: … --> and <!-- /numbers -->; it has {count}")
    write_text(readme, after)
    return readme


def stored_block(readme: str) -> str:
    """The text between the markers; "" where there are none."""
    found = _BLOCK.search(readme)
    return found[0].removeprefix(found[1]).removesuffix(found[2]) if found else ""
